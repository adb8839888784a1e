"""Window: what one read task reads, shuffles and deals to ranks. Torch-free arithmetic; our choice."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


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


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive rows of an epoch's order: arrays, not objects, since a plan of 10^7 fragments holds all of them."""

    epoch: int
    index: int
    fragments: npt.NDArray[np.int32]
    """[number of slices], into the manifest"""
    files: tuple[str, ...]
    row_groups: npt.NDArray[np.int32]
    starts: Ints
    """[number of slices], the first row of each fragment that is read"""
    stops: Ints
    num_served: int
    """Rows of the stream, after the shuffle: all of them, unless the stream ends inside the window."""
    trained: npt.NDArray[np.uint8] | None = None
    """Packed bits by reading position: rows that the cursor holds, which are read for their place and not served again."""

    @property
    def slices(self) -> tuple[FragmentSlice, ...]:
        columns = (self.fragments.tolist(), self.files, self.row_groups.tolist(), self.starts.tolist(), self.stops.tolist())
        return tuple(FragmentSlice(*values) for values in zip(*columns, strict=True))

    @property
    def num_rows(self) -> int:
        return int((self.stops - self.starts).sum())

    def order(self, shuffle: bool, seed: int) -> Ints:
        """int64 [num_served]: reading positions in the order they are served in by a stream that starts at its beginning."""
        order = generator(seed, self.epoch, self.index).permutation(self.num_rows) if shuffle else np.arange(self.num_rows)
        return order[: self.num_served]

    def left(self, shuffle: bool, seed: int) -> Ints:
        """int64: ``order`` without what is trained already."""
        order = self.order(shuffle, seed)
        if self.trained is None:
            return order
        left: Ints = order[np.unpackbits(self.trained, count=self.num_rows)[order] == 0]
        return left


def generator(*key: int) -> np.random.Generator:
    """A generator that is a pure function of its key, for example (seed, epoch, window)."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))


def micro_batches(order: Ints, batch_size: int, world_size: int) -> Iterator[Ints]:
    """Deals positions to ranks: for each global batch, one int64 [ceil(G / R)] array a rank, -1 where padded.

    Rank r takes every R-th row, so a short last batch still gives each rank its share.
    """
    per_rank = -(-batch_size // world_size)
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        for rank in range(world_size):
            rows = batch[rank::world_size]
            yield np.concatenate([rows, np.full(per_rank - len(rows), -1, dtype=np.int64)])
