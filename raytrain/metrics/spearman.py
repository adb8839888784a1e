"""Spearman's rank correlation of prediction and label, ties averaged (midranks): a robust companion of Gini.

A few rows can hold half of the value and with it half of Gini; here every row weighs the same.
"""

import math
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from raytrain.metrics.logloss import Array, row_weights
from raytrain.metrics.ranking import Ranking


def spearman(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Correlation of midranks in [-1, 1]; NaN when all labels are equal or a value is NaN.

    Equal predictions order nothing and score 0 (our choice; the correlation proper is undefined).
    prediction, label: [B], any real scores. weight: [B] >= 0, all ones when None.
    """
    weights = row_weights(weight, len(label))
    kept = weights != 0
    scores, amounts = np.asarray(prediction)[kept], np.asarray(label)[kept]
    if np.isnan(scores).any() or np.isnan(amounts).any():
        return float("nan")
    own = weights[kept]
    return SpearmanState.summed(own, Ranking.of(scores).centred(own), Ranking.of(amounts).centred(own)).value()


class SpearmanState(NamedTuple):
    """Moments of centred ranks; merging adds them, so the ranks have to be among all rows of the states merged."""

    product: float = 0.0
    by_prediction: float = 0.0
    by_label: float = 0.0

    @classmethod
    def summed(cls, weight: npt.NDArray[np.float64], by_prediction: npt.NDArray[np.float64], by_label: npt.NDArray[np.float64]) -> Self:
        """weight: [B]. by_prediction, by_label: centred ranks, [B]; their weighted means are 0."""
        weighted = weight * by_prediction
        return cls(float(weighted @ by_label), float(weighted @ by_prediction), float((weight * by_label) @ by_label))

    def merge(self, other: "SpearmanState") -> "SpearmanState":
        return SpearmanState(self.product + other.product, self.by_prediction + other.by_prediction, self.by_label + other.by_label)

    def value(self) -> float:
        if not self.by_label:
            return float("nan")
        # Each root by itself: the product of two sums of cubes of row counts would overflow first.
        return self.product / (math.sqrt(self.by_prediction) * math.sqrt(self.by_label)) if self.by_prediction else 0.0
