"""Calibration as PCOC, predicted over observed: 1 is calibrated, above 1 the model promises too much."""

from typing import NamedTuple, Self

import numpy as np

from raytrain.metrics.logloss import Array, row_weights


def pcoc(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Sum of predictions over sum of labels, both weighted; NaN when the labels sum to zero.

    prediction, label: [B], probability and click, or two amounts. weight: [B] >= 0, all ones when None.
    """
    return CalibrationState.of(prediction, label, weight).value()


class CalibrationState(NamedTuple):
    """Weighted sums over rows; merging adds them."""

    prediction: float = 0.0
    label: float = 0.0

    @classmethod
    def of(cls, prediction: Array, label: Array, weight: Array | None = None) -> Self:
        weights = row_weights(weight, len(label))
        kept = weights != 0
        # Padding may hold anything, NaN too, so it is left out and not multiplied by zero.
        predicted = np.asarray(prediction, dtype=np.float64)[kept]
        observed = np.asarray(label, dtype=np.float64)[kept]
        return cls(float(np.sum(weights[kept] * predicted)), float(np.sum(weights[kept] * observed)))

    def merge(self, other: "CalibrationState") -> "CalibrationState":
        return CalibrationState(self.prediction + other.prediction, self.label + other.label)

    def value(self) -> float:
        return self.prediction / self.label if self.label else float("nan")
