"""A run in the command's own process: one rank, no Ray. For many short runs, whose processes take longer to start than they train.

The worker, its streams' order and its checkpoints are those of a run on Ray, so either goes on with, scores and serves what the
other left.
"""

import hashlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
import yaml
from rich.console import Console

from raytrain.config import CONFIG_FILE, JobConfig
from raytrain.data.cursor import hash_of
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import StorageError
from raytrain.storage import Storage, retried
from raytrain.training.checkpoint import save_checkpoint
from raytrain.training.commit import CHECKPOINTS, CURSOR_FILE, Committed, enter, take_over
from raytrain.training.loop import Learner
from raytrain.training.parallel import World
from raytrain.training.process import forget_peak_rss
from raytrain.training.progress import Progress
from raytrain.training.session import within
from raytrain.training.stopping import Watch
from raytrain.training.torch_setup import set_up_torch
from raytrain.training.worker import Assignment, work


def run_in_process(assignment: Assignment, storage: Storage, console: Console, watch: Watch | None = None) -> list[dict[str, Any]]:
    """Works an assignment to its end; a training run goes on from the newest committed checkpoint, if there is one.

    Args:
        storage: the run directory; checkpoints go below ``checkpoints/``.
        watch: of a watched assignment, who answers its evaluations.

    Returns:
        Every record, in order.

    Raises:
        RaytrainError: as a worker raises it.
    """
    job = assignment.job
    set_up_torch(assignment.threads, job.training.deterministic)
    # What ran here before is not this run's.
    forget_peak_rss()
    progress = Progress(storage if assignment.train else None, job.run.tensorboard, console)
    owner = take_over(storage) if assignment.train else ""
    console.print(f"training in this process, {assignment.threads} thread(s)" if assignment.train else "scoring in this process")
    try:
        with _world(job) as world:
            work(assignment, world, ProcessSession(job, storage, owner, progress, watch), local_micro_batches)
    finally:
        progress.close()
    return progress.records


class ProcessSession:
    """``WorkerSession`` of one rank: everything is done when the call returns."""

    def __init__(self, job: JobConfig, storage: Storage, owner: str, progress: Progress, watch: Watch | None) -> None:
        """``owner``: of the run directory ``storage``, as ``take_over`` gave it."""
        self._job, self._storage, self._owner = job, storage, owner
        self._progress, self._watch = progress, watch
        self._goes_on = True
        # A process that was killed amid a checkpoint has left its copy; nobody else has this run.
        self._copies = f"raytrain-{hashlib.sha256(storage.uri.encode()).hexdigest()[:16]}-"
        for left in Path(tempfile.gettempdir()).glob(f"{self._copies}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.parent: str | None = None

    def log(self, record: dict[str, Any]) -> None:
        self._progress.add(record)
        if self._watch is not None and record["kind"] == "valid":
            self._goes_on = self._watch(record)

    def checkpoint(self, learner: Learner, step: int, metrics: dict[str, float], best: bool, files: dict[str, bytes]) -> None:
        name = f"launch-{self._owner}/step-{step:08d}-{secrets.token_hex(3)}"
        files = files | {CONFIG_FILE: yaml.safe_dump(self._job.model_dump(mode="json"), sort_keys=False).encode()}
        with tempfile.TemporaryDirectory(prefix=self._copies) as directory:
            save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
            for file, data in files.items():
                (Path(directory) / file).write_bytes(data)
            saved = sorted(Path(directory).iterdir())
            sizes = {path.name: path.stat().st_size for path in saved}
            try:
                for path in saved:
                    upload = partial(self._storage.write_bytes, f"{CHECKPOINTS}/{name}/{path.name}", path.read_bytes())
                    within(self._job.training.storage_timeout_s, partial(retried, upload))
            except OSError as err:
                raise StorageError(
                    f"A checkpoint has to reach {self._storage.join(CHECKPOINTS)}. Received: {err}. "
                    "Free space, or check the storage and your access; then go on from the last checkpoint with --resume."
                ) from err
        cursor = hash_of(files.get(CURSOR_FILE, b""))
        reported = Committed(name=name, step=step, world_size=1, cursor=cursor, files=sizes, best=None)
        enter(self._storage, self._owner, reported, self.parent, best, self._job.training.keep_checkpoints, self.log)
        self.parent = name

    def goes_on(self, step: int) -> bool:
        return self._goes_on

    def settle(self) -> None:
        """A checkpoint counts when it is made."""


@contextmanager
def _world(job: JobConfig) -> Iterator[World]:
    """One rank, with a process group of its own where sharded tables ask for one."""
    if job.tables.backend == "local":
        yield World()
        return
    is_ours = not dist.is_initialized()
    try:
        yield World.alone()
    finally:
        if is_ours and dist.is_initialized():
            dist.destroy_process_group()
