"""A small spec and tables for it."""

import pyarrow as pa

from raytrain.data.prepare.spec import EventSpec


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
