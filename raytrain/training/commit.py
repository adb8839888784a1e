"""Which checkpoint counts: one small file, ``checkpoints/committed.json``, replaced whole. Torch-free: Ray's controller runs it.

A checkpoint is a directory that all ranks upload into, in parts; it counts once it is in this file, and it gets there after
every rank has reported and every file it should hold has been seen in the storage. Streams are planned and weights loaded
from what this file says, never from a directory listing: a directory exists before its checkpoint does. Our choice.
"""

import json
import secrets
from collections.abc import Iterable
from typing import Any

from pyarrow.fs import FileSelector
from ray.train import Checkpoint, UserCallback

from raytrain.data.cursor import hash_of
from raytrain.errors import RaytrainError, RunError
from raytrain.settings import Section
from raytrain.storage import Storage

CHECKPOINTS = "checkpoints"
COMMITTED = f"{CHECKPOINTS}/committed.json"
CURSOR_FILE = "cursor.parquet"


class Committed(Section):
    """One checkpoint that counts."""

    name: str
    """Directory below ``checkpoints/``."""
    step: int
    world_size: int
    cursor: str
    """Hash of its cursor; a stream planned from it carries the same."""
    files: dict[str, int]
    """name -> bytes"""
    best: str | None
    """The best checkpoint when this one was made; null before the first evaluation."""


class Registry(Section):
    """The file. ``owner`` is the launch that may write it: an older one that lives on is refused at its next commit."""

    owner: str
    checkpoints: tuple[Committed, ...] = ()


def take_over(storage: Storage) -> str:
    """Makes a new launch the owner of the run directory ``storage``, and deletes what earlier ones left unfinished.

    Returns:
        Its token.
    """
    registry, owner = _read(storage), secrets.token_hex(4)
    checkpoints = registry.checkpoints if registry else ()
    _write(storage, Registry(owner=owner, checkpoints=checkpoints))
    needed = {checkpoint.name for checkpoint in checkpoints}
    for launch in storage.list_dirs(CHECKPOINTS):
        for name in storage.list_dirs(launch):
            if name.removeprefix(f"{CHECKPOINTS}/") not in needed:
                storage.delete_dir(name)
    return owner


def newest(storage: Storage) -> Committed | None:
    """The newest committed checkpoint whose files are all there; None for a run that has none.

    Raises:
        RunError: there were some, and none is whole.
    """
    registry = _read(storage)
    if registry is None or not registry.checkpoints:
        return None
    for checkpoint in reversed(registry.checkpoints):
        if not missing_files(storage, checkpoint) and hash_of(read_cursor(storage, checkpoint)) == checkpoint.cursor:
            return checkpoint
    names = ", ".join(checkpoint.name for checkpoint in registry.checkpoints)
    raise RunError(
        f"A committed checkpoint has to be whole. Received: {storage.join(CHECKPOINTS)}, where each of {names} lacks files or was changed. "
        "Restore them, or start a new run."
    )


def read_cursor(storage: Storage, checkpoint: Committed | None) -> bytes:
    """``Cursor.to_bytes`` as it was saved; empty without a checkpoint."""
    return storage.read_bytes(f"{CHECKPOINTS}/{checkpoint.name}/{CURSOR_FILE}") if checkpoint else b""


def missing_files(storage: Storage, checkpoint: Committed) -> list[str]:
    """Files that are absent or have another size than when they were saved."""
    found = _sizes(storage, checkpoint.name)
    return sorted(name for name, size in checkpoint.files.items() if found.get(name) != size)


