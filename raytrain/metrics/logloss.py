"""Log loss: mean cross-entropy of a probability, in nats."""

from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CLIP = 1e-7
"""Predictions are held this far from 0 and 1 (our choice), so that one sure and wrong row costs 16.1 nats, not infinity."""


def logloss(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Weighted mean of the rows' cross-entropy; NaN without rows.

    prediction: [B], a probability. label: [B] in [0, 1]; outside it the loss is undefined, hence NaN.
    weight: [B] >= 0, all ones when None.
    """
    return LogLossState.of(prediction, label, weight).value()


def row_losses(prediction: Array, label: Array) -> npt.NDArray[np.float64]:
    """Cross-entropy of each row: float64 [B]."""
    # A NaN passes through clip, so it reaches the result instead of being scored.
    probability = np.clip(np.asarray(prediction, dtype=np.float64), CLIP, 1 - CLIP)
    target = np.asarray(label, dtype=np.float64)
    losses = -(target * np.log(probability) + (1 - target) * np.log1p(-probability))
    return np.where((target >= 0) & (target <= 1), losses, np.nan)


def row_weights(weight: Array | None, num_rows: int) -> npt.NDArray[np.float64]:
    """The weights in float64, or ones: float64 [B]."""
    return np.ones(num_rows) if weight is None else np.asarray(weight, dtype=np.float64)


class LogLossState(NamedTuple):
    """Sums over rows; merging adds them."""

    loss: float = 0.0
    weight: float = 0.0

    @classmethod
    def of(cls, prediction: Array, label: Array, weight: Array | None = None) -> Self:
        weights = row_weights(weight, len(label))
        kept = weights != 0
        losses = row_losses(np.asarray(prediction)[kept], np.asarray(label)[kept])
        return cls(float(np.sum(weights[kept] * losses)), float(np.sum(weights)))

    def merge(self, other: "LogLossState") -> "LogLossState":
        return LogLossState(self.loss + other.loss, self.weight + other.weight)

    def value(self) -> float:
        return self.loss / self.weight if self.weight else float("nan")
