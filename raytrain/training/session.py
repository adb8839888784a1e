"""The loop's surroundings on Ray Train: records to the driver, checkpoints to the storage."""

import secrets
import tempfile
from pathlib import Path
from typing import Any

import ray.train
import yaml
from ray.train import CheckpointConsistencyMode, CheckpointUploadMode

from raytrain.config import CONFIG_FILE, JobConfig
from raytrain.data.cursor import hash_of
from raytrain.errors import StorageError
from raytrain.training.checkpoint import save_checkpoint
from raytrain.training.commit import CURSOR_FILE
from raytrain.training.loop import Learner
from raytrain.training.parallel import World


class RaySession:
    """``Session`` of the loop."""

    def __init__(self, job: JobConfig, mailbox: Any, world: World) -> None:
        self._job = job
        self._mailbox = mailbox
        self._world = world
        self._uploading = False

    def log(self, record: dict[str, Any]) -> None:
        if self._world.rank == 0:
            self._mailbox.post.remote(record)

    def checkpoint(self, learner: Learner, step: int, metrics: dict[str, float], best: bool, files: dict[str, bytes]) -> None:
        """Everything is copied to a local directory at this step boundary, then uploaded, then committed by the controller.

        ``ray.train.report`` is a barrier: every rank comes here at the same steps.
        """
        self.settle()
        directory = tempfile.mkdtemp(prefix="raytrain-checkpoint-")
        save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
        if self._world.rank == 0:
            files = files | {CONFIG_FILE: yaml.safe_dump(self._job.model_dump(mode="json"), sort_keys=False).encode()}
        for name, data in files.items():
            (Path(directory) / name).write_bytes(data)
        sizes = {str(file.relative_to(directory)): file.stat().st_size for file in Path(directory).rglob("*") if file.is_file()}
        asynchronous = self._job.training.checkpoint_upload == "async"
        ray.train.report(
            metrics
            | {
                "step": step,
                "world_size": self._world.size,
                "best": best,
                "cursor": hash_of(files.get(CURSOR_FILE, b"")),
                "files": sizes,
            },
            checkpoint=ray.train.Checkpoint.from_directory(directory),
            # A restart may come to the same step again: two attempts must not share a directory.
            checkpoint_dir_name=f"step-{step:08d}-{secrets.token_hex(3)}",
            checkpoint_upload_fn=_upload,
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC if asynchronous else CheckpointUploadMode.SYNC,
            delete_local_checkpoint_after_upload=True,
        )
        self._uploading = True

    def settle(self) -> None:
        """Waits until the last checkpoint is committed, so that one upload at most is under way; a collective."""
        if self._uploading:
            ray.train.get_all_reported_checkpoints(CheckpointConsistencyMode.COMMITTED)
            self._uploading = False


def _upload(checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
    """This rank's files into the checkpoint's directory; Ray tries again where a cloud store says so.

    Raises:
        StorageError: the storage is full, read-only or gone.
    """
    storage = ray.train.get_context().get_storage()
    try:
        uploaded: ray.train.Checkpoint = storage.persist_current_checkpoint(checkpoint, name)
    except (OSError, RuntimeError) as err:
        raise StorageError(
            f"A checkpoint has to reach {storage.experiment_fs_path}. Received: {err}. "
            "Free space, or check the storage and your access; then go on from the last checkpoint with --resume."
        ) from err
    return uploaded
