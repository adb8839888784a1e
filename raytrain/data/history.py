"""Histories cut as-of each sample's time: strictly earlier events only, newest last.

A history file holds one row a user. It is read row group by row group and only the events of users that occur in the
window are kept, so memory follows the largest row group and the window's users, not the file.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import History, SideInformation
from raytrain.errors import DataError, StreamError
from raytrain.storage import Storage

Ints = npt.NDArray[np.int64]
AGE = "_age_s"
"""List of the events' ages at the sample, where a model asks for them"""


@dataclass(frozen=True)
class WindowHistory:
    """One domain's histories of the N samples of a window; only the events of users that occur in it are held."""

    starts: Ints
    """[N], into the flat arrays"""
    lengths: Ints
    """[N]"""
    sample_times: Ints
    """[N]"""
    events: dict[str, npt.NDArray[np.generic]]
    """flat; item int32, time int64, side columns int8"""
    side: tuple[SideInformation, ...]
    num_bytes_read: int

    def cut(self, rows: Ints, ages: bool = False) -> dict[str, pa.Array]:
        """Arrow lists of the samples ``rows`` (int64 [b]; -1 gives an empty list): ``item`` and one int8 code per side.

        An age code is 1 + floor(log2(1 + age in s)), capped. With ``ages`` there is a list ``_age_s`` of int64 besides.
        """
        lengths = np.where(rows >= 0, self.lengths[rows], 0)
        flat = _ranges(self.starts[rows], lengths)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        columns = {"item": self.events["item"][flat]}
        age_s = np.empty(0, np.int64)
        if ages or any(side.derived_from == "age" for side in self.side):
            event_times = self.events["time"].astype(np.int64, copy=False)[flat]
            age_s = np.repeat(self.sample_times[rows], lengths) - event_times
        if ages:
            columns[AGE] = age_s
        for side in self.side:
            if side.derived_from == "age":
                columns[side.name] = age_code(age_s, side.num_values)
            else:
                columns[side.name] = self.events[side.name][flat]
        return {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in columns.items()}


def load_histories(
    storage: Storage, history: History, files: list[str], users: Ints, times: Ints, length: int, num_items: int
) -> WindowHistory:
    """Finds the newest ``length`` events strictly before each sample.

    Args:
        files: the buckets of ``history`` (relative to the data set) that hold these users. users: [N]. times: [N], seconds;
            an event at a sample's own time is not in its history. num_items: rows of the history's table.

    Raises:
        DataError: a history file is missing or unreadable, or holds an id or a code out of range; a sample without its
            history is no sample.
    """
    stored = [side.name for side in history.side if side.derived_from == "column"]
    names = ["item", "time", *stored]
    limits = {"item": num_items} | {side.name: side.num_values for side in history.side if side.derived_from == "column"}
    wanted = np.unique(users)
    starts, lengths = np.zeros(len(users), np.int64), np.zeros(len(users), np.int64)
    parts: dict[str, list[npt.NDArray[np.generic]]] = {name: [] for name in names}
    num_events = num_bytes = 0
    for file in files:
        for group in _row_groups(storage, file, wanted, stored):
            num_bytes += group.num_bytes
            kept = group.select(wanted)
            _check_order(storage.join(file), group.users, kept)
            samples, owner = kept.locate(users)
            stop = kept.first_event_at(owner, times[samples])
            start = np.maximum(kept.offsets[owner], stop - length)
            starts[samples], lengths[samples] = num_events + start, stop - start
            for name in names:
                _check_range(storage.join(file), name, kept.events[name], limits)
                parts[name].append(kept.events[name])
            num_events += len(kept.events["item"])
    types = {"item": np.int32, "time": np.int64}
    events = {name: np.concatenate([np.empty(0, types.get(name, np.int8)), *parts[name]]) for name in names}
    return WindowHistory(starts, lengths, times, events, history.side, num_bytes)


def age_code(age_s: Ints, num_values: int) -> npt.NDArray[np.int8]:
    """1 + floor(log2(1 + age)), at most num_values - 1; 0 is left for padding. Our choice."""
    return np.asarray(np.minimum(1 + np.log2(1.0 + age_s).astype(np.int64), num_values - 1), dtype=np.int8)


