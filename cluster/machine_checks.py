"""The machine part of a preflight: pure functions of facts."""

from packaging.specifiers import SpecifierSet

from cluster.checks import Check, Status
from cluster.facts import Disk, Facts
from raytrain.embeddings.config import INSTALL
from raytrain.footprint import PROCESS_BYTES, RUN_BYTES
from raytrain.machine import GIB, Machine, size

STORE_SHARE = 0.3
"""Of the memory, what Ray takes for its object store by default."""
FULL_SHARE = 0.95
"""Ray stops spilling to a file system that is fuller than this."""
FBGEMM = ("fbgemm-gpu", "fbgemm-gpu-cpu")


def machine_checks(facts: Facts, needs_fbgemm: bool) -> tuple[Check, ...]:
    """``needs_fbgemm``: whether the job shards its tables; a missing torchrec is then no warning but a failure."""
    sharding: Status = "fail" if needs_fbgemm else "warn"
    return (
        check_python(facts.python, facts.requires_python),
        *(check_version(facts, name) for name in ("ray", "torch", "pyarrow")),
        check_version(facts, "torchrec", sharding, INSTALL),
        check_fbgemm(facts, sharding),
        Check("machine CPUs", "ok", f"{facts.machine.num_cpus:g}"),
        check_memory(facts.machine),
        check_gpus(facts.machine),
        check_temporary(facts.temporary),
        *([check_shared_memory(facts.shared_memory, facts.machine)] if facts.shared_memory else []),
    )


def check_python(version: str, required: str) -> Check:
    if SpecifierSet(required).contains(version):
        return Check("python", "ok", version)
    return Check("python", "fail", f"{version}, and raytrain needs {required}", "Make a virtual environment with that Python.")


def check_version(facts: Facts, package: str, severity: Status = "fail", install: str = "") -> Check:
    """One package against the versions that work together; only a package that is there can be a wrong one."""
    found, required = facts.installed[package], facts.required.get(package)
    if found is None:
        return Check(package, severity, "not installed", install or f"Run: pip install '{_wanted(facts, package)}'")
    if required is None:
        return Check(
            package, "warn", f"{found}; raytrain is no installed package here, so nothing says which fits", "Run: pip install -e ."
        )
    if not required.specifier.contains(found, prereleases=True):
        wanted = f"{found}, and raytrain needs {required.specifier}"
        return Check(package, "fail", wanted, install or f"Run: pip install '{_wanted(facts, package)}'")
    return Check(package, "ok", found)


def check_fbgemm(facts: Facts, severity: Status = "fail") -> Check:
    """The build for CPU or for CUDA, never both: each overwrites files of the other."""
    there = [name for name in FBGEMM if facts.installed[name] is not None]
    if len(there) == 2:
        return Check(
            "fbgemm",
            severity,
            "fbgemm-gpu and fbgemm-gpu-cpu, and each has overwritten files of the other",
            f"Run: pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu. {INSTALL}",
        )
    if not there:
        return Check("fbgemm", severity, "neither fbgemm-gpu-cpu nor fbgemm-gpu is installed", INSTALL)
    check = check_version(facts, there[0], severity, INSTALL)
    return Check("fbgemm", check.status, f"{there[0]} {check.found}", check.fix)


def check_memory(machine: Machine) -> Check:
    """Whether the smallest run has room."""
    found = f"{size(machine.memory_available)} of {size(machine.memory)} available"
    least = PROCESS_BYTES + RUN_BYTES
    if machine.memory_available < least:
        return Check(
            "machine memory", "warn", f"{found}; Ray and one worker take {size(least)} before a table is made", "Free some memory."
        )
    return Check("machine memory", "ok", found)


def check_gpus(machine: Machine) -> Check:
    return Check("machine GPUs", "ok", ", ".join(f"{gpu.name} {size(gpu.memory)}" for gpu in machine.gpus) or "none")


def check_temporary(disk: Disk) -> Check:
    """Where Ray spills and workers write a checkpoint before it is uploaded."""
    found = f"{size(disk.free)} of {size(disk.total)} free in {disk.path}"
    if disk.free < (1 - FULL_SHARE) * disk.total or disk.free < GIB:
        return Check(
            "temporary files",
            "warn",
            f"{found}; Ray spills nothing to a disk that is {FULL_SHARE:.0%} full",
            "Free space there, or set RAY_TMPDIR and TMPDIR to a larger disk.",
        )
    return Check("temporary files", "ok", found)


def check_shared_memory(disk: Disk, machine: Machine) -> Check:
    wanted = STORE_SHARE * machine.memory_available
    found = f"{size(disk.free)} free in {disk.path}"
    if disk.free < wanted:
        return Check(
            "shared memory",
            "warn",
            f"{found}; Ray's object store of {size(wanted)} will lie on disk instead, several times slower",
            f"Start the container with --shm-size={-(-int(wanted) // GIB)}g.",
        )
    return Check("shared memory", "ok", found)


def _wanted(facts: Facts, package: str) -> str:
    required = facts.required.get(package)
    if required is None:
        return package
    extras = f"[{','.join(sorted(required.extras))}]" if required.extras else ""
    return f"{package}{extras}{required.specifier}"
