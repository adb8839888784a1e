"""A run in the command's own process: trained, interrupted, resumed, watched, scored."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.errors import ConfigError
from raytrain.run import evaluate, train
from raytrain.settings import with_overrides
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


def test_who_watches_ends_a_run(dataset: str, tmp_path: Path) -> None:
    result = train(job_for(dataset, tmp_path), SILENT, watch=lambda record: record["epoch"] < 2)
    assert result["stopped_early"]
    assert result["rows_trained"]["target"] < result["rows_expected"]["target"] * 4
    assert result["test"] == {}


def test_sharded_tables_train_in_process_to_the_figures_of_local_ones(finished: Path, dataset: str, tmp_path: Path) -> None:
    result = train(job_for(dataset, tmp_path, "tables.backend=sharded"), SILENT)
    undisturbed = json.loads((finished / "result.json").read_text())
    assert result["test"]["target"] == pytest.approx(undisturbed["test"]["target"], rel=1e-4)


@pytest.mark.parametrize("override", ["scaling.num_workers=2", "scaling.use_gpu=true", "scaling.num_workers={min: 1, max: 2}"])
def test_more_than_one_worker_on_the_cpu_is_refused(dataset: str, tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="in_process"):
        job_for(dataset, tmp_path, "tables.backend=sharded", override)
