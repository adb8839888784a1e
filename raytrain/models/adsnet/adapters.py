"""The bridge from the gain network's representations to the vanilla network's (ADSNet, arXiv 2406.10517: an adapter layer and MSE
distillation at embedding and tower level; shape, direction and weights are our choice).

The vanilla network is the teacher, because it alone is free of external noise. Serving uses no adapter.

Shapes: B rows, I size of a representation.
"""

import torch
from torch import Tensor, nn


class ResidualAdapter(nn.Module):
    """A(h) = h + W2 relu(W1 h), the identity at start."""

    def __init__(self, dim: int, units: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(dim, units), nn.Linear(units, dim)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, representation: Tensor) -> Tensor:
        """[B, I] -> [B, I]."""
        moved: Tensor = representation + self.outer(torch.relu(self.inner(representation)))
        return moved

    def distance(self, gain: Tensor, vanilla: Tensor) -> Tensor:
        """Mean square of A(gain) - vanilla over the I numbers of each row, [B]; no gradient reaches ``vanilla``."""
        distance: Tensor = (self(gain) - vanilla.detach()).square().mean(1)
        return distance
