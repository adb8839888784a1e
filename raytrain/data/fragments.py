"""FragmentPlan: which rows a step reads, as pure arithmetic. Torch-free.

A *fragment* is one row group of one Parquet file. An epoch is a seeded order of all fragments, laid end to end; *window*
w is the rows [w*W, (w+1)*W) of that line and is read, joined and shuffled by one task; *global batch* k is the k-th run
of G rows after the shuffle, W being a multiple of G. So the rows of global batch k depend on seed, epoch and k alone:
not on the number of ranks, tasks or machines. Our choice; the idea of order as arithmetic follows mosaicml/streaming.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from raytrain.data.cursor import TrainedRows, trained_mask
from raytrain.data.manifest import Manifest
from raytrain.data.window import Ints, Window, generator

Packed = npt.NDArray[np.uint8] | None


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

    def num_rows_in(self, num_batches: int) -> int:
        """Rows of the first ``num_batches`` global batches, epochs following one another."""
        epochs, rest = divmod(num_batches, self.num_batches)
        return epochs * self.num_rows + min(rest * self.batch_size, self.num_rows)

    def windows(self, epoch: int, num_batches: int | None = None) -> Iterator[Window]:
        """The windows of an epoch in order, up to the one that holds global batch ``num_batches - 1``.

        That last one is read and shuffled whole, so that its batches are those of a longer stream.
        """
        return self.remaining({}, (epoch,), num_batches).windows()

    def remaining(
        self, trained: Mapping[int, TrainedRows] | None = None, epochs: Iterable[int] = (0,), num_batches: int | None = None
    ) -> "Remaining":
        """What is left of a stream of ``epochs`` after the rows that a cursor holds.

        Args:
            trained: epoch -> rows, as ``Cursor.of`` gives them; none or empty for a stream from its beginning.
            num_batches: global batches after which the stream ends, counted from its beginning over all epochs.
        """
        parts, left = [], num_batches
        for epoch in epochs:
            if left == 0:
                break
            limit = self.num_rows if left is None else min(self.num_rows, left * self.batch_size)
            parts.append(self._rest_of(epoch, limit, (trained or {}).get(epoch)))
            left = None if left is None else left - min(left, self.num_batches)
        return Remaining(self, tuple(parts))

    def _rest_of(self, epoch: int, limit: int, trained: TrainedRows | None) -> "EpochRest":
        num_windows = -(-limit // self.window_rows)
        served = np.full(num_windows, self.window_rows, dtype=np.int64)
        if num_windows:
            served[-1] = limit - (num_windows - 1) * self.window_rows
        if trained is None:
            return EpochRest(epoch, limit, np.arange(num_windows), served, {})
        line = self._line(epoch)
        first, last = line.slices_of(np.arange(num_windows), self.window_rows)
        complete = np.zeros(len(line.order), dtype=bool)
        complete[np.frombuffer(trained.complete.to_array(), dtype=np.uint32)] = True
        touched = complete.copy()
        touched[list(trained.open)] = True
        num_complete, num_touched = (_counts(mask[line.order], first, last) for mask in (complete, touched))
        masks = {}
        served[num_complete == last - first + 1] = 0
        # Windows with some rows trained and some not: as many as were open at the checkpoint, and their neighbours.
        for index in np.flatnonzero((num_touched > 0) & (served > 0)).tolist():
            window = self._window(line, epoch, index, int(first[index]), int(last[index]), int(served[index]))
            mask = trained_mask(trained, window.fragments, window.starts, window.stops)
            if mask.any():
                masks[index] = np.packbits(mask)
                served[index] = len(replace(window, trained=masks[index]).left(self.shuffle, self.seed))
        return EpochRest(epoch, limit, np.flatnonzero(served), served[served > 0], masks)

    def _line(self, epoch: int) -> "_Line":
        order = self.order(epoch)
        return _Line(order, np.cumsum(self.manifest.num_rows[order]))

    def _window(self, line: "_Line", epoch: int, index: int, first: int, last: int, num_served: int, trained: Packed = None) -> Window:
        fragments = line.order[first : last + 1]
        ends, num_rows = line.ends[first : last + 1], self.manifest.num_rows[fragments]
        begins, start = ends - num_rows, index * self.window_rows
        return Window(
            epoch=epoch,
            index=index,
            fragments=fragments.astype(np.int32),
            files=tuple(self.manifest.files[file] for file in self.manifest.file_index[fragments]),
            row_groups=self.manifest.row_group[fragments],
            starts=np.maximum(start - begins, 0),
            stops=np.minimum(start + self.window_rows, ends) - begins,
            num_served=num_served,
            trained=trained,
        )


@dataclass(frozen=True, eq=False)
class EpochRest:
    """The windows of an epoch that still have rows to serve."""

    epoch: int
    limit: int
    """Rows of the epoch that belong to the stream."""
    index: Ints
    """[number of windows], ascending"""
    num_left: Ints
    """[number of windows], rows"""
    masks: dict[int, npt.NDArray[np.uint8]]
    """index -> packed bits of the rows that are trained"""


@dataclass(frozen=True, eq=False)
class Remaining:
    """A stream's windows in order, and how much they serve."""

    plan: FragmentPlan
    rests: tuple[EpochRest, ...]

    @property
    def num_rows(self) -> int:
        return sum(int(rest.num_left.sum()) for rest in self.rests)

    @property
    def num_batches(self) -> int:
        """Global batches: a window's last one is short where rows before it were trained out of order."""
        return sum(int((-(-rest.num_left // self.plan.batch_size)).sum()) for rest in self.rests)

    def windows(self) -> Iterator[Window]:
        for rest in self.rests:
            if not len(rest.index):
                continue
            line = self.plan._line(rest.epoch)
            bounds = line.slices_of(rest.index, self.plan.window_rows)
            for index, first, last in zip(rest.index.tolist(), *(bound.tolist() for bound in bounds), strict=True):
                num_served = min(self.plan.window_rows, rest.limit - index * self.plan.window_rows)
                yield self.plan._window(line, rest.epoch, index, first, last, num_served, rest.masks.get(index))


@dataclass(frozen=True, eq=False)
class _Line:
    """The fragments of an epoch laid end to end."""

    order: Ints
    ends: Ints
    """[number of fragments], the row after each one's last"""

    def slices_of(self, windows: Ints, window_rows: int) -> tuple[Ints, Ints]:
        """[number of windows] each: positions in ``order`` of the first and the last fragment of a window."""
        starts = windows * window_rows
        stops = np.minimum(starts + window_rows, self.ends[-1])
        return np.searchsorted(self.ends, starts, side="right"), np.searchsorted(self.ends, stops, side="left")


def _counts(mask: npt.NDArray[np.bool_], first: Ints, last: Ints) -> Ints:
    """[number of windows]: true values between positions, both included."""
    sums = np.concatenate([[0], np.cumsum(mask)])
    return np.asarray(sums[last + 1] - sums[first])
