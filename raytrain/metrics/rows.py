"""The rows that ranking metrics need, in bounded memory.

Up to a capacity every row is kept and the metrics are exact. Beyond it whole groups are sampled: at level k those whose hash
starts with k zero bits, a 2**-k share of the groups. The sample depends on group ids alone, so states of any levels merge at the
higher one and a kept group is complete. AUC, which needs no groups, lives on in a histogram of all rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from raytrain.data.hashing import splitmix64
from raytrain.metrics.auc import AucHistogram

_MAX_LEVEL = 63

Columns = dict[str, npt.NDArray[Any]]
"""Name -> [B], of rows with a weight other than 0: ``weight`` and predictions and labels in float32, ``group`` in int64."""


def concat(chunks: Sequence[Columns]) -> Columns:
    """All rows in one; every chunk has the same columns, and there is at least one."""
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]} if len(chunks) > 1 else chunks[0]


def where(rows: Columns, mask: npt.NDArray[np.bool_]) -> Columns:
    """The rows at which the mask is true."""
    return {name: column[mask] for name, column in rows.items()}


def hash_groups(group: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """uint64 [B], equal on every machine."""
    return splitmix64(group)


@dataclass(frozen=True)
class GroupSample:
    """All rows of a 2**-level share of the groups."""

    chunks: tuple[Columns, ...]
    """At least one, which may be empty."""
    level: int = 0
    """0: every row is here."""

    @classmethod
    def without_rows(cls, values: Sequence[str], ids: Sequence[str]) -> Self:
        """No row yet, of float32 and of int64 columns by these names."""
        return cls(({name: np.zeros(0, np.float32) for name in values} | {name: np.zeros(0, np.int64) for name in ids},))

    @property
    def num_rows(self) -> int:
        """Rows in memory."""
        return sum(len(chunk["weight"]) for chunk in self.chunks)

    @property
    def rows(self) -> Columns:
        return concat(self.chunks)

    @property
    def share(self) -> float:
        """Of the groups."""
        return 2.0**-self.level

    def at_level(self, level: int) -> "GroupSample":
        """The same rows thinned to ``level`` or beyond."""
        if level <= self.level:
            return self
        rows = self.rows
        return GroupSample((where(rows, hash_groups(rows["group"]) >> np.uint64(64 - level) == 0),), level)

    def merge(self, other: "GroupSample", capacity: int) -> "GroupSample":
        """Both samples' rows, thinned until at most ``capacity`` are in memory."""
        level = max(self.level, other.level)
        merged = GroupSample((*self.at_level(level).chunks, *other.at_level(level).chunks), level)
        while merged.num_rows > capacity and merged.level < _MAX_LEVEL:
            merged = merged.at_level(merged.level + 1)
        return merged


@dataclass(frozen=True)
class RankingState:
    """A sample and, above level 0, the histogram of all rows ever added; merging never needs the dropped ones."""

    num_bins: int
    sample: GroupSample
    """With the columns prediction, label, weight, group."""
    histogram: AucHistogram | None = None

    @property
    def num_rows(self) -> int:
        """Rows in memory."""
        return self.sample.num_rows

    def at_level(self, level: int) -> "RankingState":
        """The same rows with a sample of at least ``level``."""
        if level <= self.sample.level:
            return self
        return RankingState(self.num_bins, self.sample.at_level(level), self._binned())

    def merge(self, other: "RankingState", capacity: int) -> "RankingState":
        """Both states' rows, thinned until at most ``capacity`` are in memory; exact and histogram states mix freely."""
        sample = self.sample.merge(other.sample, capacity)
        return RankingState(self.num_bins, sample, self._binned().merge(other._binned()) if sample.level else None)

    def _binned(self) -> AucHistogram:
        if self.histogram is not None:
            return self.histogram
        rows = self.sample.rows
        return AucHistogram.of(rows["prediction"], rows["label"], rows["weight"], self.num_bins)