def commit(storage: Storage, owner: str, reported: Committed, is_best: bool, num_kept: int) -> Committed:
    """Adds a checkpoint that every rank has reported, and deletes what is no longer needed.

    Kept are the newest ``num_kept`` and the best as of each of them, so that a fall back to an older one finds its best too.

    Raises:
        RunError: another launch has taken the run over.
    """
    registry = _read(storage)
    if registry is None or registry.owner != owner:
        raise RunError(
            f"A run is trained by one launch at a time. Received: {storage.uri}, taken over by another launch "
            f"({registry.owner if registry else 'none'}, this is {owner}). Let that one go on, or resume again."
        )
    # A fall back to an older checkpoint leaves later ones behind, which this run did not go on from.
    before = [checkpoint for checkpoint in registry.checkpoints if checkpoint.step < reported.step]
    best = reported.name if is_best else before[-1].best if before else None
    added = reported.model_copy(update={"best": best})
    newest_ones = [*before, added][-num_kept:]
    needed = {checkpoint.name for checkpoint in newest_ones} | {checkpoint.best for checkpoint in newest_ones}
    kept = tuple(checkpoint for checkpoint in [*before, added] if checkpoint.name in needed)
    _write(storage, Registry(owner=owner, checkpoints=kept))
    for checkpoint in registry.checkpoints:
        if checkpoint.name not in needed:
            storage.delete_dir(f"{CHECKPOINTS}/{checkpoint.name}")
    return added


class CommitCallback(UserCallback):
    """Runs in Ray Train's controller: commits what all ranks have reported, and ends a run that a restart cannot help."""

    def __init__(self, run_uri: str, owner: str, num_kept: int, mailbox: Any) -> None:
        self._run_uri = run_uri
        self._owner = owner
        self._num_kept = num_kept
        self._mailbox = mailbox

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is None:
            return
        storage, first = Storage(self._run_uri), metrics[0]
        files = {name: size for rank in metrics for name, size in rank["files"].items()}
        name = checkpoint.path.removeprefix(storage.path(CHECKPOINTS) + "/")
        reported = Committed(name=name, step=first["step"], world_size=first["world_size"], cursor=first["cursor"], files=files, best=None)
        # While a node is preempted Ray registers a checkpoint without the ranks that are gone.
        absent = reported.world_size - len(metrics)
        missing = missing_files(storage, reported)
        if absent or missing:
            self._post(
                {"kind": "warning", "text": f"checkpoint of step {reported.step} left out: {absent} ranks and {missing} are missing"}
            )
            return
        added = commit(storage, self._owner, reported, first["best"], self._num_kept)
        self._post(
            {"kind": "checkpoint", "step": added.step, "name": added.name, "best": first["best"], "mib": sum(files.values()) / 2**20}
        )

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ours = our_error(worker_exceptions.values())
        if ours is not None and not ours.retryable:
            raise ours
        ranks = ", ".join(str(rank) for rank in sorted(worker_exceptions))
        reason = str(ours or next(iter(worker_exceptions.values()))).strip().splitlines()
        self._post(
            {"kind": "warning", "text": f"worker {ranks} failed ({reason[0] if reason else 'no reason given'}); going on from the cursor"}
        )

    def _post(self, record: dict[str, Any]) -> None:
        self._mailbox.post.remote(record)


def our_error(exceptions: Iterable[BaseException]) -> RaytrainError | None:
    """The first error of ours, however deep Ray has wrapped it."""
    for exception in exceptions:
        found: BaseException | None = exception
        while found is not None:
            if isinstance(found, RaytrainError):
                return found
            found = getattr(found, "cause", None) or getattr(found, "controller_failure", None) or found.__cause__
    return None


def _sizes(storage: Storage, name: str) -> dict[str, int]:
    root = storage.path(f"{CHECKPOINTS}/{name}")
    found = storage.filesystem.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    return {info.path.removeprefix(root + "/"): info.size for info in found if info.is_file}


def _read(storage: Storage) -> Registry | None:
    try:
        text = storage.read_text(COMMITTED)
    except FileNotFoundError:
        return None
    return Registry.parse(json.loads(text), storage.join(COMMITTED))


def _write(storage: Storage, registry: Registry) -> None:
    storage.write_text(COMMITTED, json.dumps(registry.model_dump(), indent=1) + "\n")
