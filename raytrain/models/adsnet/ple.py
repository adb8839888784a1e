"""Experts shared and specific to each task, mixed by gates: CGC, and PLE where levels are stacked (Tang et al., RecSys 2020).

Each gate sees its own branch's input of that level, not the encoder's output again: from the second level on they differ.

Shapes: B rows, T tasks, I inputs, E outputs of an expert.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from raytrain.adsnet_config import BackboneSection
from raytrain.models.layers.mlp import mlp


class ExpertGroup(nn.Module):
    """One branch's experts, all over the same input."""

    def __init__(self, num_inputs: int, units: Sequence[int], num_experts: int) -> None:
        super().__init__()
        self.experts = nn.ModuleList(mlp(num_inputs, units[:-1], units[-1]) for _ in range(num_experts))

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """[B, I] -> [B, E] each."""
        return [torch.relu(expert(inputs)) for expert in self.experts]


class Cgc(nn.Module):
    """One level: T task branches and, unless it is the last, the shared one."""

    def __init__(self, num_inputs: int, num_tasks: int, section: BackboneSection, is_last: bool) -> None:
        super().__init__()
        units, num_own, num_shared = section.expert_units, section.task_experts, section.shared_experts
        self.tasks = nn.ModuleList(ExpertGroup(num_inputs, units, num_own) for _ in range(num_tasks))
        self.shared = ExpertGroup(num_inputs, units, num_shared)
        self.gates = nn.ModuleList(nn.Linear(num_inputs, num_own + num_shared, bias=False) for _ in range(num_tasks))
        # The last level's shared output would go nowhere.
        self.shared_gate = None if is_last else nn.Linear(num_inputs, num_tasks * num_own + num_shared, bias=False)

    def forward(self, branches: list[Tensor]) -> list[Tensor]:
        """T + 1 inputs [B, I], the shared one last -> as many outputs [B, E], at the last level T."""
        *tasks, shared = branches
        own = [group(inputs) for group, inputs in zip(self.tasks, tasks, strict=True)]
        common = self.shared(shared)
        mixed = [_mix(gate(inputs), [*experts, *common]) for gate, inputs, experts in zip(self.gates, tasks, own, strict=True)]
        if self.shared_gate is not None:
            everything = [expert for experts in own for expert in experts]
            mixed.append(_mix(self.shared_gate(shared), [*everything, *common]))
        return mixed


class Ple(nn.Module):
    """Levels of CGC over one input."""

    def __init__(self, num_inputs: int, num_tasks: int, section: BackboneSection) -> None:
        super().__init__()
        self.num_tasks = num_tasks
        widths = [num_inputs, *[section.expert_units[-1]] * (section.levels - 1)]
        self.levels = nn.ModuleList(
            Cgc(width, num_tasks, section, is_last=level == section.levels - 1) for level, width in enumerate(widths)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """[B, I] -> [B, T, E]."""
        branches = [inputs] * (self.num_tasks + 1)
        for level in self.levels:
            branches = level(branches)
        return torch.stack(branches, dim=1)


def _mix(scores: Tensor, experts: list[Tensor]) -> Tensor:
    """scores [B, number of experts] -> the experts' mean [B, E], weighted by the scores' softmax."""
    return torch.bmm(torch.softmax(scores, dim=1)[:, None], torch.stack(experts, dim=1))[:, 0]
