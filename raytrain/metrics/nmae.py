"""Mean absolute error over the mean label (google/lifetime_value's normalised MAE)."""

from typing import NamedTuple, Self

import numpy as np

from raytrain.metrics.logloss import Array, row_weights


def nmae(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Mean absolute error / mean label, both weighted; NaN when the labels sum to zero.

    prediction, label: [B], amounts. weight: [B] >= 0, all ones when None.
    """
    return AbsoluteErrorState.of(prediction, label, weight).value()


class AbsoluteErrorState(NamedTuple):
    """Weighted sums over rows; merging adds them."""

    absolute_error: float = 0.0
    label: float = 0.0

    @classmethod
    def of(cls, prediction: Array, label: Array, weight: Array | None = None) -> Self:
        weights = row_weights(weight, len(label))
        kept = weights != 0
        own, observed = weights[kept], np.asarray(label, dtype=np.float64)[kept]
        errors = np.asarray(prediction, dtype=np.float64)[kept] - observed
        return cls(float(np.sum(own * np.abs(errors))), float(np.sum(own * observed)))

    def merge(self, other: "AbsoluteErrorState") -> "AbsoluteErrorState":
        return AbsoluteErrorState(self.absolute_error + other.absolute_error, self.label + other.label)

    def value(self) -> float:
        return self.absolute_error / self.label if self.label else float("nan")
