"""First pass of the shuffle: a block of raw events becomes one partial file whose row group k holds the rows of bucket k."""

import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raytrain.data.prepare.events import NO_SPLIT, clean, dense_values, id_values, list_values, side_codes
from raytrain.data.prepare.fingerprint import bucket_of, hashed_ids
from raytrain.data.prepare.spec import ITEM, LABEL, TIME, USER, EventSpec, FeatureSpec, IdSpace
from raytrain.storage import Storage

SIDE_PREFIX = "side/"
"""Of side columns in partial files, where a feature may have the same name."""
USE_SPLIT, USE_HISTORY = "use/split", "use/history"
"""Columns of partial files that no sample has: index into SPLITS or NO_SPLIT, and 1 for an event of the history."""


@dataclass(frozen=True)
class BlockParts:
    """One block's partial file. A task that is retried leaves a file nobody names; it goes with the scratch directory."""

    file: str
    num_rows: int
    users: npt.NDArray[np.int32]
    """distinct ids"""
    items: npt.NDArray[np.int32]
    unknown: Counter[str]
    """feature -> samples, side column -> events of a history with id 0 (dense: with a missing value)"""


def partial_schema(spec: EventSpec) -> pa.Schema:
    """Columns of partial files: keys, label, features as the samples have them, side columns, uses that columns declare."""
    types = {"id": pa.int32(), "multi": pa.list_(pa.int32()), "dense": pa.float32()}
    fields = [(USER, pa.int32()), (ITEM, pa.int32()), (TIME, pa.int64()), (LABEL, pa.float32())]
    fields += [(feature.name, types[feature.kind]) for feature in spec.encoded_features]
    fields += [(SIDE_PREFIX + side.name, pa.int8()) for side in spec.side_columns]
    fields += [(USE_SPLIT, pa.int8())] if spec.split.marks_samples else []
    fields += [(USE_HISTORY, pa.int8())] if spec.in_history is not None else []
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def encode_block(
    block: pa.Table, spec: EventSpec, vocabularies: Mapping[str, pa.Array], num_buckets: int, scratch: Storage, folder: str
) -> BlockParts:
    """Encodes one block and writes its partial file below ``folder`` of ``scratch``."""
    events, _ = clean(block, spec)
    unknown: Counter[str] = Counter()
    user = _ids(events.user, spec.keys.user, vocabularies.get(USER))
    item = _ids(events.item, spec.keys.item, vocabularies.get(ITEM))
    columns = [pa.array(user), pa.array(item), pa.array(events.time), pa.array(events.label)]
    is_sample = np.ones(len(user), bool) if events.split is None else events.split != NO_SPLIT
    is_event = np.ones(len(user), bool) if events.in_history is None else events.in_history
    for feature in spec.encoded_features:
        column, missing = _feature(feature, events.block[feature.source_column], vocabularies.get(feature.table_name))
        unknown[feature.name] = int((missing & is_sample).sum())
        columns.append(column)
    for side in spec.side_columns:
        codes = side_codes(events.block[side.source_column], side.num_values)
        unknown[SIDE_PREFIX + side.name] = int(((codes == 0) & is_event).sum())
        columns.append(pa.array(codes))
    columns += [pa.array(use.astype(np.int8)) for use in (events.split, events.in_history) if use is not None]
    table = pa.Table.from_arrays(columns, schema=partial_schema(spec))
    file = f"{folder}/{uuid.uuid4().hex}.parquet"
    _write_by_bucket(table, bucket_of(user, num_buckets), num_buckets, scratch, file)
    return BlockParts(file, len(user), np.unique(user), np.unique(item), +unknown)


def _ids(values: pa.Array, space: IdSpace, vocabulary: pa.Array | None) -> npt.NDArray[np.int32]:
    if values.null_count == len(values):
        return np.zeros(len(values), np.int32)
    if vocabulary is not None:
        return np.asarray(pc.fill_null(pc.index_in(values, vocabulary), -1), dtype=np.int32) + np.int32(1)
    assert space.num_rows is not None
    if space.encoding == "hash":
        return hashed_ids(values, space.num_rows)
    ids = np.asarray(pc.fill_null(values, 0))
    return np.where((ids > 0) & (ids < space.num_rows), ids, 0).astype(np.int32)


def _feature(feature: FeatureSpec, column: pa.ChunkedArray, vocabulary: pa.Array | None) -> tuple[pa.Array, npt.NDArray[np.bool_]]:
    """The encoded column, and the rows where nothing is known."""
    if feature.kind == "dense":
        values, missing = dense_values(column, feature.missing)
        return pa.array(values), missing
    if feature.kind == "id":
        ids = _ids(id_values(column), feature, vocabulary)
        return pa.array(ids), ids == 0
    assert feature.max_values is not None
    rows, parts = list_values(column, feature.max_values)
    ids = _ids(parts, feature, vocabulary)
    rows, ids = rows[ids > 0], ids[ids > 0]
    lengths = np.bincount(rows, minlength=len(column))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)), lengths == 0


def _write_by_bucket(table: pa.Table, bucket: npt.NDArray[np.int64], num_buckets: int, scratch: Storage, file: str) -> None:
    order = np.argsort(bucket, kind="stable")
    stops = np.cumsum(np.bincount(bucket, minlength=num_buckets))
    table = table.take(pa.array(order))
    with scratch.filesystem.open_output_stream(scratch.path(file)) as sink, pq.ParquetWriter(sink, table.schema) as writer:
        for start, stop in zip([0, *stops[:-1]], stops, strict=True):
            # Empty buckets are written too, so that row group k is bucket k.
            writer.write_table(table.slice(start, stop - start), row_group_size=max(1, stop - start))
