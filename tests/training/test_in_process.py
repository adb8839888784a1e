"""A run in the command's own process: trained, interrupted, resumed, watched, scored."""

import errno
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.errors import ConfigError, StorageError
from raytrain.run import evaluate, train
from raytrain.settings import with_overrides
from raytrain.storage import Storage
from raytrain.training.in_process import ProcessSession
from raytrain.training.progress import Progress
from tests.data.build import build_dataset

SILENT = Console(quiet=True)


def job_for(path: str, runs: Path, *overrides: str) -> JobConfig:
    values = {
        "run": {"name": "first", "storage_path": str(runs), "tensorboard": False},
        "data": {"path": path, "batch_size": 64, "window_batches": 4, "history_length": 20},
        "model": {"name": "din", "hidden_units": [16]},
        "tables": {"dim": 8, "backend": "local"},
        "training": {"epochs": 4, "keep_checkpoints": 1, "deterministic": True},
        "scaling": {"in_process": True, "threads_per_worker": 1},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("data") / "data")
    build_dataset(path, num_users=60, num_items=40)
    return path


@pytest.fixture(scope="module")
def finished(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbed, and that no Ray was asked for."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ray.init", lambda *_, **__: pytest.fail("a run in process starts no Ray"))
        train(job_for(dataset, runs), SILENT)
    return runs / "first"


def losses(run: Path) -> list[tuple[int, float]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], record["loss"]) for record in records if record["kind"] == "train"]


def test_the_run_directory_is_that_of_any_run(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert result["rows_trained"] == result["rows_expected"]
    assert result["world_size"] == 1
    assert "<svg" in (finished / "report.html").read_text()
    kept = {path.parent.name + "/" + path.name for path in finished.glob("checkpoints/*/step-*")}
    assert result["best_checkpoint"] in kept
    assert len(kept) <= 2


def test_it_scores_to_the_figures_of_its_result(finished: Path) -> None:
    test = json.loads((finished / "result.json").read_text())["test"]
    assert evaluate(str(finished), "test", None, (), SILENT) == test


def test_an_interrupted_run_resumes_to_the_same_losses_and_figures(finished: Path, dataset: str, tmp_path: Path) -> None:
    evaluations = 0

    def interrupt(_: dict[str, Any]) -> bool:
        nonlocal evaluations
        evaluations += 1
        if evaluations == 3:
            raise KeyboardInterrupt
        return True

    with pytest.raises(KeyboardInterrupt):
        train(job_for(dataset, tmp_path), SILENT, watch=interrupt)
    result = train(job_for(dataset, tmp_path), SILENT, resume=True)
    undisturbed = json.loads((finished / "result.json").read_text())
    assert losses(tmp_path / "first") == losses(finished)
    assert result["test"] == undisturbed["test"]
    assert len(result["starts"]) == 2


def test_a_kill_leaves_nothing_that_the_next_launch_does_not_mend(finished: Path, dataset: str, tmp_path: Path) -> None:
    """kill -9 amid a save, after some of its files have been written."""
    job = job_for(dataset, tmp_path)
    driver = f"""
import os, signal
from rich.console import Console
from raytrain.config import JobConfig
from raytrain.run import train
from raytrain.storage import Storage

write, saved = Storage.write_bytes, []

def mortal(self, name, data):
    write(self, name, data)
    saved.append(name)
    if len([one for one in saved if "step-" in one]) == 10:
        os.kill(os.getpid(), signal.SIGKILL)

Storage.write_bytes = mortal
train(JobConfig.parse({job.model_dump(mode="json")!r}, "test"), Console(quiet=True))
"""
    ended = subprocess.run([sys.executable, "-c", driver], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    run = tmp_path / "first"
    torn = {path.parent.name + "/" + path.name for path in run.glob("checkpoints/*/step-*")}
    result = train(job, SILENT, resume=True)
    left = {path.parent.name + "/" + path.name for path in run.glob("checkpoints/*/step-*")}
    assert len(torn - left) >= 1
    assert result["test"] == json.loads((finished / "result.json").read_text())["test"]
    copies = ProcessSession(job, Storage(str(run)), "", Progress(None, False, SILENT), None)._copies
    assert not list(Path(tempfile.gettempdir()).glob(f"{copies}*"))


def test_a_storage_that_refuses_says_so(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Storage.write_bytes

    def refuse(self: Storage, name: str, data: bytes) -> None:
        if "step-" in name:
            raise OSError(errno.ENOSPC, "no space left on device")
        write(self, name, data)

    monkeypatch.setattr(Storage, "write_bytes", refuse)
    with pytest.raises(StorageError, match=r"A checkpoint has to reach .* no space left on device.*--resume"):
        train(job_for(dataset, tmp_path), SILENT)


def test_who_watches_ends_a_run(dataset: str, tmp_path: Path) -> None:
    result = train(job_for(dataset, tmp_path), SILENT, watch=lambda record: record["epoch"] < 2)
    assert result["stopped_early"]
    assert result["rows_trained"]["target"] < result["rows_expected"]["target"] * 4
    assert result["test"] == {}


def test_sharded_tables_train_in_process_to_the_figures_of_local_ones(finished: Path, dataset: str, tmp_path: Path) -> None:
    undisturbed, had_group = json.loads((finished / "result.json").read_text()), dist.is_initialized()
    for name in ("first", "second"):
        result = train(job_for(dataset, tmp_path, "tables.backend=sharded", f"run.name={name}"), SILENT)
        assert result["test"]["target"] == pytest.approx(undisturbed["test"]["target"], rel=1e-4)
    assert dist.is_initialized() == had_group


@pytest.mark.parametrize("override", ["scaling.num_workers=2", "scaling.use_gpu=true", "scaling.num_workers={min: 1, max: 2}"])
def test_more_than_one_worker_on_the_cpu_is_refused(dataset: str, tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="in_process"):
        job_for(dataset, tmp_path, "tables.backend=sharded", override)
