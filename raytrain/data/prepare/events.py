"""Columns of raw events brought to one type each, and the rows that cannot be used left out with their reason."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raytrain.data.contract import SPLITS
from raytrain.data.prepare.spec import EventSpec, Key, Label, Time

NO_SPLIT = -1
_UNKNOWN_SPLIT = -2
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


@dataclass(frozen=True)
class Events:
    """N usable events of one block."""

    user: pa.Array
    """int64 or large_string [N], as read: not encoded yet"""
    item: pa.Array
    time: npt.NDArray[np.int64]
    """[N], Unix seconds"""
    label: npt.NDArray[np.float32]
    """[N]; once the scan has passed 0 or 1, or an amount"""
    split: npt.NDArray[np.int8] | None
    """[N] index into ``SPLITS``, or 0 for any sample of rows kept by day, or ``NO_SPLIT``; None where times decide"""
    in_history: npt.NDArray[np.bool_] | None
    """[N]; None where every row is"""
    block: pa.Table
    """the N rows with all their raw columns"""

    def select(self, keep: npt.NDArray[np.bool_]) -> "Events":
        mask = pa.array(keep)
        return Events(
            user=self.user.filter(mask),
            item=self.item.filter(mask),
            time=self.time[keep],
            label=self.label[keep],
            split=None if self.split is None else self.split[keep],
            in_history=None if self.in_history is None else self.in_history[keep],
            block=self.block.filter(mask),
        )


def clean(block: pa.Table, spec: EventSpec) -> tuple[Events, Counter[str]]:
    """Keeps the rows that have a user, an item, a time, a label and a use; counts the others by the first reason that holds."""
    user = id_values(block[spec.keys.user.column])
    item = id_values(block[spec.keys.item.column])
    time, no_time = _seconds(block[spec.keys.time.column], spec.keys.time)
    label, no_label, nan_label = _labels(block[spec.label.column], spec.label)
    split = _splits(block[spec.split.column]) if spec.split.column is not None else None
    if spec.split.sample is not None:
        split = np.where(_is_true(block[spec.split.sample]), 0, NO_SPLIT).astype(np.int8)
    in_history = None if spec.in_history is None else _is_true(block[spec.in_history])
    reasons = {
        "null user": _is_null(user),
        "user out of range": _out_of_range(user, spec.keys.user),
        "null item": _is_null(item),
        "item out of range": _out_of_range(item, spec.keys.item),
        "null time": no_time,
        "null label": no_label,
        "NaN label": nan_label,
    }
    if split is not None:
        reasons["unknown split"] = split == _UNKNOWN_SPLIT
        if in_history is not None:
            reasons["neither sample nor history"] = (split == NO_SPLIT) & ~in_history
    keep = np.ones(block.num_rows, dtype=bool)
    dropped: Counter[str] = Counter()
    for reason, bad in reasons.items():
        dropped[reason] = int((keep & bad).sum())
        keep &= ~bad
    events = Events(user, item, time, label, split, in_history, block)
    return (events if keep.all() else events.select(keep)), +dropped


def add_absent(block: pa.Table, spec: EventSpec, domain: str) -> pa.Table:
    """``block`` with a column of nulls for each feature that its domain does not have."""
    types = {"id": pa.int64(), "multi": pa.list_(pa.int64()), "dense": pa.float64()}
    for feature in spec.absent_features(domain):
        if feature.source_column not in block.column_names:
            block = block.append_column(feature.source_column, pa.nulls(block.num_rows, types[feature.kind]))
    return block


def id_values(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Integers as int64 and strings as large_string, in one chunk; unsigned 64-bit values wrap, one to one."""
    array = _one_chunk(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_integer(array.type):
        return array.cast(pa.int64(), safe=False)
    if pa.types.is_boolean(array.type):
        return array.cast(pa.int64())
    return array.cast(pa.large_string())


def list_values(column: pa.ChunkedArray, max_values: int) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """(row of each value, the value) of a list column: the first ``max_values`` of each row, nulls left out."""
    array = _one_chunk(column)
    rows = pc.list_parent_indices(array).to_numpy()
    values = id_values(pc.list_flatten(array))
    position = np.arange(len(rows)) - np.searchsorted(rows, rows)
    keep = (position < max_values) & ~_is_null(values)
    return rows[keep].astype(np.int64), values.filter(pa.array(keep))


def dense_values(column: pa.ChunkedArray, missing: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """float32 [N] with ``missing`` in place of nulls and non-finite values, and which rows those are."""
    values = _one_chunk(column).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False).astype(np.float32)
    bad = ~np.isfinite(values)
    return np.where(bad, np.float32(missing), values), bad


def side_codes(column: pa.ChunkedArray, num_values: int) -> npt.NDArray[np.int8]:
    """int8 [N]: codes 1..num_values-1, whole numbers of any type; 0 for anything else."""
    codes = _one_chunk(column).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return np.where((codes > 0) & (codes < num_values) & (codes == np.floor(codes)), codes, 0).astype(np.int8)


def _one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _is_true(column: pa.ChunkedArray) -> Any:
    """[N], false for null"""
    return np.asarray(pc.fill_null(_one_chunk(column), False))


def _is_null(array: pa.Array) -> Any:
    return np.asarray(array.is_null())


def _out_of_range(values: pa.Array, key: Key) -> Any:
    if key.encoding != "direct" or key.num_rows is None:
        return np.zeros(len(values), dtype=bool)
    ids = np.asarray(pc.fill_null(values, 1))
    return (ids < 1) | (ids >= key.num_rows)


def _seconds(column: pa.ChunkedArray, key: Time) -> tuple[Any, Any]:
    array = _one_chunk(column)
    unit = key.unit
    if pa.types.is_date(array.type):
        array = array.cast(pa.timestamp("s"))
    if pa.types.is_timestamp(array.type):
        unit = array.type.unit
    missing = _is_null(array)
    ticks = np.asarray(pc.fill_null(array.cast(pa.int64()), 0))
    # Floor, so that times before 1970 keep their order.
    return ticks // _PER_SECOND[unit], missing


def _splits(column: pa.ChunkedArray) -> npt.NDArray[np.int8]:
    """[N] index into ``SPLITS``, ``NO_SPLIT`` for null, ``_UNKNOWN_SPLIT`` for any other text."""
    names = id_values(column)
    codes = np.asarray(pc.fill_null(pc.index_in(names, pa.array(SPLITS, pa.large_string())), _UNKNOWN_SPLIT))
    return np.where(_is_null(names), NO_SPLIT, codes).astype(np.int8)


def _labels(column: pa.ChunkedArray, rule: Label) -> tuple[Any, Any, Any]:
    array = _one_chunk(column)
    missing = _is_null(array)
    values = np.asarray(pc.fill_null(array.cast(pa.float64(), safe=False), 0.0))
    nan = np.isnan(values)
    if rule.at_least is not None:
        values = values >= rule.at_least
    return values.astype(np.float32), missing, nan
