"""What a machine has, from files as the kernel writes them."""

import os
from pathlib import Path

import pytest

from raytrain.machine import GIB, MIB, Gpu, size, this_machine, visible_gpus

MEMINFO = f"MemTotal: {64 * 2**20} kB\nMemFree: 1 kB\nMemAvailable: {40 * 2**20} kB\nHugePages_Total: 0\n"


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setenv("PATH", "/nowhere")


def kernel(root: Path, files: dict[str, str]) -> Path:
    for name, text in ({"proc/meminfo": MEMINFO} | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V2, V1 = "sys/fs/cgroup/", "sys/fs/cgroup/memory/"
CONTAINERS = {
    "no container": ({}, 16, 64, 40),
    "no limits": ({V2 + "cpu.max": "max 100000\n", V2 + "memory.max": "max\n", V2 + "memory.current": "5\n"}, 16, 64, 40),
    "two and a half CPUs": ({V2 + "cpu.max": "250000 100000\n"}, 2, 64, 40),
    "half a CPU, for Ray none": ({V2 + "cpu.max": "50000 100000\n"}, 0, 64, 40),
    "8 GiB, 3 of them used": ({V2 + "memory.max": str(8 * GIB), V2 + "memory.current": str(3 * GIB)}, 16, 8, 5),
    "a limit above the machine": ({V2 + "memory.max": str(99 * GIB), V2 + "memory.current": "0"}, 16, 64, 40),
    "an old kernel": ({V1 + "memory.limit_in_bytes": str(4 * GIB), V1 + "memory.usage_in_bytes": str(GIB)}, 16, 4, 3),
    "an old kernel without limits": ({V1 + "memory.limit_in_bytes": str(2**63 - 4096), V1 + "memory.usage_in_bytes": "9"}, 16, 64, 40),
    "four CPUs of an old kernel": ({V2 + "cpu/cpu.cfs_quota_us": "400000", V2 + "cpu/cpu.cfs_period_us": "100000"}, 4, 64, 40),
    "all CPUs of an old kernel": ({V2 + "cpu/cpu.cfs_quota_us": "-1", V2 + "cpu/cpu.cfs_period_us": "100000"}, 16, 64, 40),
}


@pytest.mark.parametrize(("files", "num_cpus", "memory_gib", "available_gib"), CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_has_what_it_may_use(tmp_path, files, num_cpus, memory_gib, available_gib):
    found = this_machine(kernel(tmp_path, files))
    assert (found.num_cpus, found.memory / GIB, found.memory_available / GIB, found.gpus) == (num_cpus, memory_gib, available_gib, ())


def test_stale_file_pages_are_as_good_as_free(tmp_path):
    files = {V2 + "memory.max": str(8 * GIB), V2 + "memory.current": str(3 * GIB), V2 + "memory.stat": f"anon 5\ninactive_file {GIB}\n"}
    assert this_machine(kernel(tmp_path, files)).memory_available == 6 * GIB


def test_a_system_without_proc_still_has_memory(tmp_path):
    found = this_machine(tmp_path)
    assert found.memory == found.memory_available > 0


SMI = "0, GPU-aa11, NVIDIA H200, 143771\\n1, GPU-bb22, NVIDIA H200 MIG 1g.18gb, [N/A]\\n"


@pytest.mark.parametrize(
    ("visible", "names"),
    [(None, 2), ("0", 1), ("GPU-bb", 1), ("0,1", 2), ("", 0), ("-1", 0)],
    ids=["all", "one by index", "one by uuid", "both", "none", "none by a number"],
)
def test_gpus_are_those_that_cuda_may_see(tmp_path, monkeypatch, visible, names):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nprintf '{SMI}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = visible_gpus()
    assert len(found) == names
    if visible is None:
        assert found == (Gpu("NVIDIA H200", 143771 * MIB), Gpu("NVIDIA H200 MIG 1g.18gb", 0))


def test_a_driver_that_fails_means_no_gpu(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == ()


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(512, "0.5 KiB"), (3 * MIB, "3.0 MiB"), (1.5 * GIB, "1.5 GiB"), (2**43, "8.0 TiB")],
    ids=["KiB", "MiB", "GiB", "TiB"],
)
def test_sizes_are_read_by_people(num_bytes, text):
    assert size(num_bytes) == text
