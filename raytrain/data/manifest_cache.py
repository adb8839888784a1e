"""Row counts kept beside the files they were read from, so that a run does not open every footer again.

``_manifest.parquet`` in a directory of Parquet files holds one row a file: its name, size, time of change and the row counts of
its row groups. A row counts only while name, size and time are those of the listing and the file was checked for the same
columns; only other files are opened. Where the cache cannot be read or written, a run goes on without it. Our choice.
"""

import hashlib
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raytrain.storage import Storage

CACHE_FILE = "_manifest.parquet"
NOT_DATA = ("_", ".")
"""How the names of files begin that are no data, as in Hive, Spark and Arrow."""

_CHECKED = b"raytrain.checked"
_SCHEMA = pa.schema({"file": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "num_rows": pa.list_(pa.int64())})

Counts = npt.NDArray[np.int64]


class DataFile(NamedTuple):
    """A file of a listing; size and time stand for its content."""

    name: str
    """relative to the data set"""
    size: int | None
    mtime_ns: int | None
    """None where the file system does not tell, as some behind fsspec: such a file is never cached."""


def list_data_files(storage: Storage, path: str) -> list[DataFile]:
    """The Parquet files directly below ``path`` by name; empty when there is no such directory.

    Raises:
        OSError: ``path`` is a file, or cannot be listed.
    """
    infos = storage.filesystem.get_file_info(fs.FileSelector(storage.path(path), allow_not_found=True))
    found = (info for info in infos if info.is_file and info.base_name.endswith(".parquet") and not info.base_name.startswith(NOT_DATA))
    return sorted(DataFile(f"{path}/{info.base_name}", info.size, info.mtime_ns) for info in found)


def load_counts(storage: Storage, path: str, expected: Mapping[str, pa.DataType]) -> dict[DataFile, Counts]:
    """Row counts of the row groups of every file that was checked for ``expected``; empty without a sound cache."""
    try:
        with storage.filesystem.open_input_file(storage.path(f"{path}/{CACHE_FILE}")) as handle:
            table = pq.ParquetFile(handle, page_checksum_verification=True).read().combine_chunks()
        if table.schema.metadata.get(_CHECKED) != _digest(expected) or not table.schema.equals(_SCHEMA) or not table.num_rows:
            return {}
        lists = table.column("num_rows").chunk(0)
        files = zip(*(table.column(name).to_pylist() for name in _SCHEMA.names[:3]), strict=True)
        parts = np.split(lists.flatten().to_numpy(), lists.offsets.to_numpy()[1:-1])
        return {DataFile(f"{path}/{name}", *stamp): counts for (name, *stamp), counts in zip(files, parts, strict=True)}
    except Exception:
        # Torn, of another program, out of reach: whatever it is, the footers are still there.
        return {}


def save_counts(storage: Storage, path: str, expected: Mapping[str, pa.DataType], counts: Mapping[DataFile, Counts]) -> None:
    """Replaces the cache; without effect where it cannot be written."""
    known = {file: values for file, values in counts.items() if file.size is not None and file.mtime_ns is not None}
    if not known:
        return
    offsets = np.cumsum([0, *(len(values) for values in known.values())]).astype(np.int32)
    flat = np.concatenate([np.empty(0, np.int64), *known.values()])
    columns = [
        pa.array([file.name.rpartition("/")[2] for file in known], pa.string()),
        pa.array([file.size for file in known], pa.int64()),
        pa.array([file.mtime_ns for file in known], pa.int64()),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat)),
    ]
    table = pa.Table.from_arrays(columns, schema=_SCHEMA.with_metadata({_CHECKED: _digest(expected)}))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    try:
        storage.write_bytes(f"{path}/{CACHE_FILE}", buffer.getvalue())
    except Exception:
        # Read-only data is the usual case, and every file system has an error of its own for it.
        return


def _digest(expected: Mapping[str, pa.DataType]) -> bytes:
    """Of the columns and types that a file was checked for."""
    lines = sorted(f"{name}:{column_type}" for name, column_type in expected.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest().encode()
