"""What the machine part of a preflight looks at, read once: tests put other facts in its place."""

import os
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from raytrain.machine import Machine, this_machine

PACKAGES = ("ray", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyarrow")


@dataclass(frozen=True)
class Disk:
    """A file system, by a directory on it."""

    path: str
    total: int
    """Bytes."""
    free: int


@dataclass(frozen=True)
class Facts:
    """This machine, and what is installed on it."""

    machine: Machine
    python: str
    requires_python: str
    """A version specifier; "" where raytrain is no installed package."""
    installed: Mapping[str, str | None]
    """Package -> version, null where it is missing."""
    required: Mapping[str, Requirement]
    """Package -> the versions that work together, by raytrain's own metadata."""
    temporary: Disk
    shared_memory: Disk | None
    """/dev/shm, where Ray keeps its object store; null where the system has none."""


def read_facts() -> Facts:
    """Asks the kernel, the file systems and the installed packages' metadata; imports none of them."""
    requires_python, lines = _own_requirements()
    required = {requirement.name: requirement for requirement in map(Requirement, lines)}
    if "fbgemm-gpu" in required:
        # The CPU build goes in without its dependencies, so no requirement can name it; its version is that of the CUDA build.
        required["fbgemm-gpu-cpu"] = Requirement(f"fbgemm-gpu-cpu{required['fbgemm-gpu'].specifier}")
    return Facts(
        machine=this_machine(),
        python=platform.python_version(),
        requires_python=requires_python,
        installed={name: _version(name) for name in PACKAGES},
        required=required,
        temporary=disk_of(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()),
        shared_memory=disk_of("/dev/shm") if Path("/dev/shm").is_dir() else None,
    )


def disk_of(path: str) -> Disk:
    """The file system of ``path``, or of its nearest parent that exists."""
    found = Path(path).absolute()
    while not found.exists():
        found = found.parent
    usage = shutil.disk_usage(found)
    return Disk(path, usage.total, usage.free)


def _own_requirements() -> tuple[str, list[str]]:
    """Python's version specifier and every requirement, extras included: of this checkout, else of the installed package."""
    checkout = Path(__file__).parents[1] / "pyproject.toml"
    if checkout.exists():
        project = tomllib.loads(checkout.read_text(encoding="utf-8"))["project"]
        return project["requires-python"], [
            *project["dependencies"],
            *(line for extra in project["optional-dependencies"].values() for line in extra),
        ]
    try:
        return metadata.metadata("raytrain")["Requires-Python"] or "", metadata.requires("raytrain") or []
    except metadata.PackageNotFoundError:
        return "", []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
