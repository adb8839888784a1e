"""A small spec, tables for it, and the prepare job without Ray."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import Contract, save_contract
from raytrain.data.prepare.check import check_events
from raytrain.data.prepare.encode import encode_block
from raytrain.data.prepare.events import add_absent
from raytrain.data.prepare.result import EncodedDomain, build_contract
from raytrain.data.prepare.scan import Scan, scan_block
from raytrain.data.prepare.spec import EventSpec
from raytrain.data.prepare.write import Layout, history_path, parts_of, sample_path, write_bucket
from raytrain.storage import Storage


def spec(**changes) -> EventSpec:
    values = {
        "dataset": "toy",
        "domains": {"ads": {"role": "target", "path": "ads"}, "feed": {"role": "source", "path": "feed"}},
        "label": {"column": "rating", "at_least": 4},
        "features": [
            "user",
            "item",
            "country",
            {"name": "tags", "kind": "multi", "max_values": 2},
            {"name": "hour", "encoding": "direct", "num_rows": 25},
            {"name": "price", "kind": "dense", "missing": -1.0},
        ],
        "side": [{"name": "rating", "num_values": 6}, {"name": "age", "derived_from": "age"}],
        "split": {"valid_from": 0.5, "test_from": 0.75},
        "slice": "country",
    }
    return EventSpec.parse(values | changes, "test")


SCHEMA = pa.schema(
    {
        "user": pa.int64(),
        "item": pa.string(),
        "time": pa.int64(),
        "rating": pa.float64(),
        "country": pa.string(),
        "tags": pa.list_(pa.string()),
        "hour": pa.int64(),
        "price": pa.float64(),
    }
)


def events(*rows: tuple) -> pa.Table:
    """Each row: user, item, time, rating, country, tags, hour, price."""
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


def with_uses(table: pa.Table, split: list[str | None], in_history: list[bool | None] | None = None) -> pa.Table:
    """``table`` with columns split and, where given, in_history."""
    table = table.append_column("split", pa.array(split, pa.string()))
    return table if in_history is None else table.append_column("in_history", pa.array(in_history, pa.bool_()))


def prepare_here(
    stage: Callable[[Storage], EventSpec], path: Path, num_buckets: int = 2, probe_share: float = 0.0
) -> tuple[Contract, Scan]:
    """What ``prepare_events`` writes, by the same steps in this process."""
    storage, scratch = Storage(str(path)), Storage(str(path / "_scratch"))
    declared = stage(scratch)
    files = check_events(declared)
    tables = {name: [pq.read_table(file) for file in dict.fromkeys(block.path for block in found.blocks)] for name, found in files.items()}
    scan = Scan(declared)
    for name, parts in tables.items():
        for part in parts:
            scan.add(name, scan_block(add_absent(part, declared, name), declared))
    scan.check()
    cut, vocabularies = scan.cut(), scan.vocabularies()
    rows = {table: count or len(vocabularies[table]) + 1 for table, count in declared.table_rows().items()}
    encoded, buckets = {name: EncodedDomain.empty(rows) for name in tables}, {}
    for name, parts in tables.items():
        for folder in (
            f"_scratch/partials/{name}",
            history_path(name),
            *(sample_path(name, part) for part in parts_of(name, declared, cut, probe_share)),
        ):
            (path / folder).mkdir(parents=True)
        for part in parts:
            encoded[name].add(
                encode_block(add_absent(part, declared, name), declared, vocabularies, num_buckets, scratch, f"partials/{name}")
            )
        where = (encoded[name].files, declared, cut, Layout(64, 512), scratch, storage)
        buckets[name] = [write_bucket(name, bucket, *where, probe_share) for bucket in range(num_buckets)]
    contract = build_contract(declared, rows, encoded, buckets, num_buckets)
    save_contract(contract, storage.uri)
    return contract, scan
