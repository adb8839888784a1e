"""Second pass of the shuffle: a task gathers one bucket of one domain, sorts it and writes its samples and histories.

The bucket has to fit into the task's memory: raise num_buckets for more data.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raytrain.data.contract import PROBE, SPLITS
from raytrain.data.prepare.days import Days
from raytrain.data.prepare.encode import SIDE_PREFIX, USE_HISTORY, USE_SPLIT, partial_schema
from raytrain.data.prepare.events import NO_SPLIT
from raytrain.data.prepare.fingerprint import held_out, table_digest
from raytrain.data.prepare.scan import Cut
from raytrain.data.prepare.spec import ITEM, LABEL, TIME, USER, EventSpec
from raytrain.storage import Storage


@dataclass(frozen=True)
class Layout:
    """How many rows a row group holds."""

    row_group_rows: int
    """samples"""
    row_group_events: int
    """history events; a row group holds whole users, so one user with more makes a larger one"""


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations; ``+`` is Chan, Golub and LeVeque's (1983) pairwise update."""

    num_rows: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def __add__(self, other: "Moments") -> "Moments":
        total = self.num_rows + other.num_rows
        if total == 0:
            return self
        delta = other.mean - self.mean
        mean = self.mean + delta * other.num_rows / total
        return Moments(total, mean, self.squares + other.squares + delta**2 * self.num_rows * other.num_rows / total)

    @property
    def std(self) -> float:
        """Of the population; 1 for a column that does not vary."""
        return float(np.sqrt(self.squares / self.num_rows)) if self.num_rows and self.squares > 0 else 1.0


@dataclass(frozen=True)
class SampleBucket:
    """One bucket of a split or of a day."""

    num_rows: int
    num_positives: int
    min_time: int | None
    max_time: int | None
    digest: str


@dataclass(frozen=True)
class Bucket:
    """What was written for one bucket of one domain."""

    samples: dict[str, SampleBucket]
    """split, or ISO date of rows that are kept by day -> its samples"""
    num_events: int
    num_users: int
    max_events: int
    history_digest: str
    moments: dict[str, Moments]
    """dense feature that the domain has -> moments of training rows; by day: of those before ``known_until``"""
    train_slices: npt.NDArray[np.int32]
    """distinct slice ids of these rows"""
    slices: npt.NDArray[np.int32]
    """and of all samples"""


def sample_path(domain: str, part: str) -> str:
    """Of a split, or of a day."""
    return f"samples/{domain}/{part}"


def history_path(domain: str) -> str:
    return f"histories/{domain}"


def bucket_file(folder: str, bucket: int) -> str:
    return f"{folder}/bucket-{bucket:05d}.parquet"


def parts_of(domain: str, spec: EventSpec, cut: Cut | Days | None, probe_share: float) -> tuple[str, ...]:
    """The splits, or days, that are written for a domain."""
    if isinstance(cut, Days):
        return cut.names(domain)
    return (*SPLITS, PROBE) if probe_share and domain == spec.target else SPLITS


def write_bucket(
    domain: str,
    bucket: int,
    partial_files: list[str],
    spec: EventSpec,
    cut: Cut | Days | None,
    layout: Layout,
    scratch: Storage,
    output: Storage,
    probe_share: float = 0.0,
) -> Bucket:
    """Writes ``samples/<domain>/<split or day>/bucket`` and ``histories/<domain>/bucket``, empty ones too; without ``cut`` a column splits.

    Training rows of ``probe_share`` of the target's users, chosen by a hash, become the split ``probe``.
    """
    rows = canonical_order(_gather(partial_files, bucket, scratch, partial_schema(spec)))
    samples = rows.select([name for name in rows.column_names if not name.startswith((SIDE_PREFIX, USE_SPLIT, USE_HISTORY))])
    events = rows if spec.in_history is None else rows.filter(pa.array(rows[USE_HISTORY].to_numpy() == 1))
    names = parts_of(domain, spec, cut, probe_share)
    codes, is_known = _codes(rows, domain, cut, names, probe_share)
    written = {}
    for name, part in zip(names, _split_up(samples, codes, len(names)), strict=True):
        write_table(part, output, bucket_file(sample_path(domain, name), bucket), _even_groups(part.num_rows, layout.row_group_rows))
        times = part[TIME].to_numpy()
        written[name] = SampleBucket(
            num_rows=part.num_rows,
            num_positives=int((part[LABEL].to_numpy() > 0).sum()),
            min_time=int(times[0]) if len(times) else None,
            max_time=int(times[-1]) if len(times) else None,
            digest=table_digest(part),
        )
    histories, offsets = history_table(events, spec)
    write_table(histories, output, bucket_file(history_path(domain), bucket), _user_groups(offsets, layout.row_group_events))
    return Bucket(
        samples=written,
        num_events=events.num_rows,
        num_users=histories.num_rows,
        max_events=int(np.diff(offsets).max(initial=0)),
        history_digest=table_digest(histories),
        moments={
            feature.name: _moments(samples[feature.name].to_numpy()[is_known])
            for feature in spec.encoded_features
            if feature.kind == "dense" and feature.name not in spec.domains[domain].absent
        },
        train_slices=_slices(samples, is_known, spec.slice),
        slices=_slices(samples, codes >= 0, spec.slice),
    )


