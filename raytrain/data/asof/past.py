"""Statistics of the past: sums over the events of a key that lie strictly before a row's time.

An event at a row's own time is not in its past, whatever order the file has them in, so a row never sees its own label.
Events are sorted once by (key, time) and summed up; a row's past is then two bisections. Our choice.

Shapes: E events, T distinct event times, N rows asked for, V value columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Past:
    """What happened to each row's key before the row's time."""

    count: Floats
    """[N], events"""
    totals: tuple[Floats, ...]
    """V of [N]: the sum of each value over those events"""
    last_tick: Ints
    """[N], the tick of the newest of them; -1 without one"""

    def mean(self, prior: Floats | float, prior_rows: float, value: int = 0) -> Floats:
        """(total + prior_rows * prior) / (count + prior_rows), [N]; prior: [N], or one for all rows."""
        return (self.totals[value] + prior_rows * prior) / (self.count + prior_rows)


class Clock:
    """Numbers times by the events' order: tick k is the k-th distinct event time, so later code compares small integers.

    times: int64 [E], seconds.
    """

    def __init__(self, times: Ints) -> None:
        self.times, self.event_ticks = np.unique(times, return_inverse=True)

    @property
    def num_ticks(self) -> int:
        return len(self.times)

    def ticks(self, times: Ints) -> Ints:
        """int64 [N]: an event is strictly before ``times`` if and only if its tick is below this one."""
        return np.searchsorted(self.times, times)

    def age_s(self, past: Past, times: Ints) -> Floats:
        """[N], seconds from the newest event of ``past`` to ``times``; infinity without one."""
        newest = np.append(self.times, 0)[past.last_tick]
        return np.where(past.last_tick >= 0, times - newest, np.inf)


class AsOf:
    """The events of every key in time order, ready to be asked.

    key: int64 [E], >= 0. tick: int64 [E], in [0, num_ticks). values: V of float64 [E].
    """

    def __init__(self, key: Ints, tick: Ints, values: Sequence[Floats], num_ticks: int) -> None:
        self._num_ticks = num_ticks
        self._largest = int(key.max(initial=-1))
        self._keys: Ints | None = None
        if self._largest >= np.iinfo(np.int64).max // max(1, num_ticks):
            self._keys, key = np.unique(key, return_inverse=True)
        # One sortable number for (key, tick); ranks of keys stand in where the keys themselves would overflow it.
        place = key * num_ticks + tick
        order = np.argsort(place, kind="stable")
        self._place = place[order]
        self._tick = np.concatenate([[-1], tick[order]])
        self._sums = [np.concatenate([[0.0], np.cumsum(value[order], dtype=np.float64)]) for value in values]

    def before(self, key: Ints, tick: Ints) -> Past:
        """The past of N rows. key: int64 [N], >= 0. tick: int64 [N], as ``Clock.ticks`` gives it."""
        known = key <= self._largest
        if self._keys is not None:
            rank = np.minimum(np.searchsorted(self._keys, key), len(self._keys) - 1)
            known, key = self._keys[rank] == key, rank
        first = np.where(known, key, 0) * self._num_ticks
        start = np.searchsorted(self._place, first)
        stop = np.where(known, np.searchsorted(self._place, first + tick), start)
        last_tick = np.where(stop > start, self._tick[stop], -1)
        return Past((stop - start).astype(np.float64), tuple(sums[stop] - sums[start] for sums in self._sums), last_tick)
