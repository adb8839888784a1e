"""What runs in each Ray Train worker: build the learner, train on this rank's shard, score the test split once."""

import io
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray.train
import torch
from ray.train.torch import get_device
from torch.nn.functional import one_hot

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.micro_batches import joined, micro_batches_of
from raytrain.data.provenance import STATUS_OK
from raytrain.data.stream import StreamSpec
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_weights, save_checkpoint
from raytrain.training.loop import Learner, Schedule, build_learner, evaluate, train
from raytrain.training.parallel import World
from raytrain.training.process import peak_rss_mib
from raytrain.training.torch_setup import set_up_torch

ROWS_PER_PREDICTION_FILE = 1_000_000


@dataclass(frozen=True)
class Assignment:
    """Everything the driver tells a worker; pickled by Ray."""

    job: JobConfig
    train: tuple[StreamSpec, ...]
    """One stream per domain in each step, the target first."""
    valid: StreamSpec | None
    test: tuple[StreamSpec, ...]
    threads: int
    storage_uri: str
    """The run directory."""
    checkpoint_path: str | None = None
    """Scores this checkpoint (a path Ray can read) and trains nothing."""
    predictions_path: str | None = None
    """Directory for the predictions of the test streams, one file a rank."""


class RaySession:
    """``Session`` of the loop on Ray Train."""

    def __init__(self, assignment: Assignment, mailbox: Any, world: World) -> None:
        self._assignment = assignment
        self._mailbox = mailbox
        self._world = world
        self.best: ray.train.Checkpoint | None = None

    def log(self, record: dict[str, Any]) -> None:
        if self._world.rank == 0:
            self._mailbox.post.remote(record)

    def checkpoint(self, learner: Learner, step: int, metrics: dict[str, float], best: bool) -> None:
        """``ray.train.report`` is a barrier: every rank comes here at the same steps."""
        with tempfile.TemporaryDirectory(prefix="raytrain-checkpoint-") as directory:
            save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
            ray.train.report({**metrics, "step": step}, checkpoint=ray.train.Checkpoint.from_directory(directory))
        reported = ray.train.get_all_reported_checkpoints()
        if best:
            self.best = reported[-1].checkpoint
        if self._world.rank == 0:
            self.log({"kind": "checkpoint", "step": step, "path": reported[-1].checkpoint.path, "best": best})
            self._prune([report.checkpoint for report in reported])

    def _prune(self, checkpoints: list[ray.train.Checkpoint]) -> None:
        """Keeps the newest and the best; the newest is registered already, so a restart always finds its checkpoint."""
        keep = {checkpoint.path for checkpoint in checkpoints[-self._assignment.job.training.keep_checkpoints :]}
        keep |= {self.best.path} if self.best else set()
        for checkpoint in checkpoints:
            if checkpoint.path not in keep:
                _delete(checkpoint)


def run_worker(config: dict[str, Any]) -> None:
    """The function Ray Train calls on every rank; ``assignment`` and the handle of the ``mailbox`` actor."""
    assignment: Assignment = config["assignment"]
    job = assignment.job
    set_up_torch(assignment.threads, job.training.deterministic)
    world = World.current(get_device() if job.scaling.use_gpu else None)
    session = RaySession(assignment, config["mailbox"], world)
    learner = build_learner(job, assignment.test[0].contract if assignment.test else assignment.train[0].contract, world)
    if world.rank == 0:
        session.log({"kind": "plan", "tables": learner.tables.describe(), "num_dense": _num_dense(learner)})
    checkpoint = None
    if assignment.checkpoint_path:
        checkpoint = ray.train.Checkpoint(assignment.checkpoint_path, Storage(assignment.storage_uri).filesystem)
    if assignment.train:
        checkpoint = _train(assignment, learner, session)
    if checkpoint is not None:
        with checkpoint.as_directory() as directory:
            load_weights(directory, learner.tables, learner.network)
    for spec in assignment.test:
        writer = _PredictionWriter(spec, assignment.predictions_path, world.rank) if assignment.predictions_path else None
        metrics = evaluate(job, learner, _batches(spec), writer.add if writer else None)
        if writer:
            writer.flush()
        session.log({"kind": "test", "domain": spec.domain, "split": spec.split, **metrics})
    mine = one_hot(torch.tensor(world.rank, device=world.device), world.size)
    rss, table_bytes = (world.sum(mine * value).tolist() for value in (peak_rss_mib(), learner.tables.num_bytes()))
    session.log({"kind": "worker", "peak_rss_mib": rss, "table_mib": [size / 2**20 for size in table_bytes]})


def _train(assignment: Assignment, learner: Learner, session: RaySession) -> ray.train.Checkpoint | None:
    target = assignment.train[0]
    assert assignment.valid is not None
    valid = assignment.valid
    stream = joined([_batches(spec) for spec in assignment.train])
    schedule = Schedule(target.plan.num_batches, target.total_batches)
    domains = tuple(spec.domain for spec in assignment.train)
    outcome = train(assignment.job, learner, stream, lambda: _batches(valid), schedule, domains, session)
    session.log({"kind": "outcome", **asdict(outcome)})
    return session.best


def _batches(spec: StreamSpec) -> Iterator[Batch]:
    return micro_batches_of(ray.train.get_dataset_shard(spec.name), spec)


def _num_dense(learner: Learner) -> int:
    return sum(parameter.numel() for parameter in learner.network.parameters())


def _delete(checkpoint: ray.train.Checkpoint) -> None:
    assert checkpoint.filesystem is not None
    if checkpoint.filesystem.get_file_info(checkpoint.path).type.name == "Directory":
        checkpoint.filesystem.delete_dir(checkpoint.path)


class _PredictionWriter:
    """A rank's predictions with the keys that identify a row, written in parts so that memory stays flat."""

    def __init__(self, spec: StreamSpec, path: str, rank: int) -> None:
        self._spec = spec
        self._storage = Storage(path)
        self._rank = rank
        self._tables: list[pa.Table] = []
        self._num_rows = self._num_parts = 0

    def add(self, batch: Batch, prediction: torch.Tensor) -> None:
        source = batch.provenance[0]
        kept = source.status == STATUS_OK
        columns = {"group": batch.group, "time": batch.time, "label": batch.label, "prediction": prediction}
        values = {"fragment": source.fragment[kept], "row": source.row[kept]}
        self._tables.append(pa.table(values | {name: tensor.numpy()[kept] for name, tensor in columns.items()}))
        self._num_rows += self._tables[-1].num_rows
        if self._num_rows >= ROWS_PER_PREDICTION_FILE:
            self.flush()

    def flush(self) -> None:
        if not self._num_rows:
            return
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(self._tables), buffer)
        name = f"{self._spec.domain}-part-{self._rank:05d}-{self._num_parts:05d}.parquet"
        self._storage.write_bytes(name, buffer.getvalue())
        self._tables, self._num_rows, self._num_parts = [], 0, self._num_parts + 1
