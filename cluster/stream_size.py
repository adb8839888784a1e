"""What a job's streams take, as arithmetic: the plan of row groups where it is made, cursors, histories that are read, batches.

Shapes: G rows of a global batch, R ranks, L events of a history.
"""

from dataclasses import dataclass
from math import ceil

from cluster.data_size import DataSize, DomainSize
from cluster.measured import CURSOR_FILE_BYTES, CURSOR_ROW_BYTES, FILE_BYTES, FRAGMENT_BYTES, SLICE_BYTES, WINDOW_BYTES
from raytrain.config import JobConfig
from raytrain.data.contract import Contract, History
from raytrain.embeddings.plan import FLOAT_BYTES
from raytrain.footprint import AGE_BYTES, TENSOR_BYTES
from raytrain.models.declared import declared_histories, reads_event_ages, reads_slices

ROARING_VALUES = 2**16
"""Of a container, which is at most a bitmap of 8 KiB."""
ROARING_HEADER_BYTES = 8
ITEM_AND_TIME_BYTES = 12
"""Of a history event on disk, before compression."""


@dataclass(frozen=True)
class StreamSize:
    """One trained domain, over all of a run's epochs."""

    domain: str
    size: DomainSize
    batch_size: int
    """G"""
    window_rows: int
    rows_in_all: int
    """That the run trains on, every epoch counted."""
    windows: int
    """That these are in; an epoch begins with a new one."""
    open_windows: int
    """Windows that a checkpoint may find partly trained."""

    @property
    def slices(self) -> int:
        """Row groups in all windows; one that lies across a boundary is in two."""
        return ceil(self.rows_in_all / self.size.row_group_rows) + self.windows

    @property
    def plan_bytes(self) -> int:
        """Peak of planning a launch: the manifest, an epoch's order, and every window of the rest with its read task."""
        held = SLICE_BYTES * self.slices + WINDOW_BYTES * self.windows
        return FILE_BYTES * self.size.num_files + FRAGMENT_BYTES * self.size.num_row_groups + held

    @property
    def open_fragments(self) -> int:
        in_a_window = ceil(self.window_rows / self.size.row_group_rows) + 1
        return min(self.size.num_row_groups, self.open_windows * in_a_window)

    @property
    def cursor_bytes(self) -> int:
        """At most: complete row groups in no order at all, and every row group of the open windows one row short of complete."""
        an_open_one = CURSOR_ROW_BYTES + roaring_bytes(self.size.row_group_rows)
        return roaring_bytes(self.size.num_row_groups) + self.open_fragments * an_open_one

    def buckets_opened(self, job: JobConfig, contract: Contract) -> int:
        """History files of each domain that a window's users are in: those of the buckets that its row groups lie in."""
        files = min(self.size.num_files, job.data.files_per_window)
        in_order = ceil(self.window_rows * self.size.num_files / self.size.num_rows)
        slices = ceil(self.window_rows / self.size.row_group_rows) + 1
        return min(buckets(contract, self), max(in_order, min(files, slices)))


def streams_of(job: JobConfig, size: DataSize, num_workers: int) -> tuple[StreamSize, ...]:
    """The trained domains, target first; the source lasts as long as the target's epochs do."""
    batch_sizes = (job.data.batch_size, job.data.source_batch_size)
    target = next(iter(size.trained.values()))
    steps = steps_in_all(job, target.num_rows)
    # Ordered streams leave one window open; others as many as there are read tasks at a time, taken for one a worker.
    open_windows = 1 if job.training.deterministic else max(2, num_workers)
    found = []
    for (name, domain), batch_size in zip(size.trained.items(), batch_sizes, strict=False):
        an_epoch = ceil(domain.num_rows / batch_size)
        epochs, last_steps = divmod(steps, an_epoch)
        last_rows, window_rows = min(last_steps * batch_size, domain.num_rows), batch_size * job.data.window_batches
        windows = epochs * ceil(domain.num_rows / window_rows) + ceil(last_rows / window_rows)
        found.append(StreamSize(name, domain, batch_size, window_rows, epochs * domain.num_rows + last_rows, windows, open_windows))
    return tuple(found)


def steps_in_all(job: JobConfig, num_rows: int) -> int:
    """Optimizer steps of a run whose target has ``num_rows`` training rows."""
    steps = job.training.epochs * ceil(num_rows / job.data.batch_size)
    return steps if job.training.max_steps is None else min(steps, job.training.max_steps)


def roaring_bytes(num_values: int) -> int:
    """A serialised roaring bitmap of some of the values 0..num_values-1, at most."""
    containers = ceil(num_values / ROARING_VALUES)
    return ROARING_HEADER_BYTES * (1 + containers) + min(2 * num_values, containers * ROARING_VALUES // 8)


def cursor_bytes(streams: tuple[StreamSize, ...]) -> int:
    """The file beside a checkpoint, at most."""
    return CURSOR_FILE_BYTES + sum(stream.cursor_bytes for stream in streams)


def event_bytes(history: History) -> int:
    """Of an event in a history file, before compression: item, time, and a byte for each code that is stored."""
    return ITEM_AND_TIME_BYTES + sum(side.derived_from == "column" for side in history.side)


def history_bytes_per_sample(job: JobConfig, contract: Contract, stream: StreamSize) -> float:
    """Bytes of history that a read task decodes for a row: whole files of its window's buckets, shared by the window's rows."""
    names = declared_histories(job, contract)
    histories = [history for name in names if (history := contract.domains[name].history) is not None]
    a_bucket = sum(history.num_events * event_bytes(history) for history in histories) / buckets(contract, stream)
    return stream.buckets_opened(job, contract) * a_bucket / min(stream.window_rows, stream.size.num_rows)


def buckets(contract: Contract, stream: StreamSize) -> int:
    """Files that each domain's histories are spread over: as many as the samples', unless these are kept by day."""
    days = len(contract.domains[stream.domain].splits["train"].directories)
    return max(1, stream.size.num_files // days)


def batch_bytes(job: JobConfig, contract: Contract, num_rows: int) -> int:
    """Tensors of a training batch of ``num_rows`` of one rank, every history and list at its longest."""
    ids = sum(feature.max_values or 1 for feature in contract.features if feature.kind != "dense")
    dense = sum(feature.kind == "dense" for feature in contract.features)
    # Label and weight; group, time and domain.
    row = TENSOR_BYTES * ids + FLOAT_BYTES * (dense + 2) + 3 * TENSOR_BYTES
    row += TENSOR_BYTES if reads_slices(job) or (contract.amount is not None and contract.slice is not None) else 0
    for name in declared_histories(job, contract):
        history = contract.domains[name].history
        assert history is not None, name
        an_event = TENSOR_BYTES * (1 + len(history.side)) + (AGE_BYTES if reads_event_ages(job) else 0)
        row += TENSOR_BYTES + an_event * min(job.data.history_length, history.max_events)
    return num_rows * row
