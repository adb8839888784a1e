"""Rows that cannot be trained on: found, given weight 0, counted, and saved with reason and provenance."""

import io
import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raytrain.data.contract import Contract
from raytrain.data.provenance import FRAGMENT, ROW, STATUS, STATUS_OK, STATUS_QUARANTINED
from raytrain.data.window import Window
from raytrain.storage import Storage

Strings = npt.NDArray[np.object_]


def empty_rows(schema: pa.Schema, num_rows: int) -> pa.Table:
    """Rows of nulls: how an unreadable row group enters ``check_rows``."""
    return pa.table({field.name: pa.nulls(num_rows, field.type) for field in schema})


def check_rows(contract: Contract, rows: pa.Table) -> tuple[pa.Table, Strings]:
    """Finds bad rows and makes them harmless.

    Returns:
        The rows with a column ``_status`` (int8, STATUS_*), every null and out-of-range value of a bad row replaced by 0 so
        that it can pass through a model with weight 0; and one reason a row, "" where it is good.
    """
    reasons = np.full(rows.num_rows, "", dtype=object)
    keys = (contract.user, contract.item, contract.time)
    everything_null = np.ones(rows.num_rows, bool)
    for name in keys:
        null = _is_null(rows, name)
        everything_null &= null
        _mark(reasons, null, f"null {name}")
    label = rows.column(contract.label)
    label_values = pc.fill_null(label, 0.0).to_numpy()
    everything_null &= _is_null(rows, contract.label)
    reasons[everything_null] = "unreadable row group"
    _mark(reasons, _is_null(rows, contract.label) | np.isnan(label_values), f"{contract.label} is NaN or null")
    if contract.amount is None:
        usable = (label_values == 0) | (label_values == 1)
        _mark(reasons, ~usable, f"{contract.label} is neither 0 nor 1")
    else:
        usable = np.isfinite(label_values) & (label_values >= 0)
        _mark(reasons, np.isinf(label_values), f"{contract.label} is infinite")
        _mark(reasons, ~usable, f"{contract.label} is negative")
    # Not a product: infinity times 0 is NaN, and a NaN loss survives its weight of 0.
    rows = _replace(rows, contract.label, np.where(usable, label_values, np.float32(0)))
    for feature in contract.features:
        if feature.kind == "id":
            rows = _check_ids(rows, feature.name, contract.table_of(feature).num_rows, reasons)
        elif feature.kind == "multi":
            rows = _check_multi(rows, feature.name, contract.table_of(feature).num_rows, reasons)
        else:
            values = pc.fill_null(rows.column(feature.name), np.nan).to_numpy()
            _mark(reasons, ~np.isfinite(values), f"{feature.name} is null or not finite")
            rows = _replace(rows, feature.name, np.nan_to_num(values, posinf=0.0, neginf=0.0))
    if contract.slice is not None and all(feature.name != contract.slice for feature in contract.features):
        # Null is a slice that nobody knows; nothing is looked up by it.
        rows = _replace(rows, contract.slice, pc.fill_null(rows.column(contract.slice), 0))
        rows = _check_ids(rows, contract.slice, contract.num_slices, reasons)
    # After the features: a key or group that is a feature too has to be found null first.
    for name in {*keys, contract.group}:
        rows = _replace(rows, name, pc.fill_null(rows.column(name), 0))
    status = np.where(reasons == "", STATUS_OK, STATUS_QUARANTINED).astype(np.int8)
    return rows.append_column(STATUS, pa.array(status)), reasons


def save_quarantine(path: str, window: Window, rows: pa.Table, reasons: Strings) -> None:
    """Writes the bad rows of a window as one Parquet file; a repeated task writes the same file again."""
    bad = np.nonzero(reasons != "")[0]
    files = {part.fragment: (part.file, part.row_group) for part in window.slices}
    fragments = rows.column(FRAGMENT).to_numpy()[bad]
    table = pa.table(
        {
            "file": [files[fragment][0] for fragment in fragments],
            "row_group": [files[fragment][1] for fragment in fragments],
            "row": rows.column(ROW).take(pa.array(bad)),
            "reason": [reasons[index] for index in bad],
        }
    )
    split = re.sub(r"[^A-Za-z0-9]+", "-", window.slices[0].file.rpartition("/")[0])
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    Storage(path).write_bytes(f"{split}-epoch{window.epoch}-window{window.index:06d}.parquet", buffer.getvalue())


def _check_ids(rows: pa.Table, name: str, num_rows: int, reasons: Strings) -> pa.Table:
    null = _is_null(rows, name)
    values = pc.fill_null(rows.column(name), 0).to_numpy()
    outside = (values < 0) | (values >= num_rows)
    _mark(reasons, null, f"null {name}")
    _mark(reasons, outside, f"{name} is outside [0, {num_rows})")
    return _replace(rows, name, np.where(outside, 0, values).astype(np.int32))


def _check_multi(rows: pa.Table, name: str, num_rows: int, reasons: Strings) -> pa.Table:
    column = rows.column(name).combine_chunks()
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    _mark(reasons, array.is_null().to_numpy(zero_copy_only=False), f"null {name}")
    array = pc.fill_null(array, pa.scalar([], type=array.type))
    values = pc.fill_null(array.flatten(), -1).to_numpy()
    outside = (values < 0) | (values >= num_rows)
    owners = pc.list_parent_indices(array).to_numpy()
    bad = np.zeros(rows.num_rows, bool)
    bad[owners[outside]] = True
    _mark(reasons, bad, f"{name} is outside [0, {num_rows})")
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(array).to_numpy())]).astype(np.int32)
    clean = pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.where(outside, 0, values).astype(np.int32)))
    return _replace(rows, name, clean)


def _is_null(rows: pa.Table, name: str) -> npt.NDArray[np.bool_]:
    return np.asarray(rows.column(name).is_null().to_numpy())


def _mark(reasons: Strings, bad: npt.NDArray[np.bool_], reason: str) -> None:
    """The first reason found stays."""
    reasons[bad & (reasons == "")] = reason


def _replace(rows: pa.Table, name: str, values: object) -> pa.Table:
    index = rows.column_names.index(name)
    column = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    return rows.set_column(index, name, column.cast(rows.schema.field(name).type))
