"""The loop's surroundings on Ray Train: records to the driver, checkpoints to the storage."""

import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import ray.train
import yaml
from pyarrow.fs import LocalFileSystem
from ray.train import CheckpointConsistencyMode, CheckpointUploadMode

from raytrain.config import CONFIG_FILE, JobConfig
from raytrain.data.cursor import hash_of
from raytrain.errors import RunError, StorageError
from raytrain.storage import HOPELESS, sync
from raytrain.training.checkpoint import save_checkpoint
from raytrain.training.commit import CURSOR_FILE
from raytrain.training.loop import Learner
from raytrain.training.parallel import World

T = TypeVar("T")

ANSWER_LIMIT_S = 600.0
"""A scheduler answers within milliseconds; a driver that is gone takes the mailbox with it."""


class RaySession:
    """``Session`` of the loop."""

    def __init__(self, job: JobConfig, mailbox: Any, world: World, watched: bool = False) -> None:
        """``watched``: somebody on the driver answers every validation record."""
        self._job = job
        self._mailbox = mailbox
        self._world = world
        self._watched = watched
        self._uploading = False
        self._launch = ray.train.get_context().get_experiment_name()
        # A worker that was killed amid a checkpoint has left its copy; nobody else has this launch and rank.
        self._copies = f"raytrain-{self._launch}-rank{world.rank}-"
        for left in Path(tempfile.gettempdir()).glob(f"{self._copies}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.parent: str | None = None

    def log(self, record: dict[str, Any]) -> None:
        if self._world.rank == 0:
            self._mailbox.post.remote(record)

    def checkpoint(self, learner: Learner, step: int, metrics: dict[str, float], best: bool, files: dict[str, bytes]) -> None:
        """Everything is copied to a local directory at this step boundary, then uploaded, then committed by the controller.

        ``ray.train.report`` is a barrier: every rank comes here at the same steps.
        """
        self.settle()
        directory = tempfile.mkdtemp(prefix=self._copies)
        save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
        if self._world.rank == 0:
            files = files | {CONFIG_FILE: yaml.safe_dump(self._job.model_dump(mode="json"), sort_keys=False).encode()}
        for name, data in files.items():
            (Path(directory) / name).write_bytes(data)
        sizes = {str(file.relative_to(directory)): file.stat().st_size for file in Path(directory).rglob("*") if file.is_file()}
        asynchronous = self._job.training.checkpoint_upload == "async"
        # A restart may come to the same step again: two attempts must not share a directory. Rank 0's name is taken.
        name = self._world.broadcast(f"step-{step:08d}-{secrets.token_hex(3)}")
        ray.train.report(
            metrics
            | {
                "step": step,
                "world_size": self._world.size,
                "best": best,
                "cursor": hash_of(files.get(CURSOR_FILE, b"")),
                "files": sizes,
                "parent": self.parent,
            },
            checkpoint=ray.train.Checkpoint.from_directory(directory),
            checkpoint_dir_name=name,
            checkpoint_upload_fn=partial(_upload, timeout_s=self._job.training.storage_timeout_s),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC if asynchronous else CheckpointUploadMode.SYNC,
            delete_local_checkpoint_after_upload=True,
        )
        self._uploading = True
        self.parent = f"{self._launch}/{name}"

    def goes_on(self, step: int) -> bool:
        """Rank 0 waits for the answer to the evaluation of ``step``; a collective."""
        return not self._watched or bool(self._world.broadcast(self._answer_at(step) if self._world.rank == 0 else None))

    def _answer_at(self, step: int) -> bool:
        """Raises RunError when nobody has answered for ANSWER_LIMIT_S."""
        limit = time.monotonic() + ANSWER_LIMIT_S
        while time.monotonic() < limit:
            answer: bool | None = ray.get(self._mailbox.answer_at.remote(step))
            if answer is not None:
                return answer
            time.sleep(0.05)
        raise RunError(
            f"Whoever watches a run has to say after each evaluation whether it goes on. Received: no answer for {ANSWER_LIMIT_S:.0f} s "
            f"at step {step}. Go on with it by --resume."
        )

    def settle(self) -> None:
        """Waits until the last checkpoint is committed, so that one upload at most is under way; a collective."""
        if self._uploading:
            ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED)
            self._uploading = False


def _upload(checkpoint: ray.train.Checkpoint, name: str, timeout_s: float) -> ray.train.Checkpoint:
    """This rank's files into the checkpoint's directory; Ray tries again where a cloud store says so.

    Raises:
        StorageError: the storage is full, read-only or gone, or has not answered for ``timeout_s``.
    """
    storage = ray.train.get_context().get_storage()

    def persist() -> ray.train.Checkpoint:
        uploaded: ray.train.Checkpoint = storage.persist_current_checkpoint(checkpoint, name)
        if isinstance(uploaded.filesystem, LocalFileSystem):
            for file in Path(uploaded.path).iterdir():
                sync(file)
            sync(Path(uploaded.path))
        return uploaded

    try:
        return within(timeout_s, persist)
    except (OSError, RuntimeError) as err:
        shutil.rmtree(checkpoint.path, ignore_errors=True)
        refused = StorageError(
            f"A checkpoint has to reach {storage.experiment_fs_path}. Received: {err}. "
            "Free space, or check the storage and your access; then go on from the last checkpoint with --resume."
        )
        refused.retryable = not isinstance(err, NoAnswerError) and getattr(err, "errno", None) not in HOPELESS
        raise refused from err


class NoAnswerError(TimeoutError):
    """Ours, not the storage's own."""


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises; NoAnswerError once it has taken ``timeout_s``.

    A call that hangs in the kernel, as on a network drive that is gone, cannot be stopped: its thread is left behind, and ends
    with the process.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as err:
            outcome.set_exception(err)

    Thread(target=run, daemon=True).start()
    try:
        return outcome.result(timeout_s)
    except TimeoutError:
        if outcome.done():
            raise
        raise NoAnswerError(f"not done after {timeout_s:,.0f} s (training.storage_timeout_s)") from None
