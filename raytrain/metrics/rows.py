"""The rows AUC and GAUC rank, in bounded memory.

Up to a capacity every row is kept and both metrics are exact. Beyond it, AUC lives on in a histogram of all rows and
GAUC on a sample of whole groups: at level k those whose hash starts with k zero bits, a 2**-k share of the groups.
The sample depends on group ids alone, so states of any levels merge at the higher one and a kept group is complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raytrain.data.hashing import splitmix64
from raytrain.metrics.auc import AucHistogram

_MAX_LEVEL = 63


@dataclass(frozen=True)
class Rows:
    """Columns of rows with a weight other than 0."""

    prediction: npt.NDArray[np.float32]
    """[B]"""
    label: npt.NDArray[np.float32]
    """[B]"""
    weight: npt.NDArray[np.float32]
    """[B]"""
    group: npt.NDArray[np.int64]
    """[B]"""

    @property
    def num_rows(self) -> int:
        return len(self.label)

    def where(self, mask: npt.NDArray[np.bool_]) -> "Rows":
        return Rows(self.prediction[mask], self.label[mask], self.weight[mask], self.group[mask])


def concat(chunks: Sequence[Rows]) -> Rows:
    """All rows in one; no chunks make no rows."""
    if len(chunks) == 1:
        return chunks[0]
    return Rows(
        np.concatenate([np.zeros(0, np.float32), *(chunk.prediction for chunk in chunks)]),
        np.concatenate([np.zeros(0, np.float32), *(chunk.label for chunk in chunks)]),
        np.concatenate([np.zeros(0, np.float32), *(chunk.weight for chunk in chunks)]),
        np.concatenate([np.zeros(0, np.int64), *(chunk.group for chunk in chunks)]),
    )


def hash_groups(group: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """uint64 [B], equal on every machine."""
    return splitmix64(group)


@dataclass(frozen=True)
class RankingState:
    """Rows and, above level 0, the histogram of all rows ever added; merging never needs the dropped ones."""

    num_bins: int
    chunks: tuple[Rows, ...] = ()
    level: int = 0
    """0: every row is here."""
    histogram: AucHistogram | None = None

    @property
    def num_rows(self) -> int:
        """Rows in memory."""
        return sum(chunk.num_rows for chunk in self.chunks)

    @property
    def rows(self) -> Rows:
        return concat(self.chunks)

    def at_level(self, level: int) -> "RankingState":
        """The same rows with a sample of at least ``level``."""
        if level <= self.level:
            return self
        rows = self.rows
        histogram = self.histogram or AucHistogram.of(rows.prediction, rows.label, rows.weight, self.num_bins)
        sample = rows.where(hash_groups(rows.group) >> np.uint64(64 - level) == 0)
        return RankingState(self.num_bins, (sample,), level, histogram)

    def merge(self, other: "RankingState", capacity: int) -> "RankingState":
        """Both states' rows, thinned until at most ``capacity`` are in memory; exact and histogram states mix freely."""
        level = max(self.level, other.level)
        first, second = self.at_level(level), other.at_level(level)
        histogram = first.histogram.merge(second.histogram) if first.histogram and second.histogram else None
        merged = RankingState(self.num_bins, (*first.chunks, *second.chunks), level, histogram)
        while merged.num_rows > capacity and merged.level < _MAX_LEVEL:
            merged = merged.at_level(merged.level + 1)
        return merged
