"""A run that was stopped goes on as if it had not been; a run that cannot go on says why."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.data.cursor import Cursor
from raytrain.errors import DataError, RunError
from raytrain.run import train
from raytrain.settings import with_overrides
from raytrain.training import engine
from raytrain.training.worker import run_worker
from tests.data.build import build_dataset
from tests.training.test_loop import spoil_labels

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_2_cpus")]
SILENT = Console(quiet=True)


def job_for(path: str, runs: str, *overrides: str) -> JobConfig:
    values = {
        "run": {"name": "run", "storage_path": runs, "tensorboard": False},
        "data": {"path": path, "batch_size": 64, "window_batches": 4, "history_length": 20, "cpus_per_read_task": 0.25},
        "model": {"name": "din", "hidden_units": [32], "dropout": 0.3},
        "tables": {"dim": 8},
        "training": {"epochs": 2, "checkpoint_every_steps": 5, "log_every_steps": 1},
        "scaling": {"num_workers": 1, "cpus_per_worker": 0.5, "threads_per_worker": 1},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def mortal_worker(config: dict[str, Any]) -> None:
    """``run_worker`` that is killed at its 13th step, unless it has been before."""
    marker, add = config["assignment"].storage_uri + ".killed", Cursor.add

    def mortal_add(self: Cursor, part: Any) -> None:
        mortal_add.num_calls += 1
        if mortal_add.num_calls == 13 and not Path(marker).exists():
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        add(self, part)

    mortal_add.num_calls = 0
    Cursor.add = mortal_add  # type: ignore[method-assign]
    run_worker(config)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("data") / "data")
    build_dataset(path, num_users=120, num_items=40)
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, dataset: str, ray_2_cpus: None) -> str:
    """The directory of an undisturbed run."""
    runs = str(tmp_path_factory.mktemp("runs"))
    train(job_for(dataset, runs), SILENT)
    return runs


def records_of(run: Path, kind: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == kind]


@pytest.mark.parametrize("max_failures", [1, 0], ids=["started anew by Ray", "resumed by hand"])
def test_a_killed_worker_costs_nothing_but_time(dataset, finished, tmp_path, monkeypatch, max_failures):
    trainer = engine.PatientTrainer
    monkeypatch.setattr(engine, "PatientTrainer", lambda fn, **rest: trainer(mortal_worker, **rest))
    job = job_for(dataset, str(tmp_path), f"scaling.max_failures={max_failures}")
    if max_failures == 0:
        with pytest.raises(RunError, match="The workers have to finish"):
            train(job, SILENT)
        train(job, SILENT, resume=True)
    else:
        train(job, SILENT)
    whole, killed = (json.loads((Path(runs) / "run/result.json").read_text()) for runs in (finished, tmp_path))
    # Saved at 10, and known to be saved shortly after.
    assert [start["step"] for start in killed["starts"]] in ([0, 8], [0, 10])
    assert killed["test"] == whole["test"]
    assert killed["rows_trained"] == whole["rows_trained"]
    losses = [[(record["step"], record["loss"]) for record in records_of(Path(runs) / "run", "train")] for runs in (finished, tmp_path)]
    assert losses[0] == losses[1]


def test_a_finished_run_is_left_as_it_is(dataset, finished):
    before = (Path(finished) / "run/result.json").stat().st_mtime_ns
    result = train(job_for(dataset, finished), SILENT, resume=True)
    assert result["rows_trained"] == result["rows_expected"]
    assert (Path(finished) / "run/result.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("run.name=rnu",), "--resume needs a run that was begun"),
        (("run.name=null",), "--resume needs the run's name"),
        (("data.batch_size=32", "scaling.num_workers=2"), r"Received: data.batch_size=32 \(begun with 64\). Set these back"),
    ],
    ids=["no such run", "no name", "another batch size"],
)
def test_what_cannot_be_resumed_says_why(dataset, finished, overrides, message):
    with pytest.raises(RunError, match=message):
        train(job_for(dataset, finished, *overrides), SILENT, resume=True)


def test_other_data_under_the_same_path_is_refused(finished, tmp_path):
    build_dataset(tmp_path, num_users=121, num_items=40)
    with pytest.raises(RunError, match=r"contract.yaml differs .* Restore the data set"):
        train(job_for(str(tmp_path), finished), SILENT, resume=True)


def test_what_a_restart_cannot_help_is_not_tried_again(tmp_path):
    build_dataset(tmp_path / "data", num_users=80, num_items=40)
    spoil_labels(tmp_path / "data/samples/target/train")
    with pytest.raises(DataError, match="max_quarantine_share"):
        train(job_for(str(tmp_path / "data"), str(tmp_path)), SILENT)
    assert len(records_of(tmp_path / "run", "start")) == 1
