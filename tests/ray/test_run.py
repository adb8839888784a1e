"""Runs through Ray, end to end: what a user types, what lies in the run directory afterwards."""

import io
import json
from pathlib import Path
from typing import Any

import boto3
import pyarrow.parquet as pq
import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from rich.console import Console
from sklearn.metrics import roc_auc_score

from raytrain.config import JobConfig
from raytrain.data.contract import load_contract
from raytrain.errors import ConfigError, RaytrainError, ResourceError, RunError
from raytrain.run import evaluate, predict, train
from raytrain.settings import with_overrides
from raytrain.training import patience
from tests.data.build import build_dataset

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_2_cpus")]
SILENT = Console(quiet=True)


def job_for(path: str, runs: str, *overrides: str) -> JobConfig:
    values = {
        "run": {"name": "first", "storage_path": runs},
        "data": {"path": path, "batch_size": 64, "window_batches": 4, "history_length": 20, "cpus_per_read_task": 0.25},
        "model": {"name": "din", "hidden_units": [32]},
        "tables": {"dim": 8},
        "training": {"epochs": 2, "keep_checkpoints": 1},
        "scaling": {"num_workers": 2, "cpus_per_worker": 0.5},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("data") / "data")
    build_dataset(path, num_users=120, num_items=40)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, dataset: str, ray_2_cpus: None) -> str:
    """A finished run named first, trained by two workers."""
    path = str(tmp_path_factory.mktemp("runs"))
    train(job_for(dataset, path), SILENT)
    return path


def test_a_run_directory_tells_everything(runs: str, dataset: str) -> None:
    run = Path(runs) / "first"
    result = json.loads((run / "result.json").read_text())
    splits = load_contract(dataset).domains["target"].splits
    assert result["rows_trained"] == result["rows_expected"] == {"target": 2 * splits["train"].num_rows}
    assert result["rows_quarantined"] == {"target": 0}
    assert result["test"]["target"]["num_rows"] == splits["test"].num_rows
    assert len(result["peak_rss_mib"]) == result["world_size"] == 2
    kinds = {json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()}
    assert {"train", "valid", "checkpoint", "test", "plan", "outcome"} <= kinds
    assert (run / "config.yaml").exists()
    assert "<svg" in (run / "report.html").read_text()
    assert list((run / "tensorboard").iterdir())


def test_the_best_and_the_newest_checkpoint_are_kept(runs: str) -> None:
    run = Path(runs) / "first"
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    reported = [record for record in records if record["kind"] == "checkpoint"]
    best = [record for record in reported if record["best"]][-1]
    kept = {str(path.relative_to(run / "checkpoints")) for path in (run / "checkpoints").glob("*/step-*")}
    assert kept == {best["name"], reported[-1]["name"]}


@pytest.mark.parametrize(
    "scaling",
    [("scaling.num_workers=2",), ("scaling.num_workers={min: 2, max: 3}", "training.checkpoint_every_steps=5")],
    ids=["a fixed number", "elastic"],
)
def test_workers_that_find_no_room_are_given_up_with_the_arithmetic(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scaling: tuple[str, ...]
) -> None:
    # How long Ray gives one start.
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "3")
    monkeypatch.setattr(patience, "SAY_EVERY_S", 2.0)
    console, others = Console(file=io.StringIO(), width=200), placement_group([{"CPU": 1.5}])
    job = job_for(dataset, str(tmp_path), "scaling.cpus_per_worker=0.6", "scaling.start_limit_s=8", *scaling)
    try:
        ray.get(others.ready())
        with pytest.raises(ResourceError, match=r"find room on the cluster. Received: .* and none for 8 s; 0.5 of the cluster's 2 CPUs"):
            train(job, console)
    finally:
        remove_placement_group(others)
    assert "s of at most 8; 0.5 of the cluster's 2 CPUs are free" in console.file.getvalue()  # type: ignore[attr-defined]
    # What was given up holds nothing, and the run goes on where there is room.
    patient = job.model_copy(update={"scaling": job.scaling.model_copy(update={"start_limit_s": 120.0})})
    result = train(patient, SILENT, resume=True)
    assert result["rows_trained"] == result["rows_expected"]


def test_three_workers_evaluate_to_the_figures_of_two(runs: str) -> None:
    test = json.loads((Path(runs) / "first/result.json").read_text())["test"]
    scaling = ("scaling.num_workers=3", "scaling.cpus_per_worker=0.3")
    assert evaluate(f"{runs}/first", "test", None, scaling, SILENT)["target"] == pytest.approx(test["target"], rel=1e-5)


def _interrupt_later(record: dict[str, Any]) -> bool:
    if record["epoch"] > 1:
        raise KeyboardInterrupt
    return True


