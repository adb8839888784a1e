"""Batch norm whose moments are those of the whole batch's weighted rows, whatever the number of ranks.

``torch.nn.SyncBatchNorm`` refuses CPU tensors, and counts padded and rejected rows. Moments of ranks are merged by Chan, Golub and
LeVeque (1983), which loses no digits where the mean is large. Shapes: B rows of this rank, F features, R ranks.
"""

import torch
from torch import Tensor, nn

from raytrain.models.layers.across_ranks import AcrossRanks


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


class PartitionedNorm(nn.Module):
    """Batch norm with moments, scale and shift of each domain, and a scale and a shift that all share."""

    def __init__(self, num_domains: int, num_features: int) -> None:
        super().__init__()
        self.of = nn.ModuleList(WeightedBatchNorm(num_features) for _ in range(num_domains))
        self.scale = nn.Parameter(torch.ones(num_features))
        self.shift = nn.Parameter(torch.zeros(num_features))

    def forward(self, inputs: Tensor, weight: Tensor, domain: Tensor) -> Tensor:
        """inputs [B, F], weight [B], domain int64 [B] -> [B, F]. A collective while training."""
        outputs = inputs
        for number, norm in enumerate(self.of):
            is_own = domain == number
            outputs = torch.where(is_own[:, None], norm(inputs, weight * is_own), outputs)
        return outputs * self.scale + self.shift

    @torch.no_grad()
    def reinitialise(self, affine: bool) -> None:
        """What all domains share of ``WeightedBatchNorm.reinitialise``; each domain's own norm has its own."""
        if affine:
            self.scale.fill_(1.0)
            self.shift.zero_()
