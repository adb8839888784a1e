"""Normalised entropy: log loss over the entropy of the base rate (He et al., ADKDD 2014); below 1 beats a constant.

It has no state of its own: it is a function of ``LogLossState`` and ``CalibrationState``, which merge.
"""

import math

from raytrain.metrics.calibration import CalibrationState
from raytrain.metrics.logloss import Array, LogLossState


def ne(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Log loss over the entropy of the weighted mean label; NaN unless both classes are there.

    prediction: [B], a probability. label: [B] in [0, 1]. weight: [B] >= 0, all ones when None.
    """
    return normalised_entropy(LogLossState.of(prediction, label, weight), CalibrationState.of(prediction, label, weight))


def normalised_entropy(log_loss: LogLossState, calibration: CalibrationState) -> float:
    """The same of merged states, which have to cover the same rows."""
    base_rate = calibration.label / log_loss.weight if log_loss.weight else float("nan")
    if not 0 < base_rate < 1:
        return float("nan")
    entropy = -(base_rate * math.log(base_rate) + (1 - base_rate) * math.log1p(-base_rate))
    return log_loss.value() / entropy
