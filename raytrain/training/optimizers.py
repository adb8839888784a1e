"""The dense optimizer and the schedule that scales its rate and the tables' together."""

import math

import torch
from torch import Tensor, nn

from raytrain.training_config import OptimizerSection


def dense_optimizer(section: OptimizerSection, network: nn.Module) -> torch.optim.Optimizer:
    """Of the parameters that are trained. Weight decay is kept off biases and scores of side information (one-dimensional ones)."""
    trained = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() > 1]
    plain = [p for p in trained if p.dim() <= 1]
    groups = [{"params": decayed, "weight_decay": section.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    kinds: dict[str, type[torch.optim.Optimizer]] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "adagrad": torch.optim.Adagrad,
        "sgd": torch.optim.SGD,
    }
    return kinds[section.name](groups, lr=section.lr)  # type: ignore[call-arg]


def copy_state(optimizer: torch.optim.Optimizer, giver: nn.Module, receiver: nn.Module) -> None:
    """What ``optimizer`` keeps of each of the giver's parameters becomes the receiver's, a module of the same shape."""
    state = optimizer.state
    for given, received in zip(giver.parameters(), receiver.parameters(), strict=True):
        for name, value in state[given].items() if given in state else ():
            state[received][name] = value.clone() if isinstance(value, Tensor) else value


def lr_share(section: OptimizerSection, step: int, num_steps: int) -> float:
    """The factor on every learning rate at ``step`` (0-based) of ``num_steps``: linear warmup, then the schedule."""
    if step < section.warmup_steps:
        return (step + 1) / section.warmup_steps
    done = (step - section.warmup_steps) / max(1, num_steps - section.warmup_steps)
    shape = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1.0 + math.cos(math.pi * done))}[section.schedule]
    if section.schedule == "constant":
        return 1.0
    return section.final_lr_share + (1.0 - section.final_lr_share) * shape
