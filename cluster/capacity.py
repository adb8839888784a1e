"""What a job takes at R workers, as arithmetic on the code that runs: the tables' plan, the footprint, the streams, the exchange.

Tables, batches and checkpoints are exact; streams and the exchange are bounds; speed is a model fitted to a few measurements.
"""

from dataclasses import dataclass
from functools import cached_property

from cluster.data_size import DataSize
from cluster.exchange import DenseSize, Exchange, exchange_of
from cluster.measured import COSTS, TENSOR_FILE_BYTES, Cost
from cluster.stream_size import StreamSize, batch_bytes, cursor_bytes, history_bytes_per_sample, streams_of
from raytrain.config import JobConfig
from raytrain.footprint import RUN_BYTES, Footprint, footprint_of
from raytrain.models.declared import declared_histories, declared_tables

DEFAULT_DIM = 16
"""Of the vectors that ``Cost.id`` was measured with."""
SCALAR_STATES = {"adam": 1, "adamw": 1, "adagrad": 1, "sgd": 0}
"""Tensors that the dense optimizer keeps besides those of a parameter's shape: its number of steps."""


@dataclass(frozen=True)
class Assumed:
    """What the plan cannot know of a cluster."""

    efficiency: float
    network_bytes_per_s: float
    write_bytes_per_s: float
    upload_bytes_per_s: float
    samples_per_s: float | None = None
    """Of one worker, where somebody has measured this job."""


@dataclass(frozen=True)
class Capacity:
    """A job on R workers."""

    job: JobConfig
    size: DataSize
    num_workers: int
    dense: DenseSize
    assumed: Assumed

    @cached_property
    def footprint(self) -> Footprint:
        return footprint_of(self.job, self.size.contract, self.num_workers, self.dense.num_parameters)

    @cached_property
    def streams(self) -> tuple[StreamSize, ...]:
        return streams_of(self.job, self.size, self.num_workers)

    @cached_property
    def exchange(self) -> Exchange:
        configs = declared_tables(self.job, self.size.contract)
        return exchange_of(self.job, self.size.contract, configs, self.footprint.tables, self.rows_per_rank, self.dense)

    @property
    def rows_per_rank(self) -> int:
        """Rows of a step on each rank; every stream is dealt out by itself, and padded."""
        return sum(-(-stream.batch_size // self.num_workers) for stream in self.streams)

    @property
    def batch(self) -> int:
        """Bytes of a step's tensors on a rank."""
        return batch_bytes(self.job, self.size.contract, self.rows_per_rank)

    @property
    def worker(self) -> int:
        """Of the machine of one worker: itself amid a checkpoint, a read task of every stream, its share of the object store."""
        footprint = self.footprint
        store = -(-footprint.store // self.num_workers)
        return footprint.a_worker(self.job.scaling.use_gpu) + self.batch + self.dense.buffer_bytes + footprint.window + store

    @property
    def driver(self) -> int:
        """Of the machine that plans: Ray's own processes, and all streams' row groups."""
        return RUN_BYTES + sum(stream.plan_bytes for stream in self.streams)

    @property
    def cursor(self) -> int:
        return cursor_bytes(self.streams)

    @property
    def saved_tables(self) -> tuple[int, ...]:
        """[R]"""
        return self.footprint.saved_tables

    @property
    def saved_dense(self) -> int:
        """The network with its buffers and optimizer, which one rank writes."""
        return self.footprint.saved_dense + self.dense.buffer_bytes

    @property
    def snapshot(self) -> int:
        """What a checkpoint copies on the fullest rank while it is written."""
        return self.footprint.snapshot + self.dense.buffer_bytes

    @property
    def saved_tensors(self) -> int:
        """Tensors in a checkpoint, each shard of a table counted."""
        name, tables = self.job.optimizer.name, self.footprint.tables
        of_tables = sum(len(one.shards) * (1 if one.optimizer == "sgd" else 2) for one in tables if one.optimizer != "frozen")
        states = self.footprint.dense_state_floats + SCALAR_STATES[name]
        return of_tables + self.dense.num_tensors * (1 + states) + self.dense.num_buffers

    @property
    def checkpoint(self) -> int:
        """All files of one."""
        return sum(self.saved_tables) + self.saved_dense + TENSOR_FILE_BYTES * self.saved_tensors + self.cursor

    @property
    def checkpoint_s(self) -> float:
        """Until it is uploaded, where every rank writes and uploads its own part at the same time."""
        return self.snapshot / self.assumed.write_bytes_per_s + self.snapshot / self.assumed.upload_bytes_per_s

    @property
    def history_bytes(self) -> dict[str, float]:
        """Domain -> bytes that a read task decodes for a sample."""
        return {one.domain: history_bytes_per_sample(self.job, self.size.contract, one) for one in self.streams}

    @property
    def cost(self) -> Cost | None:
        """Of the model, where one was measured."""
        return COSTS.get(self.job.model.name)

    @property
    def events(self) -> int:
        """History events of a sample, at most."""
        found = [self.size.contract.domains[name].history for name in declared_histories(self.job, self.size.contract)]
        return sum(min(self.job.data.history_length, history.max_events) for history in found if history is not None)

    @property
    def ids_per_sample(self) -> float:
        """Distinct ids that a step looks up, a sample, as vectors of 16 floats."""
        return self.exchange.num_distinct / self.rows_per_rank * self.job.tables.dim / DEFAULT_DIM

    @property
    def samples_per_s_of_one(self) -> float | None:
        """Of one worker of one thread that waits for nobody; None where neither this model nor this job was measured."""
        if self.assumed.samples_per_s is not None:
            return self.assumed.samples_per_s
        cost = self.cost
        return 1e6 / (cost.row + cost.event * self.events + cost.id * self.ids_per_sample) if cost else None

    @property
    def step_s(self) -> float | None:
        """Of computing, slowed down by the others, and of waiting for the network after it."""
        one = self.samples_per_s_of_one
        if one is None:
            return None
        efficiency = 1.0 if self.num_workers == 1 else self.assumed.efficiency
        return self.rows_per_rank / (one * efficiency) + self.exchange.total / self.assumed.network_bytes_per_s

    @property
    def samples_per_s(self) -> float | None:
        """Of all workers together, both domains counted."""
        return None if self.step_s is None else sum(stream.batch_size for stream in self.streams) / self.step_s
