"""What the towers take from labels: thresholds and scales, from internal training rows alone. Torch-free: the driver calls it.

External labels never enter: both networks share the thresholds, and what they mean must not depend on what is transferred.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raytrain.errors import DataError


@dataclass(frozen=True)
class LabelStats:
    """Of the amounts of the internal training rows."""

    thresholds: tuple[float, ...]
    """c_0 = 0 < c_1 < ... < c_{K-1}: class 0 is {0}, class k is (c_{k-1}, c_k], class K is open"""
    tail_excess: float
    """Mean of y - c_{K-1} over the labels above c_{K-1}; above 0"""
    pay_share: float
    """Share of the labels above 0; above 0"""
    mean_paid: float
    """Mean of the labels above 0"""


def label_stats(labels: NDArray[Any], num_buckets: int) -> LabelStats:
    """labels [N], of any real dtype -> their statistics.

    Raises:
        DataError: a label is negative, NaN or infinite, or none is above 0.
    """
    thresholds = ordinal_edges(labels, num_buckets)
    paid = np.asarray(labels, dtype=np.float64)[np.asarray(labels) > 0]
    tail = paid[paid > thresholds[-1]]
    return LabelStats(thresholds, float(tail.mean() - thresholds[-1]), len(paid) / len(labels), float(paid.mean()))


def class_edges(stats: LabelStats | None) -> tuple[float, ...]:
    """Upper ends of the classes of labels in which gains are compared: 0, and what pays in about quarters (our choice: few classes,
    so that few held-out rows fill them). Of clicks (None) there are two."""
    if stats is None:
        return (0.0,)
    return stats.thresholds[:: -(-len(stats.thresholds) // 4)]


def ordinal_edges(labels: NDArray[Any], num_buckets: int) -> tuple[float, ...]:
    """Thresholds that give classes of paying rows equal counts, as far as ties let them (our choice: the paper names none).

    A quantile is moved midway to the next larger label, so that price tiers lie inside a class, where the amount tower can
    reach them. No class is empty: quantiles that ties collapse are merged, and none lies at the largest label.

    Args:
        labels: [N], amounts of 0 or more.
        num_buckets: classes above 0 asked for, 1 or more.

    Returns:
        0.0 and then at most ``num_buckets`` - 1 rising values.

    Raises:
        DataError: a label is negative, NaN or infinite, or none is above 0.
    """
    values = np.asarray(labels, dtype=np.float64)
    bad = values[~(np.isfinite(values) & (values >= 0))]
    if len(bad):
        raise DataError(
            "Amounts have to be finite and 0 or more. "
            f"Received: {len(bad)} of {len(values)} internal training labels that are not, such as {bad[0]}. Quarantine them."
        )
    paid = np.sort(values[values > 0])
    if not len(paid):
        raise DataError(
            "Internal training rows have to hold an amount above 0. "
            f"Received: {len(values)} labels, all 0. Take a longer horizon or more rows."
        )
    at = np.ceil(len(paid) * np.arange(1, num_buckets) / num_buckets).astype(np.int64) - 1
    tiers = np.unique(paid)
    place = np.unique(np.searchsorted(tiers, paid[np.maximum(at, 0)]))
    place = place[place < len(tiers) - 1]
    return (0.0, *((tiers[place] + tiers[place + 1]) / 2).tolist())
