"""Root mean squared error over the mean label (google/lifetime_value's normalised RMSE): a few large rows decide it."""

import math
from typing import NamedTuple, Self

import numpy as np

from raytrain.metrics.logloss import Array, row_weights


def nrmse(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """sqrt(mean squared error) / mean label, both weighted; NaN when the labels sum to zero.

    prediction, label: [B], amounts. weight: [B] >= 0, all ones when None.
    """
    return SquaredErrorState.of(prediction, label, weight).value()


class SquaredErrorState(NamedTuple):
    """Weighted sums over rows; merging adds them."""

    squared_error: float = 0.0
    label: float = 0.0
    weight: float = 0.0

    @classmethod
    def of(cls, prediction: Array, label: Array, weight: Array | None = None) -> Self:
        weights = row_weights(weight, len(label))
        kept = weights != 0
        own, observed = weights[kept], np.asarray(label, dtype=np.float64)[kept]
        errors = np.asarray(prediction, dtype=np.float64)[kept] - observed
        return cls(float(np.sum(own * errors**2)), float(np.sum(own * observed)), float(np.sum(own)))

    def merge(self, other: "SquaredErrorState") -> "SquaredErrorState":
        return SquaredErrorState(self.squared_error + other.squared_error, self.label + other.label, self.weight + other.weight)

    def value(self) -> float:
        return math.sqrt(self.squared_error * self.weight) / self.label if self.label else float("nan")