def _codes(
    rows: pa.Table, domain: str, cut: Cut | Days | None, names: tuple[str, ...], probe_share: float
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.bool_]]:
    """([N] index into ``names`` or ``NO_SPLIT``, [N] whether feature scales and known slices may be taken from the row)"""
    times = rows[TIME].to_numpy()
    if isinstance(cut, Days):
        codes = cut.part_of(domain, times)
        if USE_SPLIT in rows.column_names:
            codes[rows[USE_SPLIT].to_numpy() == NO_SPLIT] = NO_SPLIT
        return codes, (codes != NO_SPLIT) & cut.is_known(times)
    codes = (rows[USE_SPLIT].to_numpy() if cut is None else cut.split_of(times)).astype(np.int16)
    if PROBE in names:
        probed = (codes == SPLITS.index("train")) & held_out(rows[USER].to_numpy(), probe_share)
        codes[probed] = names.index(PROBE)
    return codes, codes == SPLITS.index("train")


def _split_up(samples: pa.Table, codes: npt.NDArray[np.int16], count: int) -> Iterator[pa.Table]:
    """The rows of each code 0..count-1, in their order; one pass however many codes there are."""
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(count + 1))
    for start, stop in pairwise(bounds.tolist()):
        yield samples.take(pa.array(order[start:stop]))


def _slices(samples: pa.Table, rows: npt.NDArray[np.bool_], column: str | None) -> npt.NDArray[np.int32]:
    """Distinct slice ids of the rows; 0 where a list has no value."""
    if column is None:
        return np.empty(0, np.int32)
    values = samples[column].filter(pa.array(rows))
    if pa.types.is_list(values.type):
        lists = values.combine_chunks()
        values = lists.filter(pc.greater(pc.list_value_length(lists), 0))
        values = pc.list_element(values, 0)
    return np.unique(values.to_numpy()).astype(np.int32)


def canonical_order(rows: pa.Table) -> pa.Table:
    """Rows by (time, user, item, every other column): rows that still tie are equal, so the result is unique."""
    keys = {name: rows[name] for name in (TIME, USER, ITEM)}
    for name in rows.column_names:
        if name not in keys:
            keys[name] = _list_as_bytes(rows[name]) if pa.types.is_list(rows[name].type) else rows[name]
    order = pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys])
    return rows.take(order)


def history_table(rows: pa.Table, spec: EventSpec) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """(one row a user by ascending id with lists of its events by (time, item), offsets [U + 1] of the users' events)."""
    # The rows come in canonical order and the sort is stable, so inside a user (time, item, rest) order is kept.
    user = rows[USER].to_numpy()
    order = np.argsort(user, kind="stable")
    users, num_events = np.unique(user, return_counts=True)
    offsets = np.concatenate([[0], np.cumsum(num_events)])
    columns: dict[str, pa.Array] = {USER: pa.array(users)}
    names = {ITEM: ITEM, TIME: TIME, **{side.name: SIDE_PREFIX + side.name for side in spec.side_columns}}
    for name, column in names.items():
        columns[name] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(rows[column].to_numpy()[order]))
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in columns.items()])
    return pa.Table.from_arrays(list(columns.values()), schema=schema), offsets


def _list_as_bytes(column: pa.ChunkedArray) -> pa.Array:
    """Lists of non-negative ids as big-endian bytes, which sort as the lists do; Arrow has no order for lists."""
    lengths = np.asarray(pc.list_value_length(column))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64) * 4
    ids = column.combine_chunks().flatten().to_numpy().astype(">i4")
    return pa.Array.from_buffers(pa.large_binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(ids)])


def _gather(files: list[str], bucket: int, scratch: Storage, schema: pa.Schema) -> pa.Table:
    parts = [schema.empty_table()]
    for file in files:
        with scratch.filesystem.open_input_file(scratch.path(file)) as source:
            parts.append(pq.ParquetFile(source).read_row_group(bucket, use_threads=False).cast(schema))
    return pa.concat_tables(parts).combine_chunks()


def write_table(table: pa.Table, output: Storage, name: str, groups: Iterable[tuple[int, int]]) -> None:
    """Writes a file with one row group for each (start, stop) of ``groups``."""
    with (
        output.filesystem.open_output_stream(output.path(name)) as sink,
        pq.ParquetWriter(sink, table.schema, compression="zstd", write_statistics=True, write_page_checksum=True) as writer,
    ):
        for start, stop in groups:
            writer.write_table(table.slice(start, stop - start), row_group_size=stop - start)


def _even_groups(num_rows: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, num_rows, size):
        yield start, min(start + size, num_rows)


def _user_groups(offsets: npt.NDArray[np.int64], max_events: int) -> Iterator[tuple[int, int]]:
    """Ranges of whole users with at most ``max_events`` events, or one user."""
    start, num_users = 0, len(offsets) - 1
    while start < num_users:
        stop = int(np.searchsorted(offsets, offsets[start] + max_events, side="right")) - 1
        stop = max(stop, start + 1)
        yield start, stop
        start = stop


def _moments(values: npt.NDArray[np.float32]) -> Moments:
    if not len(values):
        return Moments()
    wide = values.astype(np.float64)
    mean = float(wide.mean())
    return Moments(len(wide), mean, float(((wide - mean) ** 2).sum()))
