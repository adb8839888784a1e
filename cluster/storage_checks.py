"""Whether a run can keep what it makes: storage that takes and gives back a file, and has room for the checkpoints."""

import errno
import os
import secrets
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from cluster.checks import Check
from cluster.facts import Disk, disk_of
from raytrain.config import JobConfig
from raytrain.errors import ConfigError
from raytrain.footprint import Footprint
from raytrain.machine import size
from raytrain.storage import Storage

NUM_BESIDES = 2
"""Checkpoints besides the newest: the best one, and the one that is being written."""
_FIXES = {
    errno.EACCES: "Choose another run.storage_path, or ask for write access to it.",
    errno.EPERM: "Choose another run.storage_path, or ask for write access to it.",
    errno.EROFS: "The file system is mounted read-only: choose another run.storage_path.",
    errno.ENOSPC: "The disk is full: free space, or choose another run.storage_path.",
    errno.EDQUOT: "Your quota is used up: free space, or choose another run.storage_path.",
    errno.ENOTDIR: "A part of run.storage_path is a file: choose another.",
}


def check_writable(storage_path: str) -> Check:
    """Writes, reads back and deletes a small file, on whatever file system it is; leaves nothing behind."""
    name, text = f".raytrain-doctor-{secrets.token_hex(8)}", secrets.token_hex(16)
    missing: list[Path] = []
    try:
        storage = Storage(storage_path)
        missing = _missing_directories(storage)
        storage.write_text(name, text)
        same = storage.read_text(name) == text
        storage.filesystem.delete_file(storage.path(name))
    except ConfigError as err:
        return Check("storage", "fail", str(err), "Change run.storage_path.")
    except (OSError, pa.ArrowException) as err:
        return Check("storage", "fail", f"{storage_path}: {_reason(err)}", _fix(err))
    finally:
        _remove_empty(missing)
    if not same:
        return Check("storage", "fail", f"{storage.uri} gave another content back than was written", "Choose another run.storage_path.")
    return Check("storage", "ok", f"{storage.uri}: written, read back and deleted a file")


def check_run_name(job: JobConfig) -> Check | None:
    """Whether run.name is free; null where a fresh one will be made, or storage cannot be read (another check says so)."""
    if job.run.name is None:
        return None
    try:
        storage = Storage(Storage(job.run.storage_path).join(job.run.name))
        taken = bool(storage.list_entries())
    except (ConfigError, OSError, pa.ArrowException):
        return None
    if taken:
        return Check("run name", "warn", f"{storage.uri} exists", "Choose another run.name, or go on with --resume.")
    return Check("run name", "ok", f"{storage.uri} is free")


def check_space(job: JobConfig, footprint: Footprint, temporary: Disk) -> Check:
    """Room for checkpoints where runs are kept, and for one more where workers write it first."""
    storage, kept = Storage(job.run.storage_path), job.training.keep_checkpoints + NUM_BESIDES
    asked = kept * footprint.checkpoint
    found = (
        f"checkpoint {size(footprint.checkpoint)} x (training.keep_checkpoints={job.training.keep_checkpoints} + the best + "
        f"the one being written) = {size(asked)}"
    )
    fix = "Lower training.keep_checkpoints or tables.dim, or choose a larger disk by run.storage_path or TMPDIR."
    if not isinstance(storage.filesystem, fs.LocalFileSystem):
        found = f"{found}; how much {storage.uri} has left is not known"
    else:
        disk = disk_of(storage.root)
        found = f"{found}, and {disk.path} has {size(disk.free)} free"
        if _device(disk.path) == _device(temporary.path):
            asked, found = asked + footprint.checkpoint, f"{found}; the snapshot in {temporary.path} lies on the same disk"
        if asked > disk.free:
            return Check("checkpoints", "fail", found, fix)
    if footprint.checkpoint > temporary.free:
        return Check("checkpoints", "fail", f"{found}; {temporary.path} has {size(temporary.free)} for one", fix)
    return Check("checkpoints", "ok", found)


def _missing_directories(storage: Storage) -> list[Path]:
    """Directories that writing would make on a local disk, the deepest first."""
    if not isinstance(storage.filesystem, fs.LocalFileSystem):
        return []
    root = Path(storage.root)
    return [path for path in (root, *root.parents) if not path.exists()]


def _remove_empty(directories: list[Path]) -> None:
    for directory in directories:
        try:
            directory.rmdir()
        # Never made, or used by somebody meanwhile.
        except OSError:
            return


def _reason(err: Exception) -> str:
    """The cause in words, without pyarrow's repetition of it."""
    if isinstance(err, OSError) and err.errno:
        return os.strerror(err.errno)
    return (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")


def _fix(err: Exception) -> str:
    known = _FIXES.get(err.errno) if isinstance(err, OSError) and err.errno else None
    return known or "Check run.storage_path, its bucket, the credentials and AWS_ENDPOINT_URL."


def _device(path: str) -> int:
    found = Path(path).absolute()
    while not found.exists():
        found = found.parent
    return found.stat().st_dev
