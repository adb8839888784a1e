"""The driver's side of Ray Train: start the workers on an assignment and bring their records home."""

import secrets
from typing import Any

from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from rich.console import Console

from raytrain.data.stream import StreamDataConfig, dataset_of
from raytrain.errors import RaytrainError, RunError
from raytrain.storage import Storage
from raytrain.training.process import quieten
from raytrain.training.progress import Progress
from raytrain.training.worker import Assignment, run_worker

Records = list[dict[str, Any]]


def launch(assignment: Assignment, storage: Storage, console: Console) -> Records:
    """Runs the workers to their end.

    Args:
        storage: the run directory; checkpoints go below ``checkpoints/``.

    Returns:
        Every record the workers posted, in order.

    Raises:
        RaytrainError: whatever of ours stopped a worker; RunError for anything else, with the worker's traceback.
    """
    quieten()
    job = assignment.job
    training = bool(assignment.train)
    progress = Progress(storage if training else None, job.run.tensorboard, console)
    streams = [*assignment.train, *([assignment.valid] if assignment.valid else []), *assignment.test]
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"assignment": assignment, "mailbox": progress.mailbox},
        torch_config=TorchConfig(backend="nccl" if job.scaling.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=job.scaling.max_workers,
            use_gpu=job.scaling.use_gpu,
            resources_per_worker={"CPU": job.scaling.cpus_per_worker} | ({"GPU": 1} if job.scaling.use_gpu else {}),
        ),
        datasets={spec.name: dataset_of(spec, job.scaling.max_workers) for spec in streams},
        dataset_config=StreamDataConfig(job.training.deterministic),
        run_config=RunConfig(
            # Ray resumes a name that exists; a scoring job saves nothing and must never be resumed.
            name="checkpoints" if training else f"scoring-{secrets.token_hex(4)}",
            storage_path=storage.root,
            storage_filesystem=storage.filesystem,
        ),
    )
    console.print(f"starting {job.scaling.num_workers} worker(s), {assignment.threads} thread(s) each", highlight=False)
    try:
        trainer.fit()
    except TrainingFailedError as err:
        raise _cause(err) from None
    finally:
        progress.close()
        if not training:
            _remove_scoring(trainer.run_config.name, storage)
    return progress.records


def _cause(err: TrainingFailedError) -> RaytrainError:
    """Our own error if that is what stopped a worker, else the first worker's failure as it came."""
    failures = getattr(err, "worker_failures", None) or {}
    for failure in failures.values():
        found: BaseException | None = failure
        while found is not None:
            if isinstance(found, RaytrainError):
                return found
            found = getattr(found, "cause", None) or found.__cause__
    text = "\n".join(f"rank {rank}: {failure}" for rank, failure in failures.items()) or str(err)
    return RunError(f"The workers have to finish. Received: a failure. {text}")


def _remove_scoring(name: str | None, storage: Storage) -> None:
    if name and storage.exists(name):
        storage.filesystem.delete_dir(storage.path(name))
