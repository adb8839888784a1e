"""Hashes that are the same on every machine and for every number of workers."""

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raytrain.data.hashing import splitmix64


def bucket_of(user: npt.NDArray[np.int32], num_buckets: int) -> npt.NDArray[np.int64]:
    """[N] bucket of each encoded user id: its hash modulo ``num_buckets``."""
    return (splitmix64(user) % np.uint64(num_buckets)).astype(np.int64)


def held_out(user: npt.NDArray[np.int32], share: float) -> npt.NDArray[np.bool_]:
    """[N], true for about ``share`` of the user ids; which ones has nothing to do with their bucket."""
    twice = splitmix64(splitmix64(user).view(np.int64))
    return np.asarray(twice < np.uint64(min(share * 2.0**64, 2.0**64 - 1024)))


def hashed_ids(values: pa.Array, num_rows: int) -> npt.NDArray[np.int32]:
    """[N] ids 1..num_rows-1 by BLAKE2b of the value's text, so that 12 and "12" agree; 0 for null."""
    distinct = values.dictionary_encode()
    digests = (hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in distinct.dictionary.to_pylist())
    ids = np.fromiter((1 + int.from_bytes(digest, "big") % (num_rows - 1) for digest in digests), np.int32, len(distinct.dictionary))
    codes = np.asarray(pc.fill_null(distinct.indices, -1))
    # Index -1, a null, finds the 0 at the end.
    return np.asarray(np.append(ids, np.int32(0))[codes])


def table_digest(table: pa.Table) -> str:
    """SHA-256 over names, types and values, column by column, in row order; how the rows are chunked does not enter."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
        assert column.null_count == 0, name
        digest.update(f"{name}:{column.type}:{len(column)};".encode())
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            digest.update(np.asarray(pc.list_value_length(column)).astype("<i4").tobytes())
            column = column.flatten()
        values = np.ascontiguousarray(column.to_numpy(zero_copy_only=False))
        digest.update(values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()


def combined_digest(parts: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over (name, digest) pairs in the order given."""
    digest = hashlib.sha256()
    for name, part in parts:
        digest.update(f"{name}={part}\n".encode())
    return digest.hexdigest()
