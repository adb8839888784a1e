"""A whole split in memory, for models that cannot stream: the plain baselines.

Reading goes through ``read_window``, so a row is good or bad by the same rules as in a streamed run; memory is checked
from the footers before a row is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raytrain.data.contract import Contract
from raytrain.data.fragments import FragmentPlan
from raytrain.data.history import load_histories
from raytrain.data.manifest import Manifest
from raytrain.data.manifest_cache import list_data_files
from raytrain.data.provenance import STATUS, STATUS_OK, STATUS_QUARANTINED
from raytrain.data.reader import Reading, read_window, unwrap
from raytrain.errors import ResourceError
from raytrain.storage import Storage

BLOCK_ROWS = 1 << 17
"""Rows read at a time; row groups that a block's border cuts are read twice."""
MIB = 1 << 20

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """The good rows of one or several splits: the contract's sample columns with ``_fragment`` and ``_row``, N rows."""

    rows: pa.Table
    num_quarantined: int

    @property
    def num_rows(self) -> int:
        return int(self.rows.num_rows)

    def column(self, name: str) -> npt.NDArray[np.generic]:
        """[N], of a key, label, id, dense or provenance column, in its own type."""
        return np.asarray(self.rows.column(name).to_numpy())

    def lists(self, name: str) -> tuple[npt.NDArray[np.int32], Ints]:
        """A multi-valued feature as (values, row of each value), both [number of values]."""
        array = self.rows.column(name).combine_chunks()
        flat = array if isinstance(array, pa.ListArray) else pa.concat_arrays(array.chunks)
        return flat.flatten().to_numpy(), pc.list_parent_indices(flat).to_numpy().astype(np.int64)

    def first_ids(self, name: str) -> Ints:
        """[N], of an id column as it is, of a multi-valued one the first id, 0 where it has none."""
        if not pa.types.is_list(self.rows.schema.field(name).type):
            return self.column(name).astype(np.int64)
        values, owner = self.lists(name)
        first = np.zeros(self.num_rows, np.int64)
        rows, index = np.unique(owner, return_index=True)
        first[rows] = values[index]
        return first


@dataclass(frozen=True)
class Events:
    """E events of one domain's histories, user after user in the order of the files, each user's in time order."""

    user: Ints
    """[E]"""
    item: npt.NDArray[np.int32]
    """[E]"""
    time: Ints
    """[E], seconds"""
    side: dict[str, npt.NDArray[np.int8]]
    """[E] each, of the side information that is stored (not derived)."""


def read_frame(contract: Contract, data_path: str, manifest: Manifest) -> Frame:
    """Reads a split in the order of its manifest; bad rows are left out and counted.

    ``_fragment`` (int32) indexes the manifest's row groups, ``_row`` (int32) the rows inside one.
    """
    plan = FragmentPlan(manifest, BLOCK_ROWS, window_batches=1, shuffle=False)
    reading = Reading(contract, data_path, BLOCK_ROWS, world_size=1, shuffle=False, seed=0, history_length=1, histories=())
    blocks, num_quarantined = [], 0
    for window in plan.windows(0):
        for wrapped in read_window(reading, window):
            block = pa.table(unwrap(wrapped))
            status = block.column(STATUS).to_numpy()
            num_quarantined += int((status == STATUS_QUARANTINED).sum())
            blocks.append(block.filter(pa.array(status == STATUS_OK)).drop_columns([STATUS]))
    return Frame(pa.concat_tables(blocks).combine_chunks(), num_quarantined)


def concat_frames(frames: Sequence[Frame]) -> Frame:
    """The rows of all, in order; provenance columns keep counting from each one's own start."""
    rows = pa.concat_tables([frame.rows for frame in frames]).combine_chunks()
    return Frame(rows, sum(frame.num_quarantined for frame in frames))


def read_events(contract: Contract, data_path: str, domain: str, users: Ints) -> Events:
    """Reads the whole histories of ``users`` ([U], ascending, unique) in one domain.

    Raises:
        DataError: a history file is missing, unreadable or breaks its contract.
    """
    history = contract.domains[domain].history
    assert history is not None, domain
    storage = Storage(data_path)
    forever, everything = np.full(len(users), np.iinfo(np.int64).max), np.iinfo(np.int64).max
    files = [file.name for file in list_data_files(storage, history.path)]
    found = load_histories(storage, history, files, users, forever, everything, contract.tables[history.table].num_rows)
    order = np.argsort(found.starts, kind="stable")
    side = {info.name: found.events[info.name].astype(np.int8) for info in history.side if info.derived_from == "column"}
    return Events(
        user=np.repeat(users[order], found.lengths[order]),
        item=found.events["item"].astype(np.int32),
        time=found.events["time"].astype(np.int64),
        side=side,
    )


def check_memory(
    num_rows: int,
    bytes_per_row: int,
    max_memory_mib: int,
    key: str = "model.max_memory_mib",
    instead: str = "train a model that streams (din)",
) -> None:
    """Compares what rows would take in memory with what a job may.

    Args:
        bytes_per_row: everything that is kept or computed for one, at its most.
        key: the setting that ``max_memory_mib`` is of. instead: what needs less.

    Raises:
        ResourceError: it is more than ``max_memory_mib``.
    """
    need_mib = num_rows * bytes_per_row / MIB
    if need_mib > max_memory_mib:
        raise ResourceError(
            f"Whole splits are held in memory, which has to fit {key}. "
            f"Received: {num_rows:,} samples and history events x {bytes_per_row:,} bytes = {need_mib:,.1f} MiB, "
            f"{key}={max_memory_mib:,}. Raise it on a larger machine, prepare fewer rows, or {instead}."
        )
