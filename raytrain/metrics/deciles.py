"""Calibration by decile: ten bins of equal weight by ascending prediction, and how far each bin's mean is off.

google/lifetime_value cuts the rows by quantiles of the prediction, which fails on ties. Here a run of tied rows that a boundary
cuts is shared out in proportion, which is the mean over every order of the run (our choice): the table depends neither on the
order of the rows nor on how they are spread over ranks, and equals Google's for untied rows whose number is a multiple of ten.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from raytrain.metrics.logloss import Array, row_weights
from raytrain.metrics.ranking import Ranking

NUM_BINS = 10


def decile_mape(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Mean over bins of |mean prediction - mean label| / mean label; NaN when all labels are 0 or a value is NaN.

    A bin whose labels sum to 0 has no relative error and is left out of the mean; ``DecileState`` shows what it predicts.
    prediction, label: [B], amounts. weight: [B] >= 0, all ones when None.
    """
    weights = row_weights(weight, len(label))
    kept = weights != 0
    predicted, observed = np.asarray(prediction)[kept], np.asarray(label)[kept]
    if np.isnan(predicted).any() or np.isnan(observed).any():
        return float("nan")
    return DecileState.of(predicted, observed, weights[kept]).mape()


@dataclass(frozen=True)
class DecileState:
    """Weighted sums by bin, ascending; merging adds them, so every state has to know where its rows stand among all."""

    prediction: npt.NDArray[np.float64]
    """[10]"""
    label: npt.NDArray[np.float64]
    """[10]"""
    weight: npt.NDArray[np.float64]
    """[10]"""

    @classmethod
    def of(
        cls, prediction: Array, label: Array, weight: npt.NDArray[np.float64], weight_below: float = 0.0, total: float | None = None
    ) -> Self:
        """Bins [B] NaN-free rows, of which all rows elsewhere are predicted either below or above.

        weight_below: of the rows elsewhere that are predicted below these. total: weight of all rows; None: these are all.
        """
        ranking = Ranking.of(prediction)
        order, own = ranking.order, weight[ranking.order]
        # Sums are known at the end of each run of ties and go straight between two ends: that shares a run out in proportion.
        ends = np.unique(ranking.num_through)
        position = weight_below + _running(own, ends)
        # In tenths of all weight, so that any number of ranks cuts at the same place.
        edges = np.arange(NUM_BINS + 1) * ((position[-1] if total is None else total) / NUM_BINS)

        def by_bin(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return np.diff(np.interp(edges, position, _running(values, ends)))

        return cls(by_bin(own * prediction[order]), by_bin(own * label[order]), by_bin(own))

    def merge(self, other: "DecileState") -> "DecileState":
        return DecileState(self.prediction + other.prediction, self.label + other.label, self.weight + other.weight)

    def means(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(mean prediction, mean label) of each bin, float64 [10] each; NaN without rows."""
        with np.errstate(invalid="ignore"):
            return self.prediction / self.weight, self.label / self.weight

    def mape(self) -> float:
        """Mean relative error of the bins whose labels sum to more than 0."""
        known = self.label > 0
        return float(np.mean(np.abs(self.prediction[known] / self.label[known] - 1))) if known.any() else float("nan")


def _running(values: npt.NDArray[np.float64], ends: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """0, then the sum of the values before each end."""
    return np.concatenate([np.zeros(1), np.cumsum(values)[ends - 1]])
