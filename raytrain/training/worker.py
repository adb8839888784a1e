"""What a worker does: build the learner, train on this rank's shard, score the test split once."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import ray.train
import torch
from ray.train.torch import get_device
from torch.nn.functional import one_hot

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.micro_batches import joined, micro_batches_of, rank_micro_batches
from raytrain.data.stream import StreamSpec
from raytrain.ecdctr_config import TpmModel
from raytrain.errors import RunError
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_checkpoint, load_weights
from raytrain.training.commit import CHECKPOINTS, CURSOR_FILE, Committed, best_of, newest
from raytrain.training.kept_batches import KeptBatches
from raytrain.training.label_facts import LabelFacts
from raytrain.training.loop import Learner, Schedule, Session, build_learner, evaluate, train
from raytrain.training.parallel import World
from raytrain.training.predictions import PredictionWriter
from raytrain.training.process import peak_rss_mib
from raytrain.training.session import RaySession
from raytrain.training.start import Start, begin, read_snapshots, write_snapshot
from raytrain.training.state import STATE_FILE, RunState, TrainOutcome
from raytrain.training.torch_setup import set_up_torch
from raytrain.training.transfer import TRANSFER_FILE, load_transfer_file


@dataclass(frozen=True)
class Assignment:
    """Everything the driver tells a worker; pickled by Ray."""

    job: JobConfig
    train: tuple[StreamSpec, ...]
    """One stream per domain in each step, the target first."""
    valid: StreamSpec | None
    """Null where the last step is the best."""
    test: tuple[StreamSpec, ...]
    threads: int
    storage_uri: str
    """The run directory."""
    checkpoint: str | None = None
    """Scores this checkpoint, a name below ``checkpoints/``, and trains nothing."""
    facts: LabelFacts | None = None
    """Of the training labels, where these are amounts."""
    probe: StreamSpec | None = None
    """Held-out rows that gain is measured on, for a model that asks for some."""
    start: Start = field(default_factory=Start)
    """Where weights that are not drawn come from."""
    watched: bool = False
    """Somebody on the driver says after every evaluation whether training goes on."""
    predictions_path: str | None = None
    """Directory for the predictions of the test streams, one file a rank."""


Read = Callable[[StreamSpec, bytes], Iterator[Batch]]
"""This rank's micro-batches of what is left of a stream after a cursor."""


class WorkerSession(Session, Protocol):
    """What a worker asks of its surroundings besides what the loop does."""

    parent: str | None
    """The checkpoint that training went on from, or has saved last."""

    def settle(self) -> None:
        """Waits until the last checkpoint counts; a collective."""
        ...


def run_worker(config: dict[str, Any]) -> None:
    """The function Ray Train calls on every rank; ``assignment`` and the handle of the ``mailbox`` actor."""
    assignment: Assignment = config["assignment"]
    job = assignment.job
    set_up_torch(assignment.threads, job.training.deterministic)
    world = World.current(get_device() if job.scaling.use_gpu else None)
    work(assignment, world, RaySession(job, config["mailbox"], world, assignment.watched), _shard)