@dataclass(frozen=True)
class _RowGroup:
    users: Ints
    """[U], ascending"""
    offsets: Ints
    """[U + 1]"""
    events: dict[str, npt.NDArray[np.generic]]
    num_bytes: int = 0

    def select(self, users: Ints) -> "_RowGroup":
        """The row group reduced to ``users`` (ascending)."""
        index = np.nonzero(np.isin(self.users, users, assume_unique=True))[0]
        lengths = self.offsets[index + 1] - self.offsets[index]
        flat = _ranges(self.offsets[index], lengths)
        return _RowGroup(
            self.users[index],
            np.concatenate([[0], np.cumsum(lengths)]),
            {name: values[flat] for name, values in self.events.items()},
        )

    def locate(self, users: Ints) -> tuple[Ints, Ints]:
        """Indices of the samples whose user is here, and the user's index for each."""
        if not len(self.users):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        position = np.minimum(np.searchsorted(self.users, users), len(self.users) - 1)
        samples = np.nonzero(self.users[position] == users)[0]
        return samples, position[samples]

    def first_event_at(self, owner: Ints, times: Ints) -> Ints:
        """For each sample the index of its user's first event at or after ``times``: one bisection for all at once."""
        event_times = self.events["time"]
        low, high = self.offsets[owner].copy(), self.offsets[owner + 1].copy()
        while (low < high).any():
            middle = np.minimum((low + high) >> 1, len(event_times) - 1)
            searching = low < high
            earlier = searching & (event_times[middle] < times)
            low = np.where(earlier, middle + 1, low)
            high = np.where(searching & ~earlier, middle, high)
        return low


def _row_groups(storage: Storage, file: str, wanted: Ints, side: list[str]) -> Iterator[_RowGroup]:
    """The row groups of ``file`` that can hold one of the users ``wanted`` (footer statistics decide)."""
    columns = ["user", "item", "time", *side]
    try:
        with storage.open_steady(file) as handle:
            parquet = pq.ParquetFile(handle, pre_buffer=True, page_checksum_verification=True)
            user_column = parquet.schema_arrow.names.index("user")
            for index in range(parquet.num_row_groups):
                metadata = parquet.metadata.row_group(index)
                if metadata.num_rows == 0 or not _overlaps(metadata.column(user_column).statistics, wanted):
                    continue
                table = parquet.read_row_group(index, columns=columns, use_threads=False).combine_chunks()
                lists = {name: table.column(name).chunk(0) for name in columns[1:]}
                _check_lists(lists)
                offsets = lists["item"].offsets.to_numpy().astype(np.int64)
                yield _RowGroup(
                    users=table.column("user").to_numpy().astype(np.int64),
                    offsets=offsets - offsets[0],
                    events={name: array.flatten().to_numpy(zero_copy_only=False) for name, array in lists.items()},
                    num_bytes=metadata.total_byte_size,
                )
    except StreamError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")
        if isinstance(err, OSError) and err.errno and not isinstance(err, FileNotFoundError):
            raise StreamError(
                f"{storage.join(file)} has to be readable. Received: {reason}. Check the storage, then resume the run."
            ) from err
        raise DataError(f"{storage.join(file)} has to be a readable history file. Received: {reason}. Prepare the data set again.") from err


def _check_lists(lists: dict[str, pa.ListArray]) -> None:
    """Raises ValueError unless the columns' lists lie side by side."""
    for name, array in lists.items():
        if array.null_count or array.values.null_count:
            raise ValueError(f"nulls in column {name}")
        if not array.offsets.equals(lists["item"].offsets):
            raise ValueError(f"lists of column {name} that are not as long as those of item")


def _check_order(file: str, users: Ints, kept: _RowGroup) -> None:
    """Bisection would put later events into a history that is out of order."""
    times = kept.events["time"].astype(np.int64, copy=False)
    owner = np.repeat(kept.users, np.diff(kept.offsets))
    if (users[1:] <= users[:-1]).any() or ((times[1:] < times[:-1]) & (owner[1:] == owner[:-1])).any():
        raise DataError(
            f"{file} has to hold one row a user by ascending id, its events in time order. Received: another order. "
            "Prepare the data set again."
        )


def _check_range(file: str, name: str, values: npt.NDArray[np.generic], limits: dict[str, int]) -> None:
    """An id past its table would stop a worker inside a kernel, or read another table's row."""
    if name in limits and len(values) and (values.min() < 0 or values.max() >= limits[name]):
        raise DataError(
            f"{file} has to hold {name} values in [0, {limits[name]}). Received: {values.min()} to {values.max()}. "
            "Prepare the data set again."
        )


def _overlaps(statistics: pq.Statistics | None, wanted: Ints) -> bool:
    if statistics is None or not statistics.has_min_max:
        return True
    position = np.searchsorted(wanted, statistics.min)
    return bool(position < len(wanted) and wanted[position] <= statistics.max)


def _ranges(starts: Ints, lengths: Ints) -> Ints:
    """[start0, start0+1, ...] for each (start, length), end to end."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if len(ends) else 0)
