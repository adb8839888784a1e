"""Normalised Gini: how much of the value a prediction puts on top, as a share of what the truth itself would.

Google's lifetime-value metrics sort by prediction and stop there: a constant prediction then scores whatever order the file is in,
up to 1, and a random one 1/n. Here every pair of rows counts once and a tie counts nothing (our choice):

    G(score) = sum_ij w_i w_j y_i sign(score_i - score_j)        normalised = G(prediction) / G(label)

It is 2 * AUC - 1 for labels of 0 and 1, 0 for a constant prediction, and Google's up to 1/n for untied rows.
"""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from raytrain.metrics.logloss import Array, row_weights
from raytrain.metrics.ranking import Ranking


def norm_gini(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Exact normalised Gini in [-1, 1], ties averaged; NaN when all labels are equal or a value is NaN.

    prediction: [B], any real score. label: [B] >= 0, amounts. weight: [B] >= 0, all ones when None.
    """
    weights = row_weights(weight, len(label))
    kept = weights != 0
    scores, amounts = np.asarray(prediction)[kept], np.asarray(label)[kept]
    if np.isnan(scores).any() or np.isnan(amounts).any():
        return float("nan")
    own = weights[kept]
    return GiniState.summed(amounts, own, Ranking.of(scores).centred(own), Ranking.of(amounts).centred(own)).value()


class GiniState(NamedTuple):
    """Sums over rows of value x centred rank; merging adds them, so the ranks have to be among all rows of the states merged."""

    by_prediction: float = 0.0
    by_label: float = 0.0

    @classmethod
    def summed(
        cls,
        label: Array,
        weight: npt.NDArray[np.float64],
        by_prediction: npt.NDArray[np.float64],
        by_label: npt.NDArray[np.float64],
    ) -> Self:
        """label, weight: [B]. by_prediction, by_label: centred ranks, [B]."""
        value = weight * label
        return cls(float(value @ by_prediction), float(value @ by_label))

    def merge(self, other: "GiniState") -> "GiniState":
        return GiniState(self.by_prediction + other.by_prediction, self.by_label + other.by_label)

    def value(self) -> float:
        return self.by_prediction / self.by_label if self.by_label else float("nan")
