"""How often an item turns up as a negative, estimated while training: the q of the logQ correction.

Shapes: M items of a step.
"""

import torch
from torch import Tensor, nn


class ItemFrequency(nn.Module):
    """Decayed counts in hashed buckets, buffers that are saved with the network. After Yi et al., RecSys 2019, who keep the
    steps between two hits instead; counts are exact without collisions and need no initial rate (our choice). DDP hands rank 0's
    counts to all: with negatives of this rank alone, they are of rank 0's."""

    counts: Tensor
    total: Tensor

    def __init__(self, num_buckets: int, horizon_steps: int) -> None:
        """``horizon_steps``: steps after which a hit counts 1 / e."""
        super().__init__()
        self.register_buffer("counts", torch.zeros(num_buckets))
        self.register_buffer("total", torch.zeros(()))
        self.decay = 1.0 - 1.0 / horizon_steps

    @torch.no_grad()
    def add(self, ids: Tensor) -> None:
        """Counts a step's items, int64 [M]."""
        self.counts.mul_(self.decay).index_add_(0, self._buckets(ids), self.counts.new_ones(len(ids)))
        self.total.mul_(self.decay).add_(len(ids))

    def log_share(self, ids: Tensor) -> Tensor:
        """float32 [M]: the log of each item's share of what was counted; an item never counted gets that of half a hit."""
        return torch.log(self.counts[self._buckets(ids)].clamp(min=0.5) / self.total.clamp(min=1.0))

    def _buckets(self, ids: Tensor) -> Tensor:
        # Knuth's multiplicative hash, whose upper bits are the mixed ones.
        return ((ids * 2654435761) >> 15) % len(self.counts)
