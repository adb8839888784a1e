"""How far the predicted total is from the true one: PCOC of amounts, the ratio of totals, turned into something with an order.

It has no state of its own: it is a function of ``CalibrationState``, which merges.
"""

from raytrain.metrics.calibration import CalibrationState
from raytrain.metrics.logloss import Array


def total_error(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """|sum of predictions / sum of labels - 1|, both weighted; NaN when the labels sum to zero.

    prediction, label: [B], amounts. weight: [B] >= 0, all ones when None.
    """
    return relative_total_error(CalibrationState.of(prediction, label, weight))


def relative_total_error(totals: CalibrationState) -> float:
    """The same of merged states."""
    return abs(totals.value() - 1)