def test_a_run_in_this_process_trains_to_the_figures_of_one_on_ray_which_goes_on_with_what_it_left(dataset: str, tmp_path: Path) -> None:
    own = ("scaling.num_workers=1", "scaling.threads_per_worker=1", "training.deterministic=true")
    on_ray = train(job_for(dataset, str(tmp_path), "run.name=ray", *own), SILENT)
    in_process = train(job_for(dataset, str(tmp_path), "run.name=own", "scaling.in_process=true", *own), SILENT)
    assert in_process["test"]["target"] == pytest.approx(on_ray["test"]["target"], rel=1e-6)
    again = evaluate(f"{tmp_path}/ray", "test", None, ("scaling.in_process=true",), SILENT)
    assert again["target"] == pytest.approx(on_ray["test"]["target"], rel=1e-6)
    begun = job_for(dataset, str(tmp_path), "run.name=both", "scaling.in_process=true", *own)
    with pytest.raises(KeyboardInterrupt):
        train(begun, SILENT, watch=_interrupt_later)
    both = train(job_for(dataset, str(tmp_path), "run.name=both", *own), SILENT, resume=True)
    assert [start["step"] > 0 for start in both["starts"]] == [False, True]
    assert both["test"]["target"] == pytest.approx(on_ray["test"]["target"], rel=1e-6)


def test_one_worker_predicts_each_row_once_and_to_the_same_figures(
    runs: str, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    output = "predictions"
    metrics = predict(f"{runs}/first", "test", None, ("scaling.num_workers=1",), output, SILENT)
    table = pq.read_table(tmp_path / output)
    keys = set(zip(table["fragment"].to_pylist(), table["row"].to_pylist(), strict=True))
    assert len(keys) == table.num_rows == load_contract(dataset).domains["target"].splits["test"].num_rows
    test = json.loads((Path(runs) / "first/result.json").read_text())["test"]["target"]
    assert metrics["target"] == pytest.approx(test, rel=1e-5)
    assert roc_auc_score(table["label"], table["prediction"]) == pytest.approx(test["auc"], rel=1e-5)
    with pytest.raises(RunError, match="new or empty directory"):
        predict(f"{runs}/first", "test", None, (), output, SILENT)


def test_a_run_name_is_used_once(runs: str, dataset: str) -> None:
    with pytest.raises(RunError, match=r"Received: run\.name=first"):
        train(job_for(dataset, runs), SILENT)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=single_domain", "scored as it was trained"),
        ("tables.dim=16", "scored as it was trained"),
        ("seed=3", "scored as it was trained"),
    ],
)
def test_a_finished_run_is_scored_as_it_was_trained(runs: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(f"{runs}/first", "test", None, (override,), SILENT)


def test_a_run_scores_only_data_with_its_own_vocabularies(runs: str, tmp_path: Path) -> None:
    build_dataset(tmp_path / "other", num_users=90, num_items=40)
    with pytest.raises(RunError, match="tables and features it was trained on"):
        evaluate(f"{runs}/first", "test", None, (f"data.path={tmp_path}/other",), SILENT)


@pytest.mark.parametrize(
    "override",
    [
        "scaling.num_workers=40",
        "scaling.use_gpu=true",
        "model.histories=[sauce]",
        "model.skip_features=[contry]",
        "model.skip_features=[item]",
        "tables.dim=6",
    ],
)
def test_a_refused_run_leaves_its_name_free(dataset: str, tmp_path: Path, override: str) -> None:
    with pytest.raises(RaytrainError, match="Received: "):
        train(job_for(dataset, str(tmp_path), override), SILENT)
    assert not list(tmp_path.iterdir())


def test_more_cpus_than_there_are_is_refused_with_the_arithmetic(dataset: str, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"scaling.num_workers=4 x scaling.cpus_per_worker=1 .* = 4.5 CPUs, and there are 2"):
        train(job_for(dataset, str(tmp_path), "scaling.num_workers=4", "scaling.cpus_per_worker=1"), SILENT)


def test_data_and_runs_on_s3_give_what_local_ones_give(
    dataset: str, tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = boto3.client("s3")
    for file in Path(dataset).rglob("*"):
        if file.is_file():
            client.upload_file(str(file), "raytrain", f"data/{file.relative_to(dataset)}")
    small = ("scaling.num_workers=1", "training.max_steps=4", "tables.backend=local", "model.name=single_domain")
    remote = train(job_for(f"{s3_bucket}/data", f"{s3_bucket}/runs", *small), SILENT)
    # A worker's directory is not the caller's: relative paths have to mean the caller's.
    monkeypatch.chdir(tmp_path)
    local = train(job_for(f"file://{dataset}", "runs", "run.save_predictions=true", *small), SILENT)
    assert pq.read_table(tmp_path / "runs/first/predictions/test").num_rows == local["test"]["target"]["num_rows"]
    assert remote["test"]["target"] == pytest.approx(local["test"]["target"], rel=1e-6)
    assert b"<svg" in client.get_object(Bucket="raytrain", Key="runs/first/report.html")["Body"].read()
