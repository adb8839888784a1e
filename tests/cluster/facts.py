"""Facts of a sound machine, and jobs on tiny data, for tests to break one thing at a time."""

from pathlib import Path

import yaml
from packaging.requirements import Requirement

from cluster.checks import Check, Part
from cluster.facts import Disk, Facts
from raytrain.machine import GIB, Machine

INSTALLED = {
    "ray": "2.60.0",
    "torch": "2.13.0+cpu",
    "torchrec": "1.8.0",
    "fbgemm-gpu": None,
    "fbgemm-gpu-cpu": "1.8.0",
    "pyarrow": "26.0.1",
}
REQUIRED = [
    "ray[data,train,tune]==2.60.0",
    "torch==2.13.0",
    "torchrec==1.8.0",
    "fbgemm-gpu==1.8.0",
    "fbgemm-gpu-cpu==1.8.0",
    "pyarrow>=20,<27",
]


def sound_facts(machine: Machine | None = None, installed: dict[str, str | None] | None = None, **others: object) -> Facts:
    """Two cores, 16 GiB, roomy disks, the packages that work together."""
    values = {
        "machine": machine or Machine(2, 16 * GIB, 12 * GIB),
        "python": "3.11.7",
        "requires_python": ">=3.11,<3.12",
        "installed": INSTALLED | (installed or {}),
        "required": {requirement.name: requirement for requirement in map(Requirement, REQUIRED)},
        "temporary": Disk("/", 500 * GIB, 100 * GIB),
        "shared_memory": Disk("/dev/shm", 16 * GIB, 16 * GIB),
    }
    return Facts(**(values | others))


def write_job(directory: Path, data: str, **sections: object) -> str:
    """A job file on the data set ``data`` whose runs lie beside it."""
    job = {
        "run": {"storage_path": str(directory / "runs")},
        "data": {"path": data, "batch_size": 32, "window_batches": 2, "history_length": 8},
        "model": {"name": "din", "hidden_units": [8]},
        "tables": {"dim": 8},
    }
    file = directory / "job.yaml"
    file.write_text(yaml.safe_dump(job | sections))
    return str(file)


def named(parts: list[Part]) -> dict[str, Check]:
    return {check.name: check for part in parts for check in part.checks}
