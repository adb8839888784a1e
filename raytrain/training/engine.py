"""The driver's side of Ray Train: start the workers on an assignment and bring their records home."""

import os
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError
from rich.console import Console

from raytrain.data.stream import StreamDataConfig, StreamSpec, StreamStart
from raytrain.errors import RaytrainError, RunError
from raytrain.resources import needs_of, num_training_streams
from raytrain.storage import Storage
from raytrain.training.commit import CHECKPOINTS, CommitCallback, newest, our_error, read_cursor, take_over
from raytrain.training.delivery import Delivery
from raytrain.training.patience import PatientTrainer, num_start_retries
from raytrain.training.process import ALLOCATOR, quieten
from raytrain.training.progress import Progress
from raytrain.training.stopping import Watch
from raytrain.training.worker import Assignment, run_worker

Records = list[dict[str, Any]]


def launch(assignment: Assignment, storage: Storage, console: Console, watch: Watch | None = None) -> Records:
    """Runs the workers to their end; a training run goes on from the newest committed checkpoint, if there is one.

    Args:
        storage: the run directory; checkpoints go below ``checkpoints/``.
        watch: of a watched assignment, who answers its evaluations.

    Returns:
        Every record the workers posted, in order.

    Raises:
        RaytrainError: whatever of ours stopped a worker; RunError for anything else, with the worker's traceback.
    """
    quieten()
    job, scaling = assignment.job, assignment.job.scaling
    training = bool(assignment.train)
    progress = Progress(storage if training else None, job.run.tensorboard, console)
    delivery = Delivery(progress, watch)
    owner = take_over(storage) if training else secrets.token_hex(4)
    experiment = Storage(storage.join(CHECKPOINTS if training else f"scoring-{owner}"))
    resumed = {spec.name: stream_start(spec, storage.uri, scaling.elastic) for spec in assignment.train}
    scored = [*([assignment.valid] if assignment.valid else []), *assignment.test]
    failures = {"max_failures": scaling.max_failures, "controller_failure_limit": num_start_retries(scaling.start_limit_s)}
    trainer = PatientTrainer(
        run_worker,
        limit_s=scaling.start_limit_s,
        needs=needs_of(job, num_training_streams(job)).arithmetic,
        say=partial(console.print, style="yellow", markup=False, highlight=False),
        train_loop_config={"assignment": assignment, "mailbox": delivery.mailbox},
        torch_config=TorchConfig(backend="nccl" if scaling.use_gpu else "gloo"),
        # mypy sees the config classes of Train V1.
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=(scaling.min_workers, scaling.max_workers) if scaling.elastic else scaling.max_workers,  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=scaling.resize_interval_s,
            use_gpu=scaling.use_gpu,
            resources_per_worker={"CPU": scaling.cpus_per_worker} | ({"GPU": 1} if scaling.use_gpu else {}),
        ),
        datasets=resumed | {spec.name: stream_start(spec, None, scaling.elastic) for spec in scored},
        dataset_config=StreamDataConfig(job.training.deterministic, scaling.cpus_per_worker),
        run_config=RunConfig(
            # Ray resumes a name that exists, from its own records; what counts is ours, so every launch has a name of its own.
            name=f"launch-{owner}",
            storage_path=experiment.root,
            storage_filesystem=experiment.filesystem,
            failure_config=FailureConfig(**failures),  # type: ignore[arg-type]
            worker_runtime_env={"env_vars": {name: value for name, value in ALLOCATOR.items() if name not in os.environ}},  # type: ignore[call-arg]
            callbacks=[CommitCallback(storage.uri, owner, job.training.keep_checkpoints, delivery.mailbox)],  # type: ignore[list-item]
        ),
    )
    console.print(f"starting {scaling.describe()} worker(s), {assignment.threads} thread(s) each", highlight=False)
    try:
        trainer.fit()
    except TrainingFailedError as err:
        raise _cause(err, trainer) from None
    finally:
        delivery.close()
        progress.close()
        if not training:
            experiment.delete_dir("")
    return progress.records


def stream_start(spec: StreamSpec, run_uri: str | None, elastic: bool) -> Callable[[], Any]:
    """The callable that Ray Train runs before every start of a worker group; with ``run_uri`` it goes on from the run's cursor."""

    def start() -> StreamStart:
        storage = Storage(run_uri) if run_uri else None
        return StreamStart(spec, read_cursor(storage, newest(storage)) if storage else b"", elastic)

    return start


def _cause(err: TrainingFailedError, trainer: PatientTrainer) -> RaytrainError:
    """Our own error if that is what stopped a worker, else the first worker's failure as it came."""
    if isinstance(err, ControllerError) and isinstance(err.controller_failure, WorkerGroupStartupTimeoutError):
        return trainer.no_room()
    failures = getattr(err, "worker_failures", None) or {}
    ours = our_error([*failures.values(), err])
    if ours is not None:
        return ours
    text = "\n".join(f"rank {rank}: {type(failure).__name__}: {failure}" for rank, failure in failures.items()) or str(err)
    return RunError(f"The workers have to finish. Received: a failure. {text}")
