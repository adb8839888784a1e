"""Batch norm whose moments are those of the whole batch's weighted rows, whatever the number of ranks.

``torch.nn.SyncBatchNorm`` refuses CPU tensors, and counts padded and rejected rows. Moments of ranks are merged by Chan, Golub and
LeVeque (1983), which loses no digits where the mean is large. Shapes: B rows of this rank, F features, R ranks.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from raytrain.models.layers.across_ranks import AcrossRanks

Reset = Literal["keep", "reset_statistics", "reset"]


class WeightedBatchNorm(nn.Module):
    """A row of weight 0 counts in no moment; one of weight 2 as two rows."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        """``momentum``: the share of a batch in the running moments, as in ``torch.nn.BatchNorm1d``."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.across = AcrossRanks()
        self._eps, self._momentum = eps, momentum

    def forward(self, inputs: Tensor, row_weight: Tensor) -> Tensor:
        """inputs [B, F], row_weight [B] -> [B, F]. A collective while training."""
        mean, var = self._moments(inputs, row_weight) if self.training else (self.running_mean, self.running_var)
        return (inputs - mean) * torch.rsqrt(var + self._eps) * self.weight + self.bias

    def _moments(self, inputs: Tensor, row_weight: Tensor) -> tuple[Tensor, Tensor]:
        """([F] mean, [F] variance) of all ranks' rows; the running ones take them in."""
        weight = row_weight[:, None]
        total = weight.sum()
        mean = (weight * inputs).sum(0) / total.clamp(min=1e-12)
        squares = (weight * (inputs - mean).square()).sum(0)
        gathered = self.across(torch.cat([total[None], mean, squares])[None])  # [R, 1 + 2 F]
        totals, means, parts = gathered.split([1, inputs.shape[1], inputs.shape[1]], dim=1)
        count = totals.sum()
        mean = (totals * means).sum(0) / count.clamp(min=1e-12)
        squares = (parts + totals * (means - mean).square()).sum(0)
        with torch.no_grad():
            # A batch without rows says nothing; the running variance is unbiased, as torch's.
            share = torch.where(count > 0, self._momentum, 0.0)
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(squares / (count - 1.0).clamp(min=1.0), share)
        return mean, squares / count.clamp(min=1e-12)

    @torch.no_grad()
    def reinitialise(self, affine: bool) -> None:
        """Forgets the running moments; ``affine``: scale and shift too."""
        self.running_mean.zero_()
        self.running_var.fill_(1.0)
        if affine:
            self.weight.fill_(1.0)
            self.bias.zero_()


class BatchNormHead(nn.Module):
    """Linear layers with batch norm, PReLU and dropout after each hidden one."""

    def __init__(self, num_inputs: int, hidden_units: Sequence[int], input_dropout: float, dropout: float) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.linear, self.norm, self.activation = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for units in hidden_units:
            # The norm takes a bias out again.
            self.linear.append(nn.Linear(num_inputs, units, bias=False))
            self.norm.append(WeightedBatchNorm(units))
            self.activation.append(nn.PReLU())
            num_inputs = units
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(num_inputs, 1)

    def forward(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """inputs [B, I], weight [B] -> [B, 1]. A collective while training."""
        hidden = self.input_dropout(inputs)
        for linear, norm, activation in zip(self.linear, self.norm, self.activation, strict=True):
            hidden = self.dropout(activation(norm(linear(hidden), weight)))
        logit: Tensor = self.output(hidden)
        return logit


def reset_batch_norm(network: nn.Module, mode: Reset) -> None:
    """What a network that starts from another's weights does with its batch norm, for rows of another distribution."""
    for module in network.modules():
        if mode != "keep" and isinstance(module, WeightedBatchNorm):
            module.reinitialise(affine=mode == "reset")
