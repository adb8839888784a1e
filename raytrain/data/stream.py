"""Streams: what the driver hands to Ray Train. Torch-free, since Ray's own processes import it.

A stream of a domain is one ``ray.data.Dataset`` whose rows are micro-batches (``source.py``). ``streaming_split`` deals
them to ranks in turn; since every row is one micro-batch and their number is a multiple of the world size, each rank gets
equally many, nothing is dropped, and with preserved order rank r receives its part of global batch k as its k-th.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray.data
from ray.data import DataContext, DataIterator, Dataset, ExecutionOptions
from ray.train import DataConfig

from raytrain.config import DataSection
from raytrain.data.contract import Contract
from raytrain.data.cursor import Cursor, hash_of
from raytrain.data.fragments import FragmentPlan, Remaining
from raytrain.data.manifest import Manifest
from raytrain.data.reader import Reading
from raytrain.data.source import FragmentSource


@dataclass(frozen=True)
class StreamSpec:
    """One domain's split, ready to be read: picklable, torch-free until iterated."""

    contract: Contract
    data: DataSection
    domain: str
    split: str
    manifest: Manifest
    batch_size: int
    """Rows of a global batch."""
    histories: tuple[str, ...]
    shuffle: bool
    seed: int
    epochs: tuple[int, ...] = (0,)
    num_batches: int | None = None
    """Global batches after which the stream ends, over all epochs; null reads every epoch whole."""
    quarantine_path: str | None = None
    event_ages: bool = False
    """Histories carry their events' ages in seconds."""
    slices: bool = False
    """Batches carry the id of each row's slice; the contract has to name the column."""

    @property
    def is_trained(self) -> bool:
        """Whether other splits are scored while it waits."""
        return self.split == "train"

    @property
    def name(self) -> str:
        return f"{self.split}/{self.domain}"

    @property
    def plan(self) -> FragmentPlan:
        return FragmentPlan(self.manifest, self.batch_size, self.data.window_batches, self.data.files_per_window, self.shuffle, self.seed)

    @property
    def total_batches(self) -> int:
        """Global batches of the whole stream."""
        whole = len(self.epochs) * self.plan.num_batches
        return whole if self.num_batches is None else min(whole, self.num_batches)

    @property
    def expected_rows(self) -> int:
        """Rows the stream will serve, from the plan alone."""
        return self.plan.num_rows_in(self.total_batches)

    def lasting(self, epochs: Iterable[int], num_batches: int | None) -> "StreamSpec":
        return replace(self, epochs=tuple(epochs), num_batches=num_batches)

    def remaining(self, cursor: bytes = b"") -> Remaining:
        """What is left after the rows of ``cursor`` (``Cursor.to_bytes``); all of it when empty."""
        trained = Cursor.from_bytes(cursor, {self.domain: self.manifest}).of(self.domain) if cursor else None
        return self.plan.remaining(trained, self.epochs, self.num_batches)

    def source(self, world_size: int, cursor: bytes = b"") -> FragmentSource:
        reading = Reading(
            contract=self.contract,
            data_path=self.data.path,
            batch_size=self.batch_size,
            world_size=world_size,
            shuffle=self.shuffle,
            seed=self.seed,
            history_length=self.data.history_length,
            histories=self.histories,
            quarantine_path=self.quarantine_path,
            cursor=hash_of(cursor),
            event_ages=self.event_ages,
        )
        return FragmentSource(reading, self.remaining(cursor))


@dataclass(frozen=True)
class StreamStart:
    """A stream and the cursor it goes on from: fixed when a worker group starts, a data set once its size is known."""

    spec: StreamSpec
    cursor: bytes = b""
    elastic: bool = False
    """Elastic workers take every CPU there is: read tasks then reserve none, or they would wait for ever."""

    def dataset(self, world_size: int, num_tasks: int | None = None) -> Dataset:
        """``num_tasks``: read tasks at one time; None takes as many as the CPUs allow."""
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # One block per micro-batch: a block larger than one byte is never merged with the next.
        context.target_max_block_size = 1
        source = self.spec.source(world_size, self.cursor)
        if self.elastic:
            dataset: Dataset = ray.data.read_datasource(source, num_cpus=0, concurrency=max(2, world_size))
        else:
            dataset = ray.data.read_datasource(source, num_cpus=self.spec.data.cpus_per_read_task, concurrency=num_tasks)
        return dataset


def tasks_at_once(num_cpus: float, training: Sequence[float]) -> int:
    """Read tasks that each training stream may run, so that a split that is scored gets a task too.

    While rows are scored nobody takes the training streams' batches. Once these fill what they may of the object store, their tasks
    wait and keep their CPUs: were those all there are, the scored split would never be read.

    Args:
        num_cpus: left by the workers. training: CPUs of a read task of each training stream.
    """
    return max(1, int((num_cpus - max(training)) / sum(training) + 1e-9))


class StreamDataConfig(DataConfig):
    """Splits micro-batches over ranks without dropping any (the default splits rows equally and drops the remainder).

    Ray Train calls the ``datasets`` callables anew before every start of a worker group. Ours give a ``StreamStart``, which
    becomes a data set here, where the number of workers is known: elastic groups differ in it.
    """

    def __init__(self, deterministic: bool, cpus_per_worker: float = 0.0) -> None:
        super().__init__(execution_options=ExecutionOptions(preserve_order=deterministic))
        self._cpus_per_worker = cpus_per_worker

    def configure(
        self,
        datasets: dict[str, Any],
        world_size: int,
        worker_handles: list[Any] | None,
        worker_node_ids: list[str] | None,
        **kwargs: Any,
    ) -> list[dict[str, DataIterator]]:
        shards: list[dict[str, DataIterator]] = [{} for _ in range(world_size)]
        training = [start.spec.data.cpus_per_read_task for start in datasets.values() if start.spec.is_trained]
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        left = there.get("CPU", 0.0) - world_size * self._cpus_per_worker
        for name, start in datasets.items():
            assert isinstance(start, StreamStart)
            dataset = start.dataset(world_size, tasks_at_once(left, training) if start.spec.is_trained else None)
            dataset.context.execution_options = self._resolve_execution_options(name)
            for rank, split in enumerate(dataset.streaming_split(world_size, equal=False)):
                shards[rank][name] = split
        return shards
