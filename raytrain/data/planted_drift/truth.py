"""What no model is told, as a table beside the data: a row for every user, then one for every item."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.planted_drift.rule import Floats, Rule
from raytrain.storage import Storage

TRUTH_FILE = "truth.parquet"
TRUTH_SCHEMA = pa.schema(
    {
        "entity": pa.string(),  # user or item
        "id": pa.int32(),
        "dormant": pa.bool_(),  # of a user, as is phase
        "phase": pa.int32(),
        "category": pa.int32(),  # of an item, as are natural and ads: whether that domain shows it
        "natural": pa.bool_(),
        "ads": pa.bool_(),
        "vector": pa.list_(pa.float32()),  # [K] of an item; of a user the lasting part of the preference in natural content
        "ad_vector": pa.list_(pa.float32()),  # [K] of a user, the same in ads
    }
)


def truth_table(rule: Rule) -> pa.Table:
    """Null where a column is of the other entity; vectors as ``rule.py`` has them, without the drifting part."""
    item = np.arange(1, rule.spec.num_all_items + 1, dtype=np.int32)
    users = {
        "id": np.arange(1, rule.spec.num_users + 1, dtype=np.int32),
        "dormant": rule.dormant,
        "phase": rule.phase.astype(np.int32),
        "vector": _lists(rule.lasting["natural"]),
        "ad_vector": _lists(rule.lasting["ads"]),
    }
    items = {
        "id": item,
        "category": rule.categories.astype(np.int32),
        **{domain: np.isin(item, ids) for domain, ids in rule.items.items()},
        "vector": _lists(rule.item_vectors),
    }
    return pa.concat_tables([_rows("user", users), _rows("item", items)])


def write_truth(rule: Rule, output: str) -> None:
    """Writes ``TRUTH_FILE`` into ``output``, a directory on any file system, in place of an earlier one."""
    storage = Storage(output)
    with storage.filesystem.open_output_stream(storage.path(TRUTH_FILE)) as sink:
        pq.write_table(truth_table(rule), sink)


def _rows(entity: str, columns: dict[str, npt.NDArray[np.generic] | pa.Array]) -> pa.Table:
    num_rows = len(columns["id"])
    named = {"entity": pa.repeat(pa.scalar(entity), num_rows), **columns}
    missing = {field.name: pa.nulls(num_rows, field.type) for field in TRUTH_SCHEMA if field.name not in named}
    return pa.table({field.name: (named | missing)[field.name] for field in TRUTH_SCHEMA}, TRUTH_SCHEMA)


def _lists(vectors: Floats) -> pa.Array:
    offsets = np.arange(0, vectors.size + 1, vectors.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(vectors.reshape(-1).astype(np.float32)))
