"""Area under the ROC curve, exact or from a histogram with its error bound.

AUC is the Mann-Whitney statistic: the weighted share of (positive, negative) pairs that the prediction puts in order,
a tie counting one half (Fawcett, Pattern Recognition Letters 27, 2006). A row is positive when its label is above 0.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from raytrain.metrics.logloss import CLIP, Array, row_weights


def auc(prediction: Array, label: Array, weight: Array | None = None) -> float:
    """Exact AUC; NaN when a class is missing or a prediction is NaN.

    prediction: [B], any real score. label: [B]. weight: [B] >= 0, all ones when None.
    """
    weights = row_weights(weight, len(label))
    kept = weights != 0
    scores = np.asarray(prediction)[kept]
    if np.isnan(scores).any():
        return float("nan")
    return RankedRows.of(scores, np.asarray(label)[kept]).auc(weights[kept])


@dataclass(frozen=True)
class RankedRows:
    """Rows sorted once, so that the AUC under another weighting costs one cumulative sum."""

    positives: npt.NDArray[np.intp]
    """Index of each positive row's weight."""
    negatives: npt.NDArray[np.intp]
    """Index of each negative row's weight, by ascending prediction."""
    num_below: npt.NDArray[np.intp]
    """Negatives predicted below each positive."""
    num_through: npt.NDArray[np.intp]
    """Negatives predicted below each positive or tied with it."""

    @classmethod
    def of(cls, prediction: Array, label: Array) -> Self:
        """Ranks [B] rows; predictions must not be NaN."""
        is_positive = label > 0
        positives = np.flatnonzero(is_positive)
        negatives = np.flatnonzero(~is_positive)
        # Sorted positives make the binary searches walk memory in order.
        positives = positives[np.argsort(prediction[positives])]
        negatives = negatives[np.argsort(prediction[negatives])]
        ranked = prediction[negatives]
        return cls(
            positives,
            negatives,
            np.searchsorted(ranked, prediction[positives], side="left"),
            np.searchsorted(ranked, prediction[positives], side="right"),
        )

    def pairs(self, weight: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        """(weight of ordered pairs, of positives, of negatives); integral weights give exact sums up to 2**52."""
        positive = weight[self.positives]
        negative = np.concatenate([np.zeros(1), np.cumsum(weight[self.negatives])])
        ordered = 0.5 * float(np.sum(positive * (negative[self.num_below] + negative[self.num_through])))
        return ordered, float(np.sum(positive)), float(negative[-1])

    def auc(self, weight: npt.NDArray[np.float64]) -> float:
        ordered, positive, negative = self.pairs(weight)
        return ordered / (positive * negative) if positive and negative else float("nan")


_LOGIT_LIMIT = float(np.log((1 - CLIP) / CLIP))


@dataclass(frozen=True)
class AucHistogram:
    """Weight of each class in bins uniform over the logit from -16.1 to 16.1; merging adds them.

    The logit is our choice: click rates crowd near 0, where bins uniform over probability would not tell them apart.
    Any monotone binning keeps the bound of ``error_bound`` true; scores outside [0, 1] only fall into the end bins.
    """

    positive: npt.NDArray[np.float64]
    """[num_bins]"""
    negative: npt.NDArray[np.float64]
    """[num_bins]"""

    @classmethod
    def of(cls, prediction: Array, label: Array, weight: Array | None, num_bins: int) -> Self:
        # A NaN has no bin; the suite answers NaN whenever there was one.
        probability = np.clip(np.nan_to_num(np.asarray(prediction, dtype=np.float64)), CLIP, 1 - CLIP)
        logit = np.log(probability) - np.log1p(-probability)
        bins = ((logit + _LOGIT_LIMIT) * (num_bins / (2 * _LOGIT_LIMIT))).astype(np.intp).clip(0, num_bins - 1)
        weights = row_weights(weight, len(label))
        is_positive = np.asarray(label) > 0
        return cls(
            np.bincount(bins, weights * is_positive, minlength=num_bins).astype(np.float64),
            np.bincount(bins, weights * ~is_positive, minlength=num_bins).astype(np.float64),
        )

    def merge(self, other: "AucHistogram") -> "AucHistogram":
        return AucHistogram(self.positive + other.positive, self.negative + other.negative)

    def value(self) -> float:
        """AUC with all pairs inside one bin counted as ties; NaN when a class is missing."""
        pairs = self.positive.sum() * self.negative.sum()
        below = np.cumsum(self.negative) - self.negative / 2
        return float(np.sum(self.positive * below) / pairs) if pairs else float("nan")

    def error_bound(self) -> float:
        """Largest distance of ``value`` from the exact AUC: half the share of pairs that no bin boundary parts."""
        pairs = self.positive.sum() * self.negative.sum()
        return float(np.sum(self.positive * self.negative) / (2 * pairs)) if pairs else float("nan")
