"""Rows sorted once by a score, so that their ranks under any weighting cost one cumulative sum.

A row's *centred rank* is the weight of the rows scored below it less the weight of those scored above it: rows tied with it count
nowhere, so ties are averaged, equal scores give exactly 0, and a weighted sum of centred ranks is 0. Up to a factor it is the
midrank less its mean, which is all that Gini and Spearman ask of a prediction.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from raytrain.metrics.logloss import Array


@dataclass(frozen=True)
class Ranking:
    """The order of [B] scores."""

    order: npt.NDArray[np.intp]
    """[B] index of each row's weight, by ascending score"""
    num_below: npt.NDArray[np.intp]
    """Rows scored below each row that a rank is asked of: [B], or fewer"""
    num_through: npt.NDArray[np.intp]
    """Rows scored below it or tied with it, itself among them"""

    @classmethod
    def of(cls, score: Array) -> Self:
        """Ranks [B] scores; they must not be NaN."""
        order = np.argsort(score, kind="stable")
        ranked = score[order]
        num_below, num_through = np.empty_like(order), np.empty_like(order)
        # Sorted needles make the binary searches walk memory in order.
        num_below[order] = np.searchsorted(ranked, ranked, side="left")
        num_through[order] = np.searchsorted(ranked, ranked, side="right")
        return cls(order, num_below, num_through)

    def centred(self, weight: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Centred rank, float64, of each row that it is asked of. weight: >= 0, where ``order`` looks it up."""
        through = np.concatenate([np.zeros(1), np.cumsum(weight[self.order])])
        ranks: npt.NDArray[np.float64] = through[self.num_below] + through[self.num_through] - through[-1]
        return ranks
