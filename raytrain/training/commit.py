"""Which checkpoint counts: one small file, ``checkpoints/committed.json``, replaced whole. Torch-free: Ray's controller runs it.

A second one, ``checkpoints/owner``, names the launch that may write the first; only a new launch writes it. A checkpoint is
a directory that all ranks upload into, in parts; it counts once it is in ``committed.json``, and it gets there after every
rank has reported and every file it should hold has been seen in the storage. Streams are planned and weights loaded from
what this file says, never from a directory listing: a directory exists before its checkpoint does. Our choice.
"""

import json
import secrets
from collections.abc import Callable, Iterable
from typing import Any

from pyarrow.fs import FileSelector
from ray.train import Checkpoint, UserCallback

from raytrain.data.cursor import hash_of
from raytrain.errors import RaytrainError, RunError, StorageError, StreamError
from raytrain.settings import Section
from raytrain.storage import Storage, retried

CHECKPOINTS = "checkpoints"
COMMITTED = f"{CHECKPOINTS}/committed.json"
OWNER = f"{CHECKPOINTS}/owner"
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
    """The file: each checkpoint was made going on from the one before it."""

    checkpoints: tuple[Committed, ...] = ()


def take_over(storage: Storage) -> str:
    """Makes a new launch the owner of the run directory ``storage``, and deletes what earlier ones left unfinished.

    Returns:
        Its token.
    """
    owner = secrets.token_hex(4)
    storage.write_text(OWNER, owner)
    # Read after the owner is written: from then on a former owner deletes nothing.
    needed = {checkpoint.name for checkpoint in _read(storage).checkpoints}
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
    if not registry.checkpoints:
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


def best_of(storage: Storage, checkpoint: Committed) -> Committed | None:
    """The best checkpoint when this one was made."""
    return next((found for found in _read(storage).checkpoints if found.name == checkpoint.best), None)


def commit(storage: Storage, owner: str, reported: Committed, parent: str | None, is_best: bool, num_kept: int) -> tuple[str, ...]:
    """Adds a checkpoint that every rank has reported, and forgets what is no longer needed.

    Kept are the newest ``num_kept`` and the best as of each of them, so that a fall back to an older one finds its best too.

    Args:
        parent: the checkpoint it was made going on from; later ones were left behind by a fall back.

    Returns:
        Names of checkpoints to delete: they count no more.

    Raises:
        RunError: another launch has taken the run over, or the parent does not count.
    """
    _check_owner(storage, owner)
    former = _read(storage).checkpoints
    names = [checkpoint.name for checkpoint in former]
    if parent is not None and parent not in names:
        raise RunError(f"A checkpoint has to go on from one that counts. Received: {reported.name}, made after {parent}. Resume the run.")
    before = former[: names.index(parent) + 1] if parent is not None else ()
    best = reported.name if is_best else before[-1].best if before else None
    added = reported.model_copy(update={"best": best})
    _write(storage, Registry(checkpoints=(*before, added)))
    # A launch that took over since may go on from what would be deleted here.
    _check_owner(storage, owner)
    newest_ones = [*before, added][-num_kept:]
    needed = {checkpoint.name for checkpoint in newest_ones} | {checkpoint.best for checkpoint in newest_ones}
    kept = tuple(checkpoint for checkpoint in (*before, added) if checkpoint.name in needed)
    if len(kept) <= len(before):
        _write(storage, Registry(checkpoints=kept))
    return tuple(name for name in names if name not in needed)


def enter(
    storage: Storage,
    owner: str,
    reported: Committed,
    parent: str | None,
    is_best: bool,
    num_kept: int,
    post: Callable[[dict[str, Any]], None],
) -> None:
    """``commit`` of a checkpoint whose files have all been seen in the storage; tells ``post``, and deletes those that it replaces.

    Raises:
        StreamError: files are missing; StorageError: the storage has failed again and again; RunError as ``commit``.
    """
    try:
        missing = retried(lambda: missing_files(storage, reported))
        if missing:
            raise StreamError(
                f"A checkpoint has to hold the files of its {reported.world_size} workers. Received: {reported.name}, without {missing}. "
                "Check the storage; then go on from the last checkpoint with --resume."
            )
        forgotten = retried(lambda: commit(storage, owner, reported, parent, is_best, num_kept))
    except OSError as err:
        raise StorageError(
            f"A checkpoint has to be entered in {storage.join(COMMITTED)}. Received: {err}. "
            "Free space, or check the storage and your access; then go on from the last checkpoint with --resume."
        ) from err
    size_mib = sum(reported.files.values()) / 2**20
    post({"kind": "checkpoint", "step": reported.step, "name": reported.name, "best": is_best, "mib": size_mib})
    for old in forgotten:
        try:
            storage.delete_dir(f"{CHECKPOINTS}/{old}")
        except OSError as err:
            post({"kind": "warning", "text": f"checkpoint {old} is no longer needed and could not be deleted: {err}"})


def _check_owner(storage: Storage, owner: str) -> None:
    found = storage.read_text(OWNER)
    if found != owner:
        raise RunError(
            f"A run is trained by one launch at a time. Received: {storage.uri}, taken over by launch {found}, this is {owner}. "
            "Let that one go on, or resume again."
        )


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
        if len(metrics) != reported.world_size:
            raise StreamError(
                f"A checkpoint is of all {reported.world_size} workers. Received: {name} of {len(metrics)}. Go on from the last checkpoint "
                "with --resume."
            )
        enter(storage, self._owner, reported, first["parent"], first["best"], self._num_kept, self._post)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ours = our_error(worker_exceptions.values())
        if ours is not None and not ours.retryable:
            raise ours
        ranks = ", ".join(str(rank) for rank in sorted(worker_exceptions))
        reason = str(ours or next(iter(worker_exceptions.values()))).strip().splitlines()
        self._post({"kind": "warning", "text": f"worker {ranks} failed ({reason[0] if reason else 'no reason given'})"})

    def _post(self, record: dict[str, Any]) -> None:
        self._mailbox.post.remote(record)


def our_error(exceptions: Iterable[BaseException]) -> RaytrainError | None:
    """The error of ours that decides, however deep Ray has wrapped it: one that a restart cannot help before any other."""
    found: list[RaytrainError] = []
    for exception in exceptions:
        link: BaseException | None = exception
        while link is not None:
            if isinstance(link, RaytrainError):
                found.append(link)
            link = getattr(link, "cause", None) or getattr(link, "controller_failure", None) or link.__cause__ or link.__context__
    return min(found, key=lambda error: error.retryable, default=None)


def _sizes(storage: Storage, name: str) -> dict[str, int]:
    root = storage.path(f"{CHECKPOINTS}/{name}")
    found = storage.filesystem.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
    return {info.path.removeprefix(root + "/"): info.size for info in found if info.is_file}


def _read(storage: Storage) -> Registry:
    try:
        text = storage.read_text(COMMITTED)
    except FileNotFoundError:
        return Registry()
    return Registry.parse(json.loads(text), storage.join(COMMITTED))


def _write(storage: Storage, registry: Registry) -> None:
    storage.write_text(COMMITTED, json.dumps(registry.model_dump(), indent=1) + "\n")
