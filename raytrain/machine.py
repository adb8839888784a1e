"""What this machine has, as Ray would count it: CPUs, memory, GPUs, inside a container what the container may use. Torch-free."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
GIB = 2**30
_UNLIMITED = 2**60
"""cgroup v1 writes a number near 2**63 for "no limit"."""


@dataclass(frozen=True)
class Gpu:
    name: str
    memory: int
    """Bytes."""


@dataclass(frozen=True)
class Machine:
    """One computer or container."""

    num_cpus: float
    memory: int
    """Bytes in all."""
    memory_available: int
    """Bytes that a new process may take without swapping."""
    gpus: tuple[Gpu, ...] = ()


def this_machine(root: Path = Path("/")) -> Machine:
    """Asks the kernel and, where there is one, the NVIDIA driver.

    Args:
        root: where proc/ and sys/ are found.
    """
    memory, available = _memory(root)
    return Machine(_num_cpus(root), memory, available, visible_gpus())


def visible_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA_VISIBLE_DEVICES leaves, by nvidia-smi; none where it is missing or fails."""
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines() if line.count(",") == 3]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        chosen = [name.strip() for name in visible.split(",")]
        rows = [row for row in rows if row[0] in chosen or any(name and row[1].startswith(name) for name in chosen)]
    return tuple(Gpu(name, _bytes(memory)) for _, _, name, memory in rows)


def size(num_bytes: float) -> str:
    """ "3.2 GiB", for messages."""
    for unit, name in ((2**40, "TiB"), (GIB, "GiB"), (MIB, "MiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:,.1f} {name}"
    return f"{num_bytes / 2**10:,.1f} KiB"


def _bytes(text: str) -> int:
    """Bytes; 0 where the driver does not say, as for parts of a partitioned GPU."""
    return int(text) * MIB if text.isdigit() else 0


def _num_cpus(root: Path) -> float:
    """The machine's, or the whole CPUs of a container's quota: Ray drops a fraction too."""
    num_cpus = os.cpu_count() or 1
    quota, period = _number(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us"), _number(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    words = _text(root / "sys/fs/cgroup/cpu.max").split()
    if len(words) == 2 and words[0].isdigit():
        quota, period = int(words[0]), int(words[1])
    if quota is None or quota <= 0 or not period:
        return num_cpus
    return min(num_cpus, quota // period)


def _memory(root: Path) -> tuple[int, int]:
    """(all, available) bytes, the smaller of the machine's and the container's."""
    lines = [line.split() for line in _text(root / "proc/meminfo").splitlines()]
    known = {words[0]: int(words[1]) * 2**10 for words in lines if len(words) > 1}
    if "MemTotal:" in known:
        total, available = known["MemTotal:"], known.get("MemAvailable:", known["MemTotal:"])
    else:
        total = available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for folder, limit_file, used_file, cache_key in (
        ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, used = _number(root / folder / limit_file), _number(root / folder / used_file)
        if limit is None or used is None or limit >= _UNLIMITED:
            continue
        statistics = dict(line.split() for line in _text(root / folder / "memory.stat").splitlines() if len(line.split()) == 2)
        # File pages that nobody has touched lately are dropped before anything is killed.
        free = limit - used + int(statistics.get(cache_key, 0))
        total, available = min(total, limit), min(available, max(0, free))
    return total, available


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(file: Path) -> int | None:
    """The file's number; None where it is missing or says "max"."""
    text = _text(file).strip()
    return int(text) if text.lstrip("-").isdigit() else None
