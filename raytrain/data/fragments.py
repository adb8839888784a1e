"""FragmentPlan: which rows a step reads, as pure arithmetic.

A *fragment* is one row group of one Parquet file. An epoch is a seeded order of all fragments, laid end to end; *window*
w is the rows [w*W, (w+1)*W) of that line and is read, joined and shuffled by one task; *global batch* k is the k-th run
of G rows after the shuffle, W being a multiple of G. So the rows of global batch k depend on seed, epoch and k alone:
not on the number of ranks, tasks or machines. Our choice; the idea of order as arithmetic follows mosaicml/streaming.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from raytrain.data.manifest import Manifest


@dataclass(frozen=True)
class FragmentSlice:
    """Rows [start, stop) of one fragment."""

    fragment: int
    file: str
    row_group: int
    start: int
    stop: int

    @property
    def num_rows(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Window:
    """What one read task reads and shuffles together."""

    epoch: int
    index: int
    slices: tuple[FragmentSlice, ...]
    num_served: int
    """Rows that leave it, after the shuffle: all of them, unless the stream ends inside the window."""

    @property
    def num_rows(self) -> int:
        return sum(part.num_rows for part in self.slices)


@dataclass(frozen=True)
class FragmentPlan:
    """The order of one domain's split in every epoch. Pure and seeded."""

    manifest: Manifest
    batch_size: int
    """Rows of a global batch (G)."""
    window_batches: int = 32
    files_per_window: int = 4
    """Files whose fragments are interleaved: more mixes users better, and a window opens more history files."""
    shuffle: bool = True
    seed: int = 0

    @cached_property
    def num_rows(self) -> int:
        return int(self.manifest.num_rows.sum())

    @property
    def num_batches(self) -> int:
        """Global batches of an epoch; the last one may be short."""
        return -(-self.num_rows // self.batch_size)

    @property
    def num_windows(self) -> int:
        return -(-self.num_rows // self.window_rows)

    @property
    def window_rows(self) -> int:
        return self.batch_size * self.window_batches

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """int64 [number of fragments]: the fragments in the epoch's order."""
        num_fragments = len(self.manifest.num_rows)
        if not self.shuffle:
            return np.arange(num_fragments)
        draw = generator(self.seed, epoch)
        # Files are shuffled, dealt into groups, and the fragments shuffled inside each group.
        group_of_file = draw.permutation(len(self.manifest.files)) // self.files_per_window
        return np.lexsort((draw.random(num_fragments), group_of_file[self.manifest.file_index]))

    def windows(self, epoch: int, num_batches: int | None = None) -> Iterator[Window]:
        """The windows of an epoch in order, up to the one that holds global batch ``num_batches - 1``.

        That last one is read and shuffled whole, so that its batches are those of a longer stream.
        """
        order = self.order(epoch)
        ends = np.cumsum(self.manifest.num_rows[order])
        limit = self.num_rows if num_batches is None else min(self.num_rows, num_batches * self.batch_size)
        for index in range(-(-limit // self.window_rows)):
            first, last = index * self.window_rows, min((index + 1) * self.window_rows, self.num_rows)
            num_served = min(last, limit) - first
            position = int(np.searchsorted(ends, first, side="right"))
            slices = []
            while first < last:
                fragment = int(order[position])
                begin = int(ends[position]) - int(self.manifest.num_rows[fragment])
                stop = min(last, int(ends[position]))
                slices.append(self._slice(fragment, first - begin, stop - begin))
                first, position = stop, position + 1
            yield Window(epoch, index, tuple(slices), num_served)

    def num_rows_in(self, num_batches: int) -> int:
        """Rows of the first ``num_batches`` global batches, epochs following one another."""
        epochs, rest = divmod(num_batches, self.num_batches)
        return epochs * self.num_rows + min(rest * self.batch_size, self.num_rows)

    def _slice(self, fragment: int, start: int, stop: int) -> FragmentSlice:
        file = self.manifest.files[self.manifest.file_index[fragment]]
        return FragmentSlice(fragment, file, int(self.manifest.row_group[fragment]), start, stop)


def generator(*key: int) -> np.random.Generator:
    """A generator that is a pure function of its key, for example (seed, epoch, window)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def micro_batches(num_rows: int, batch_size: int, world_size: int, order: npt.NDArray[np.int64]) -> Iterator[npt.NDArray[np.int64]]:
    """Deals a window's rows to ranks: for each global batch, one int64 [ceil(G / R)] array a rank, -1 where padded.

    Rank r takes every R-th row, so a short last batch still gives each rank its share.
    """
    per_rank = -(-batch_size // world_size)
    for first in range(0, num_rows, batch_size):
        batch = order[first : first + batch_size]
        for rank in range(world_size):
            rows = batch[rank::world_size]
            yield np.concatenate([rows, np.full(per_rank - len(rows), -1, dtype=np.int64)])
