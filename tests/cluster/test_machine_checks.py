"""The machine part of a preflight, one fact wrong at a time."""

import pytest

from cluster.checks import Check
from cluster.facts import Disk, read_facts
from cluster.machine_checks import machine_checks
from raytrain.machine import GIB, MIB, Gpu, Machine
from tests.cluster.facts import sound_facts


def checks_of(facts, needs_fbgemm: bool = True) -> dict[str, Check]:
    return {check.name: check for check in machine_checks(facts, needs_fbgemm)}


def test_a_sound_machine_passes():
    checks = checks_of(sound_facts())
    assert {check.status for check in checks.values()} == {"ok"}
    assert checks["fbgemm"].found == "fbgemm-gpu-cpu 1.8.0"
    assert checks["machine memory"].found == "12.0 GiB of 16.0 GiB available"
    assert checks["machine GPUs"].found == "none"


def test_gpus_are_named():
    machine = Machine(8, 64 * GIB, 60 * GIB, (Gpu("NVIDIA H200", 141 * GIB),))
    assert checks_of(sound_facts(machine, shared_memory=None))["machine GPUs"].found == "NVIDIA H200 141.0 GiB"


CPU_BUILD = "--no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0"
RAY = "pip install 'ray[data,train,tune]==2.60.0'"
SMALL = Disk("/dev/shm", 64 * MIB, 64 * MIB)
BROKEN = {
    "another Python": ({"python": "3.12.1"}, "python", "fail", "3.12.1, and raytrain needs", "virtual environment"),
    "another ray": ({"installed": {"ray": "2.50.0"}}, "ray", "fail", "2.50.0", RAY),
    "no ray": ({"installed": {"ray": None}}, "ray", "fail", "not installed", RAY),
    "another torch": ({"installed": {"torch": "2.12.0"}}, "torch", "fail", "needs ==2.13.0", "pip install 'torch==2.13.0'"),
    "a newer pyarrow": ({"installed": {"pyarrow": "27.0.0"}}, "pyarrow", "fail", "27.0.0", "pip install 'pyarrow<27,>=20'"),
    "another torchrec": ({"installed": {"torchrec": "1.7.0"}}, "torchrec", "fail", "1.7.0", CPU_BUILD),
    "no torchrec": ({"installed": {"torchrec": None}}, "torchrec", "fail", "not installed", CPU_BUILD),
    "no FBGEMM": ({"installed": {"fbgemm-gpu-cpu": None}}, "fbgemm", "fail", "neither", CPU_BUILD),
    "another FBGEMM": ({"installed": {"fbgemm-gpu-cpu": "1.7.0"}}, "fbgemm", "fail", "fbgemm-gpu-cpu 1.7.0", CPU_BUILD),
    "both builds": ({"installed": {"fbgemm-gpu": "1.8.0"}}, "fbgemm", "fail", "overwritten", "pip uninstall -y fbgemm-gpu fbgemm-gpu-cpu"),
    "little memory": ({"machine": Machine(2, 4 * GIB, GIB)}, "machine memory", "warn", "1.0 GiB of 4.0 GiB", "Free some memory."),
    "a full disk": ({"temporary": Disk("/tmp", 100 * GIB, 4 * GIB)}, "temporary files", "warn", "4.0 GiB of 100.0 GiB", "TMPDIR"),
    "a container's default": ({"shared_memory": SMALL}, "shared memory", "warn", "64.0 MiB free in /dev/shm", "--shm-size=4g"),
}


@pytest.mark.parametrize(("facts", "name", "status", "found", "fix"), BROKEN.values(), ids=BROKEN)
def test_what_is_wrong_is_named_with_its_remedy(facts, name, status, found, fix):
    checks = checks_of(sound_facts(**facts))
    assert checks[name].status == status
    assert found in checks[name].found
    assert fix in checks[name].fix
    assert {other.status for other in checks.values() if other.name != name} == {"ok"}


def test_a_job_that_shards_no_table_may_do_without_torchrec():
    checks = checks_of(sound_facts(installed={"torchrec": None, "fbgemm-gpu-cpu": None}), needs_fbgemm=False)
    assert (checks["torchrec"].status, checks["fbgemm"].status) == ("warn", "warn")


def test_the_pins_are_those_of_the_package():
    facts = read_facts()
    assert facts.requires_python == ">=3.11,<3.12"
    assert str(facts.required["torch"].specifier) == "==2.13.0"
    assert facts.required["fbgemm-gpu-cpu"].specifier == facts.required["fbgemm-gpu"].specifier
    assert facts.temporary.free > 0
    assert {
        check.status for name, check in checks_of(facts).items() if name in ("python", "ray", "torch", "torchrec", "fbgemm", "pyarrow")
    } == {"ok"}
