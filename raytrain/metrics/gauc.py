"""Group AUC: mean of the groups' AUCs weighted by impressions (Zhou et al., KDD 2018, arXiv 1706.06978).

Groups (users, as a rule) with one class only are left out of numerator and denominator.
"""

from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from raytrain.metrics.logloss import Array, row_weights


def gauc(prediction: Array, label: Array, group: Array, weight: Array | None = None) -> float:
    """Exact GAUC, ties averaged; NaN when no group has both classes or a prediction is NaN.

    prediction: [B], any real score. label: [B], positive above 0. group: int64 [B]. weight: [B] >= 0, all ones when None.
    """
    return GaucState.of(prediction, label, group, weight).value()


class GaucState(NamedTuple):
    """Sums over groups; merging adds them, so all rows of a group have to be in one of the states merged."""

    area: float = 0.0
    """Sum over scored groups of AUC x weight."""
    weight: float = 0.0
    num_groups: float = 0.0
    """Groups scored: those with both classes."""

    @classmethod
    def of(cls, prediction: Array, label: Array, group: Array, weight: Array | None = None) -> Self:
        weights = row_weights(weight, len(label))
        kept = weights != 0
        scores = np.asarray(prediction)[kept]
        if np.isnan(scores).any():
            return cls(float("nan"), float("nan"), float("nan"))
        _, areas, impressions = group_aucs(scores, np.asarray(label)[kept], np.asarray(group)[kept], weights[kept])
        scored = ~np.isnan(areas)
        return cls(float(np.sum(areas[scored] * impressions[scored])), float(np.sum(impressions[scored])), float(np.sum(scored)))

    def merge(self, other: "GaucState") -> "GaucState":
        return GaucState(self.area + other.area, self.weight + other.weight, self.num_groups + other.num_groups)

    def value(self) -> float:
        return self.area / self.weight if self.weight else float("nan")


def group_aucs(
    prediction: Array, label: Array, group: Array, weight: npt.NDArray[np.float64]
) -> tuple[Array, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(groups ascending, AUC of each or NaN for one class only, weight of each), all [number of groups].

    One sort by (group, prediction), then sums over segments: no loop over groups. Predictions must not be NaN, weights not 0.
    """
    if len(label) == 0:
        return group[:0], np.zeros(0), np.zeros(0)
    order = np.lexsort((prediction, group))
    groups, scores = group[order], prediction[order]
    is_positive = label[order] > 0
    new_group = np.concatenate([[True], groups[1:] != groups[:-1]])
    # Segments of tied rows: one group, one prediction.
    ties = np.flatnonzero(new_group | np.concatenate([[True], scores[1:] != scores[:-1]]))
    positive = np.add.reduceat(weight[order] * is_positive, ties)
    negative = np.add.reduceat(weight[order] * ~is_positive, ties)
    starts = np.flatnonzero(new_group[ties])
    group_positive = np.add.reduceat(positive, starts)
    group_negative = np.add.reduceat(negative, starts)
    # The running sum is brought back to zero at each group's start. Subtracting its value there instead would cancel
    # a total over all rows against a few, and a group's AUC would depend on the groups sorted before it.
    steps = negative.copy()
    steps[starts[1:]] -= group_negative[:-1]
    below = np.cumsum(steps) - negative / 2
    ordered = np.add.reduceat(positive * below, starts)
    pairs = group_positive * group_negative
    areas = np.divide(ordered, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return groups[ties[starts]], areas, group_positive + group_negative
