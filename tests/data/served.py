"""What a stream serves, read without a cluster, in a form tests compare."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from raytrain.config import DataSection
from raytrain.data.contract import Contract
from raytrain.data.manifest import read_manifest
from raytrain.data.provenance import EPOCH, FRAGMENT, ROW, STATUS
from raytrain.data.reader import unwrap
from raytrain.data.stream import StreamSpec

Arrays = dict[str, npt.NDArray[np.generic]]


def stream_spec(
    contract: Contract,
    path: str | Path,
    batch_size: int = 8,
    histories: tuple[str, ...] = (),
    shuffle: bool = True,
    seed: int = 0,
    domain: str = "target",
    split: str = "train",
    quarantine_path: str | None = None,
    **data: int,
) -> StreamSpec:
    """A stream of one epoch; ``data`` overrides keys of DataSection."""
    section = DataSection.parse({"path": str(path), "batch_size": batch_size, **data}, "test")
    manifest = read_manifest(contract, str(path), domain, split)
    return StreamSpec(contract, section, domain, split, manifest, batch_size, histories, shuffle, seed, quarantine_path=quarantine_path)


def micro_batches_for(spec: StreamSpec, world_size: int = 1) -> list[Arrays]:
    """Every micro-batch as numpy arrays of its time and provenance columns, global batch by global batch, rank by rank."""
    names = ("time", EPOCH, FRAGMENT, ROW, STATUS)
    found = []
    for task in spec.source(world_size).get_read_tasks(-1):
        for row in task():
            columns = unwrap(row)
            found.append({name: columns[name].to_numpy() for name in names})
    return found


def global_batches(spec: StreamSpec, world_size: int = 1) -> list[set[tuple[int, int, int]]]:
    """The (epoch, fragment, row) of every global batch; fails when one holds a row twice."""
    micro = micro_batches_for(spec, world_size)
    assert len(micro) % world_size == 0
    batches = []
    for first in range(0, len(micro), world_size):
        rows = [keys for part in micro[first : first + world_size] for keys in keys_of(part)]
        assert len(set(rows)) == len(rows)
        batches.append(set(rows))
    return batches


def keys_of(part: Arrays) -> list[tuple[int, int, int]]:
    """(epoch, fragment, row) of the rows that are not padding."""
    real = part[FRAGMENT] >= 0
    return list(zip(part[EPOCH][real].tolist(), part[FRAGMENT][real].tolist(), part[ROW][real].tolist(), strict=True))
