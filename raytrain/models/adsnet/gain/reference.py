"""What held-out internal rows gain, or lose, by class of label: what other rows are compared with (our choice).

A row's gain and its loss follow its label far more than its slice: a slice of two thousand rows that by luck holds more who pay looks
better or worse by as much as real harm by a wrong scale. Compared with held-out rows of the same class of label, that luck is gone.

Shapes: B rows of this rank, C classes of labels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


class Reference:
    """Decayed sums of a figure of held-out rows, and of their weight, in every class. Ranks that add up ``sums_of`` keep one reference."""

    def __init__(self, label_edges: Sequence[float], decay: float, device: torch.device | None = None) -> None:
        """``label_edges``: upper ends of all classes but the last, ascending; ``decay``: what remains at the next look."""
        self._edges, self._decay = torch.tensor(label_edges, dtype=torch.float64, device=device), decay
        self.sums = torch.zeros(2, len(label_edges) + 2, dtype=torch.float64, device=device)
        """[2, C + 1], of the figure and of weight by class; last, of a row's distance from its class's mean and of weight"""

    def sums_of(self, figure: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        """What held-out rows of this rank, [B] each, add at a look: float64 [2, C + 1], to be summed over ranks."""
        weight = weight.double()
        # A row without weight may hold any number: its product with 0 has to be 0.
        figure = torch.where(weight > 0, figure.double(), 0.0)
        sums = torch.zeros_like(self.sums).index_add(1, self._classes(label), torch.stack([figure * weight, weight]))
        # From the means known before, which are the same on every rank; there are none at the first look.
        known = weight * self.is_known()
        sums[:, -1] = torch.stack([((figure - self.expected(label)).abs() * known).sum(), known.sum()])
        return sums

    def add(self, sums: Tensor) -> None:
        """``sums`` [2, C + 1] of all ranks' rows; all 0 at a step that looks at none."""
        self.sums = torch.where(sums[1].sum() > 0, self._decay, 1.0) * self.sums + sums

    def is_known(self) -> Tensor:
        """Whether any row has been looked at, bool, a scalar."""
        return self.sums[1, :-1].sum() > 0

    def mean(self) -> Tensor:
        """Over all rows, a scalar; 0 before the first look."""
        figure, weight = self.sums[:, :-1].sum(1).unbind()
        return figure / torch.where(weight > 0, weight, 1.0)

    def expected(self, label: Tensor) -> Tensor:
        """Mean of held-out rows of each label's class, float64 [B]; over all rows where a class has none."""
        return self._means()[self._classes(label)]

    def variance(self) -> Tensor:
        """Of a held-out row's class's mean, a scalar: how far one row's label moves what is expected of it."""
        weight = self.sums[1, :-1]
        return (weight / weight.sum().clamp(min=1e-30) * (self._means() - self.mean()).square()).sum()

    def spread(self) -> Tensor:
        """Mean distance of a held-out row from its class's mean, a scalar; NaN before the second look."""
        distance, weight = self.sums[:, -1].unbind()
        return distance / weight

    def _means(self) -> Tensor:
        figure, weight = self.sums[:, :-1]
        return torch.where(weight > 0, figure / weight.clamp(min=1e-30), self.mean())

    def _classes(self, label: Tensor) -> Tensor:
        return torch.bucketize(label.double(), self._edges)
