"""What the ids of a prepared data set stand for: vocabularies/<table>.parquet with columns id and value."""

from collections.abc import Collection

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import Contract
from raytrain.storage import Storage

VOCABULARIES = "vocabularies"


def vocabulary_file(table: str) -> str:
    """Its name, seen from the data set; tables of hashed or direct ids have none."""
    return f"{VOCABULARIES}/{table}.parquet"


def slice_names(contract: Contract, data_path: str, slices: Collection[int]) -> dict[int, str]:
    """What some ids of the slice column stand for; ids that nothing is known of are left out.

    A name only makes a report readable: where a vocabulary cannot be read there are none.
    """
    storage = Storage(data_path)
    file = vocabulary_file(contract.slice_table or "")
    try:
        if not slices or not storage.exists(file):
            return {}
        rows = pq.read_table(storage.path(file), filesystem=storage.filesystem, filters=[("id", "in", list(slices))])
    except (OSError, pa.ArrowException):
        return {}
    return {number: str(value) for number, value in zip(rows["id"].to_pylist(), rows["value"].to_pylist(), strict=True)}
