"""What a read task does: read one window, check every row, shuffle, join histories, emit micro-batches.

A micro-batch leaves as an Arrow table *of one row*: every column is wrapped in a list. Ray therefore never slices, merges
or drops sample rows, and collation and shuffling cost the training process nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import Contract
from raytrain.data.history import load_histories
from raytrain.data.manifest import sample_schema
from raytrain.data.provenance import CURSOR, EPOCH, FRAGMENT, ROW, STATUS, STATUS_PADDING
from raytrain.data.quarantine import check_rows, empty_rows, save_quarantine
from raytrain.data.window import FragmentSlice, Window, micro_batches
from raytrain.errors import DataError, StreamError
from raytrain.storage import Storage


@dataclass(frozen=True)
class Reading:
    """Everything a read task has to know besides its window."""

    contract: Contract
    data_path: str
    batch_size: int
    world_size: int
    shuffle: bool
    seed: int
    history_length: int
    histories: tuple[str, ...]
    """Domains whose history is joined."""
    quarantine_path: str | None = None
    """Directory for bad rows; null counts them only."""
    cursor: str = ""
    """Hash of the cursor that the stream was planned from."""
    event_ages: bool = False
    """Join the events' ages in seconds too."""


def read_window(reading: Reading, window: Window) -> Iterator[pa.Table]:
    """Yields the window's micro-batches in order (global batch, then rank), each wrapped into one row.

    Columns: the sample columns, ``<history>/<column>`` lists, the provenance ``_epoch, _fragment, _row, _status``, and one
    value ``_cursor``.
    """
    storage = Storage(reading.data_path)
    rows, reasons = check_rows(reading.contract, _read_rows(reading, storage, window))
    served = np.zeros(rows.num_rows, dtype=bool)
    served[window.order(reading.shuffle, reading.seed)] = True
    reasons[~served] = ""
    if reading.quarantine_path is not None and any(reasons):
        save_quarantine(reading.quarantine_path, window, rows, reasons)
    users = rows.column(reading.contract.user).to_numpy().astype(np.int64)
    times = rows.column(reading.contract.time).to_numpy()
    files = sorted({part.file.rpartition("/")[2] for part in window.slices})
    joined = {}
    for name in reading.histories:
        history = reading.contract.domains[name].history
        assert history is not None, name
        paths = [f"{history.path}/{file}" for file in files]
        num_items = reading.contract.tables[history.table].num_rows
        joined[name] = load_histories(storage, history, paths, users, times, reading.history_length, num_items)
    padding = rows.num_rows
    rows = pa.concat_tables([rows, _padding_row(rows.schema, window.epoch)]).combine_chunks()
    for chosen in micro_batches(window.left(reading.shuffle, reading.seed), reading.batch_size, reading.world_size):
        batch = rows.take(pa.array(np.where(chosen >= 0, chosen, padding)))
        columns = {name: batch.column(name) for name in batch.column_names}
        for name, history_rows in joined.items():
            columns |= {f"{name}/{column}": values for column, values in history_rows.cut(chosen, reading.event_ages).items()}
        yield wrap(pa.table(columns)).append_column(CURSOR, pa.array([reading.cursor]))


def wrap(batch: pa.Table) -> pa.Table:
    """b rows -> one row whose columns are lists of b; no copy of values."""
    offsets = pa.array([0, batch.num_rows], type=pa.int32())
    return pa.table({name: pa.ListArray.from_arrays(offsets, _one_chunk(batch.column(name))) for name in batch.column_names})


def unwrap(row: pa.Table) -> dict[str, pa.Array]:
    """The inverse of ``wrap``: column -> array of b values."""
    return {name: _one_chunk(row.column(name)).flatten() for name in row.column_names if name != CURSOR}


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)


def _read_rows(reading: Reading, storage: Storage, window: Window) -> pa.Table:
    """The window's rows in plan order with their provenance; an unreadable row group gives rows of nulls."""
    schema = pa.schema(list(sample_schema(reading.contract).items()))
    tables = []
    for part in window.slices:
        table = _read_slice(storage, part, schema)
        provenance = {
            EPOCH: np.full(part.num_rows, window.epoch, np.int32),
            FRAGMENT: np.full(part.num_rows, part.fragment, np.int32),
            ROW: np.arange(part.start, part.stop, dtype=np.int32),
        }
        for name, values in provenance.items():
            table = table.append_column(name, pa.array(values))
        tables.append(table)
    return pa.concat_tables(tables).combine_chunks()


def _read_slice(storage: Storage, part: FragmentSlice, schema: pa.Schema) -> pa.Table:
    """The slice's rows; nulls where the row group is damaged, which check_rows counts as "unreadable row group".

    Raises:
        DataError: the file is gone.
        StreamError: its storage cannot be reached.
    """
    try:
        with storage.open_steady(part.file) as handle:
            parquet = pq.ParquetFile(handle, pre_buffer=True, page_checksum_verification=True)
            table = parquet.read_row_group(part.row_group, columns=schema.names, use_threads=False)
        rows = table.slice(part.start, part.num_rows).select(schema.names).cast(schema)
    except FileNotFoundError as err:
        raise DataError(
            f"{storage.join(part.file)} has to be there for every worker. Received: no such file. Put the data where all machines see it."
        ) from err
    except (pa.ArrowException, OSError) as err:
        if isinstance(err, OSError) and err.errno:
            raise StreamError(
                f"{storage.join(part.file)} has to be readable. Received: {err}. Check the storage, then resume the run."
            ) from err
        rows = schema.empty_table()
    return rows if rows.num_rows == part.num_rows else empty_rows(schema, part.num_rows)


def _padding_row(schema: pa.Schema, epoch: int) -> pa.Table:
    """The row that stands in where a micro-batch has fewer rows than its rank needs."""
    values: dict[str, npt.NDArray[np.generic] | list[list[int]]] = {}
    for field in schema:
        values[field.name] = [[]] if pa.types.is_list(field.type) else np.zeros(1, field.type.to_pandas_dtype())
    values |= {EPOCH: np.array([epoch]), FRAGMENT: np.array([-1]), ROW: np.array([-1]), STATUS: np.array([STATUS_PADDING])}
    return pa.table({field.name: pa.array(values[field.name], type=field.type) for field in schema})