def work(assignment: Assignment, world: World, session: WorkerSession, read: Read) -> None:
    """All of one rank's part, wherever it runs."""
    job = assignment.job
    contract = assignment.test[0].contract if assignment.test else assignment.train[0].contract
    probe = list(rank_micro_batches(assignment.probe, world.rank, world.size)) if assignment.probe else []
    learner = build_learner(job, contract, world, assignment.facts, probe)
    read_snapshots(assignment.start, contract, learner)
    if world.rank == 0:
        session.log({"kind": "plan", "tables": learner.tables.describe(), "num_dense": _num_dense(learner)})
    storage = Storage(assignment.storage_uri)
    checkpoint = _train(assignment, learner, session, storage, read) if assignment.train else assignment.checkpoint
    directory = Storage(storage.join(f"{CHECKPOINTS}/{checkpoint}"))
    load_weights(directory, learner.tables, learner.network)
    if directory.exists(TRANSFER_FILE):
        load_transfer_file(learner.transfer, directory.read_bytes(TRANSFER_FILE), world.device)
    if assignment.predictions_path:
        if world.rank == 0:
            # Of a launch that died while it scored, perhaps with more workers.
            Storage(assignment.predictions_path).delete_dir("")
        world.broadcast(None)
    for spec in assignment.test:
        writer = PredictionWriter(spec, assignment.predictions_path, world.rank) if assignment.predictions_path else None
        metrics = evaluate(job, learner, read(spec, b""), writer.add if writer else None)
        if writer:
            writer.flush()
        session.log({"kind": "test", "domain": spec.domain, "split": spec.split, **metrics})
    if assignment.train and isinstance(job.model, TpmModel):
        # The best checkpoint has been loaded without its optimizer, which knows what was trained.
        load_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
        session.log({"kind": "snapshot", **write_snapshot(storage, job, contract, learner.tables, world)})
    mine = one_hot(torch.tensor(world.rank, device=world.device), world.size)
    rss, table_bytes = (world.sum(mine * value).tolist() for value in (peak_rss_mib(), learner.tables.num_bytes()))
    table_mib = [size / 2**20 for size in table_bytes]
    session.log({"kind": "worker", "world_size": world.size, "peak_rss_mib": rss, "table_mib": table_mib})


def _train(assignment: Assignment, learner: Learner, session: WorkerSession, storage: Storage, read: Read) -> str:
    """Trains from the newest committed checkpoint to the end; returns the name of the best one."""
    job, world, valid, target = assignment.job, learner.world, assignment.valid, assignment.train[0]
    # Rank 0 alone reads the registry: ranks must not go on from different checkpoints.
    found, saved = world.broadcast(_newest(storage) if world.rank == 0 else None)
    if found is None:
        begin(assignment.start, job, learner)
    else:
        directory = Storage(storage.join(f"{CHECKPOINTS}/{found.name}"))
        load_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
        if saved is not None and TRANSFER_FILE in saved:
            load_transfer_file(learner.transfer, saved[TRANSFER_FILE], world.device)
    state = RunState(job, {spec.domain: spec.manifest for spec in assignment.train}, world, saved)
    session.parent = found.name if found else None
    session.log({"kind": "start", "step": state.outcome.num_steps, "world_size": world.size})
    cursor = saved[CURSOR_FILE] if saved else b""
    num_left = max(spec.remaining(cursor).num_batches for spec in assignment.train)
    schedule = Schedule(target.plan.num_batches, state.outcome.num_steps + num_left)
    stream = joined([read(spec, cursor) for spec in assignment.train])
    validation = KeptBatches(lambda: read(valid, b""), job.training.keep_validation_mib, world.all) if valid else None
    outcome = train(job, learner, stream, validation, schedule, state, session)
    session.settle()
    best = world.broadcast(_best(storage, outcome) if world.rank == 0 else None)
    session.log({"kind": "outcome", "best_checkpoint": best, **asdict(outcome)})
    return str(best)


def _best(storage: Storage, outcome: TrainOutcome) -> str:
    """Name of the best checkpoint, once the last one counts and agrees with what training saw."""
    last = newest(storage)
    best = best_of(storage, last) if last else None
    if last is None or best is None or (last.step, best.step) != (outcome.num_steps, outcome.best_step):
        raise RunError(
            f"The last and the best checkpoint of a run have to count. Received: steps {last and last.step} and {best and best.step}, "
            f"trained to {outcome.num_steps}, best at {outcome.best_step}. Resume the run."
        )
    return best.name


def _newest(storage: Storage) -> tuple[Committed | None, dict[str, bytes] | None]:
    """The checkpoint to go on from, and its files besides tensors."""
    found = newest(storage)
    if found is None:
        return None, None
    names = (STATE_FILE, CURSOR_FILE, *({TRANSFER_FILE} & found.files.keys()))
    return found, {name: storage.read_bytes(f"{CHECKPOINTS}/{found.name}/{name}") for name in names}


def _shard(spec: StreamSpec, cursor: bytes) -> Iterator[Batch]:
    return micro_batches_of(ray.train.get_dataset_shard(spec.name), spec, cursor)


def _num_dense(learner: Learner) -> int:
    return sum(parameter.numel() for parameter in learner.network.parameters())
