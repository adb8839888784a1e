"""Every block of the events through one function, in parallel, with Ray Data."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
from pyarrow import fs

BLOCK_MIB = 64

Result = TypeVar("Result")


@dataclass(frozen=True)
class BlockRef:
    """Consecutive row groups of one file."""

    domain: str
    filesystem: fs.FileSystem
    path: str
    row_groups: tuple[int, ...]


def plan_blocks(domain: str, filesystem: fs.FileSystem, path: str, row_group_bytes: tuple[int, ...]) -> Iterator[BlockRef]:
    """Cuts a file into blocks of at most ``BLOCK_MIB`` uncompressed, or one row group: what a task holds in memory."""
    row_groups: list[int] = []
    num_bytes = 0
    for number, size in enumerate(row_group_bytes):
        if row_groups and num_bytes + size > BLOCK_MIB * 2**20:
            yield BlockRef(domain, filesystem, path, tuple(row_groups))
            row_groups, num_bytes = [], 0
        row_groups.append(number)
        num_bytes += size
    if row_groups:
        yield BlockRef(domain, filesystem, path, tuple(row_groups))


def map_blocks(blocks: list[BlockRef], columns: set[str], function: Callable[[str, pa.Table], Result]) -> Iterator[tuple[str, Result]]:
    """Yields (domain, ``function`` of it and the block's rows) for every block, in any order.

    One Ray Data execution over the numbers of the blocks, whatever files and schemas they have: each execution costs a
    second before its first block, and the driver has read the footers already.
    """
    shared, names = ray.put(blocks), sorted(columns)

    def run(batch: Any) -> pa.Table:
        refs: list[BlockRef] = ray.get(shared)
        results = [(refs[number].domain, function(refs[number].domain, _read(refs[number], names))) for number in batch["id"]]
        return pa.table({"result": pa.array([pickle.dumps(result) for result in results], pa.large_binary())})

    numbers = ray.data.range(len(blocks), override_num_blocks=len(blocks))
    results = numbers.map_batches(run, batch_size=None, batch_format="numpy")
    return (pickle.loads(row["result"]) for row in results.iter_rows())


def _read(block: BlockRef, columns: list[str]) -> pa.Table:
    with block.filesystem.open_input_file(block.path) as source:
        return pq.ParquetFile(source, pre_buffer=True).read_row_groups(block.row_groups, columns=columns, use_threads=False)
