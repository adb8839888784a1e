"""Normalised Gini by how many internal training rows a row's slice has: does transfer help the long tail?

ADSNet (arXiv 2406.10517) reports gains "across sample-size intervals"; which intervals it does not say: powers of ten are our choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from raytrain.errors import ConfigError
from raytrain.metrics.gini import norm_gini
from raytrain.metrics.logloss import Array, row_weights


@dataclass(frozen=True)
class SizeIntervals:
    """Which interval of training rows each slice falls in; a slice unseen in training has 0 rows."""

    slices: npt.NDArray[np.int64]
    """[S], ascending"""
    num_rows: npt.NDArray[np.int64]
    """[S], internal training rows"""
    edges: tuple[int, ...]
    """Ascending; interval k holds sizes in [edges[k - 1], edges[k]), the first from 0, the last without end."""

    @classmethod
    def of(cls, num_rows: Mapping[int, int], edges: tuple[int, ...] = (1, 10, 100, 1000)) -> Self:
        """num_rows: slice -> its internal training rows.

        Raises:
            ConfigError: the edges do not ascend from 1 or more.
        """
        if any(low >= high for low, high in zip((0, *edges), edges, strict=False)):
            raise ConfigError(f"Edges of size intervals have to ascend from 1 or more. Received: edges={edges}. Sort them, each once.")
        slices = np.array(sorted(num_rows), dtype=np.int64)
        return cls(slices, np.array([num_rows[number] for number in slices.tolist()], dtype=np.int64), edges)

    @property
    def names(self) -> tuple[str, ...]:
        """One an interval, such as 0, 1_to_9, 1000_up."""
        lows = (0, *self.edges)
        closed = (f"{low}_to_{high - 1}" if high > low + 1 else f"{low}" for low, high in zip(lows, self.edges, strict=False))
        return (*closed, f"{lows[-1]}_up")

    def interval(self, slices: Array) -> npt.NDArray[np.int64]:
        """int64 [B] in 0..len(edges); slices: int64 [B]."""
        if not len(self.slices):
            return np.zeros(len(slices), np.int64)
        found = np.searchsorted(self.slices, slices).clip(max=len(self.slices) - 1)
        sizes = np.where(self.slices[found] == slices, self.num_rows[found], 0)
        return np.searchsorted(np.array(self.edges), sizes, side="right").astype(np.int64)


def gini_by_size(prediction: Array, label: Array, slices: Array, sizes: SizeIntervals, weight: Array | None = None) -> dict[str, float]:
    """Interval's name -> normalised Gini among its rows; NaN where their labels are all equal, or there are none.

    prediction: [B], any real score. label: [B] >= 0. slices: int64 [B]. weight: [B] >= 0, all ones when None.
    """
    interval, weights = sizes.interval(slices), row_weights(weight, len(label))
    rows = [interval == number for number in range(len(sizes.names))]
    return {name: norm_gini(prediction[own], label[own], weights[own]) for name, own in zip(sizes.names, rows, strict=True)}
