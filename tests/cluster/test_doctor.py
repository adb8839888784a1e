"""`raytrain doctor` as a user runs it: what it says, what it exits with, and how fast it refuses."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from cluster.checks import Check, Part, has_failed
from cluster.doctor import diagnose
from raytrain.cli import app
from raytrain.machine import GIB, Machine
from tests.cluster.facts import named, sound_facts, write_job

ROOT = Path(__file__).parents[2]
FIT = ["scaling.cpus_per_worker=0.5"]


def look(directory: Path, dataset: str, *overrides: str, **sections: object) -> dict[str, Check]:
    return named(list(diagnose(write_job(directory, dataset, **sections), [*FIT, *overrides], sound_facts())))


def failed(checks: dict[str, Check]) -> list[str]:
    return [name for name, check in checks.items() if check.status == "fail"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, dataset: str) -> list[Part]:
    """Everything is all right: arithmetic, FBGEMM and first batches."""
    directory = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        return list(diagnose(write_job(directory, dataset), [*FIT, "data.source_batch_size=16"], sound_facts()))


def test_a_sound_job_passes_every_check(sound: list[Part]):
    checks = named(sound)
    assert {check.status for check in checks.values()} == {"ok"}, checks
    assert [part.title for part in sound] == ["job", "machine", "data set", "memory and storage", "torch and data"]
    assert {"contract", "tables", "memory", "object store", "checkpoints", "storage", "torch", "fbgemm", "dense network"} <= set(checks)
    assert not has_failed(sound)


def test_the_first_batch_of_every_stream_is_decoded(sound: list[Part]):
    batches = {check.name: check.found for check in sound[-1].checks}
    assert batches["streams"].startswith("train/target: 16 steps an epoch, 16 in all; train/source: 63 steps an epoch, 16 in all")
    assert batches["train/target"].startswith("32 rows, 0 bad; label rate 0.")
    assert batches["train/source"].startswith("16 rows, 0 bad")
    assert "[32] user, item, country, price; [32, 3] tags" in batches["train/target"]
    assert "history of source [32, 8]: " in batches["test/target"]
    assert batches["valid/target"].count("label=") == 3


def test_without_a_config_it_looks_at_the_machine_alone():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(result.output)
    assert (result.exit_code, found["failed"]) == (0, False)
    assert {check["part"] for check in found["checks"]} == {"machine", "torch and data"}
    assert {
        "name": "fbgemm",
        "part": "torch and data",
        "status": "ok",
        "found": "looked rows up and updated them inside backward",
        "fix": "",
    } in (found["checks"])


def test_a_refused_job_exits_with_2_and_leaves_the_slow_part_out(tmp_path: Path, dataset: str):
    result = CliRunner().invoke(app, ["doctor", write_job(tmp_path, dataset), "scaling.num_workers=4000", "data.batch_size=4000", "--json"])
    checks = {check["name"]: check for check in json.loads(result.output)["checks"]}
    assert result.exit_code == 2
    assert checks["CPUs"]["status"] == "fail"
    assert "scaling.num_workers=4000 x scaling.cpus_per_worker=1 + 2 streams" in checks["CPUs"]["found"]
    assert "Set scaling." in checks["CPUs"]["fix"]
    assert checks["probe"]["status"] == "warn"
    assert "torch" not in {check["name"] for check in json.loads(result.output)["checks"] if check["part"] == "torch and data"}
    table = CliRunner().invoke(app, ["doctor", write_job(tmp_path, dataset), "scaling.num_workers=4000", "data.batch_size=4000"])
    assert table.exit_code == 2
    assert "what to do" in table.output


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "JSON"])
@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("data.path=s3://AKIA:hunter2@bucket/x", "data.path with a user, a key or a token"),
        ("run.storage_path=s3://bucket/x?secret_key=hunter2", "run.storage_path with a user, a key or a token"),
        ("data.path={s3://AKIA:hunter2@bucket/x", "s3://***@bucket/x"),
    ],
    ids=["data", "runs", "an override that is no YAML"],
)
def test_credentials_are_refused_and_not_shown(tmp_path: Path, dataset: str, override: str, shown: str, form: tuple[str, ...]):
    result = CliRunner().invoke(app, ["doctor", write_job(tmp_path, dataset), override, *form])
    assert result.exit_code == 2
    assert shown in " ".join(result.output.split())
    assert "hunter2" not in result.output


def test_too_little_memory_is_refused_with_the_arithmetic(tmp_path: Path, dataset: str):
    facts = sound_facts(Machine(2, 4 * GIB, 2 * GIB))
    checks = named(list(diagnose(write_job(tmp_path, dataset), FIT, facts)))
    assert failed(checks) == ["memory"]
    assert "driver and Ray 2.0 GiB = 2.4 GiB, and this machine has 2.0 GiB available" in checks["memory"].found


BROKEN_CONFIGS = {
    "an unknown key": (["data.batchsize=3"], "config", "Did you mean batch_size?"),
    "two wrong values": (["seed=-1", "data.batch_size=0"], "config", "seed"),
    "no data": (["data.path=/nowhere"], "contract", "Run `raytrain prepare` first."),
    "a history that is not there": (["model.histories=[sauce]"], "model", "Did you mean source?"),
    "a dimension that cannot be sharded": (["tables.dim=6"], "tables", "tables.backend=local"),
    "a path that is no storage": (["run.storage_path=nowhere://runs"], "storage", "Change run.storage_path."),
}


@pytest.mark.parametrize(("overrides", "name", "text"), BROKEN_CONFIGS.values(), ids=BROKEN_CONFIGS)
def test_what_a_config_gets_wrong_is_one_failed_check(tmp_path: Path, dataset: str, overrides: list[str], name: str, text: str):
    checks = look(tmp_path, dataset, *overrides)
    assert name in failed(checks)
    assert text in f"{checks[name].found} {checks[name].fix}"


def test_a_config_of_another_kind_is_named(tmp_path: Path):
    checks = named(list(diagnose(str(ROOT / "pipelines/configs/prepare_movielens.yaml"), (), sound_facts())))
    assert failed(checks) == ["config"]
    assert checks["config"].fix.startswith("Run `raytrain prepare ")


@pytest.fixture
def damaged(tmp_path: Path, dataset: str) -> Path:
    """A copy of the data set for a test to break."""
    shutil.copytree(dataset, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("file", "name"),
    [("samples/target/valid/bucket-00001.parquet", "valid/target"), ("histories/source/bucket-00000.parquet", "train/target")],
    ids=["samples", "histories"],
)
def test_an_unreadable_file_is_named(tmp_path: Path, damaged: Path, file: str, name: str):
    (damaged / file).write_bytes(b"no parquet")
    checks = look(tmp_path, str(damaged))
    assert name in failed(checks)
    assert file in checks[name].found


def test_a_split_of_one_class_cannot_be_scored(tmp_path: Path, damaged: Path):
    contract = yaml.safe_load((damaged / "contract.yaml").read_text())
    contract["domains"]["target"]["splits"]["test"]["num_positives"] = 0
    (damaged / "contract.yaml").write_text(yaml.safe_dump(contract))
    checks = look(tmp_path, str(damaged))
    assert failed(checks) == ["test/target"]
    assert "no positive" in checks["test/target"].found


def test_a_broken_fbgemm_is_a_failed_check_with_the_command(tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "site/fbgemm_gpu"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise OSError('Could not load this library: fbgemm_gpu_config.so')")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")
    checks = look(tmp_path, dataset)
    assert failed(checks) == ["fbgemm"]
    assert "Could not load this library: fbgemm_gpu_config.so" in checks["fbgemm"].found
    assert "pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0" in checks["fbgemm"].fix
    assert checks["train/target"].status == "ok"


def test_a_library_that_kills_its_process_does_not_kill_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "site/fbgemm_gpu"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{ROOT}")
    last = list(diagnose(facts=sound_facts()))[-1].checks[-1]
    assert (last.name, last.status) == ("fbgemm", "fail")
    assert "was killed by SIGSEGV" in last.found


def test_a_plain_baseline_needs_neither_ray_nor_fbgemm(tmp_path: Path, dataset: str):
    facts = sound_facts(installed={"torchrec": None, "fbgemm-gpu-cpu": None})
    config = write_job(tmp_path, dataset, model={"name": "logistic"})
    checks = named(list(diagnose(config, ["scaling.num_workers=32"], facts)))
    assert not failed(checks)
    assert checks["CPUs"].found == "logistic is fitted in one process, without Ray"
    assert "samples and history events = at most" in checks["memory"].found


OVER_ASK = ["scaling.num_workers=4000", "data.batch_size=4000"]


@pytest.mark.parametrize("command", ["train", "doctor", "evaluate", "predict"])
def test_an_over_ask_is_refused_in_seconds_start_up_included(tmp_path: Path, dataset: str, command: str):
    job = write_job(tmp_path, dataset)
    finished = tmp_path / "finished"
    finished.mkdir()
    (finished / "config.yaml").write_text(Path(job).read_text())
    (finished / "result.json").write_text("{}")
    shutil.copy(Path(dataset) / "contract.yaml", finished)
    arguments = {
        "train": [job],
        "doctor": [job],
        "evaluate": [str(finished)],
        "predict": [str(finished), "--output", str(tmp_path / "out")],
    }
    started = time.perf_counter()
    code = "from raytrain.cli import main; main()"
    argv = [sys.executable, "-c", code, command, *arguments[command], *OVER_ASK]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert time.perf_counter() - started < 10
    assert done.returncode == 2
    assert "scaling.num_workers=4000 x" in " ".join((done.stdout + done.stderr).split())
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "out").exists()
