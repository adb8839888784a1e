"""A sweep that is not right is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raytrain.config import JobConfig
from raytrain.errors import ConfigError, ContractError, StorageError
from raytrain.storage import Storage
from tests.tuning.sweeps import plan_in, write_sweep
from tuning.load import load_sweep

SWEEPS = Path(__file__).parents[2] / "tuning" / "sweeps"


def test_trials_are_jobs_with_their_own_names_seeds_and_absolute_paths(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, "training.max_steps=7", seeds=[3, 4])
    tasks = plan.tasks_of({"tables.lr": 0.25, "model.hidden_units": [8]}, "trial-0001", Storage(str(tmp_path / "sweep")))
    jobs = [JobConfig.parse(task["job"], "test") for task in tasks]
    assert [job.seed for job in jobs] == [3, 4]
    assert [job.run.name for job in jobs] == ["trial-0001-seed3", "trial-0001-seed4"]
    assert {job.tables.lr for job in jobs} == {0.25}
    assert {job.training.max_steps for job in jobs} == {7}
    assert all(Path(job.data.path).is_absolute() for job in jobs)
    assert jobs[0].run.storage_path == str(tmp_path / "sweep" / "runs")


def test_the_objective_is_what_the_job_stops_by_where_none_is_named(tmp_path: Path) -> None:
    assert plan_in(tmp_path).objectives == ("auc",)
    assert plan_in(tmp_path, "objectives=[gauc, train_s]").objectives == ("gauc", "train_s")


def test_the_job_as_it_stands_is_a_trial_where_the_space_holds_it(tmp_path: Path) -> None:
    assert plan_in(tmp_path).default_params == {"tables.lr": 0.05, "model.hidden_units": [16]}
    assert plan_in(tmp_path, "space={tables.lr: {uniform: [0.1, 0.2]}}").default_params is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": {"tables.rate": {"uniform": [0, 1]}}}, r"at tables.rate=0.0: Every key has to be one the schema knows"),
        ({"space": {"tables.lr": {"uniform": [-1.0, 1.0]}}}, r"at tables.lr=-1.0: tables.lr: .*greater than 0"),
        ({"space": {"model.name": {"choice": ["din", "nodin"]}}}, "model.name has to be a known one"),
        ({"space": {"data.batch_size": {"uniform": [1.5, 9.5]}}}, "valid integer"),
        ({"method": "grid"}, "A grid goes through choices. Received: method=grid, tables.lr with a range"),
        ({"objectives": ["auc", "train_s"], "stopping": {}}, "stopping has to be null"),
        ({"objectives": ["train_s", "auc"]}, "The first objective chooses a trial"),
        ({"objectives": ["norm_gini"]}, "labels, which are clicks. Received: objectives=norm_gini"),
        ({"overrides": ["tables.lr=1"]}, "itself sets .* Received: tables.lr among"),
        ({"overrides": ["run.name=mine"]}, "itself sets .* Received: run.name among"),
        ({"base": {"model": {"name": "lightgbm"}}, "space": {"model.num_leaves": {"choice": [7]}}}, "A sweep trains networks"),
        ({"space": {"seed": {"choice": [7, 8]}}}, "sets seed.* Received: seed in space"),
        ({"space": {"tables.lr, tables.dim": {"choice": [4]}, "tables.dim": {"choice": [8]}}}, "A key is set in one place.*tables.dim in"),
        ({"space": {"model": {"choice": [{"name": "din"}]}, "model.hidden_units": {"choice": [[8]]}}}, "model.hidden_units in space"),
        ({"base": {"run": {"storage_path": "s3://me:hunter2@bucket"}}}, "Credentials must not stand in a sweep"),
        ({"objectives": ["train_s"]}, "The first objective chooses a trial"),
        ({"nmae": "x"}, "nmae.*Did you mean name"),
    ],
    ids=[
        "an unknown knob",
        "a bound out of range",
        "a model that is none",
        "a float for an integer",
        "a grid of a range",
        "two objectives and stopping",
        "cost first",
        "a metric of amounts",
        "a knob set twice",
        "a run's name",
        "trees",
        "a seed as a knob",
        "a key in two knobs",
        "a section and its key",
        "a secret",
        "cost alone",
        "a misspelt key",
    ],
)
def test_what_could_not_run_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_in(tmp_path, **changes)


def test_a_combination_that_is_refused_is_named(tmp_path: Path) -> None:
    space = {"scaling.num_workers": {"choice": [1, 2]}, "tables.backend": {"choice": ["local", "sharded"]}}
    with pytest.raises(ConfigError, match=r"at scaling.num_workers=2 tables.backend=\"local\": .*tables.backend=local keeps whole tables"):
        plan_in(tmp_path, space=space)


def test_a_trial_has_as_many_evaluations_as_its_steps_allow(tmp_path: Path) -> None:
    """503 rows in batches of 64 are 8 steps an epoch, evaluated at steps 4 and 8 of each, and at the last one."""
    plan = plan_in(tmp_path, base={"training": {"epochs": 3, "evals_per_epoch": 2}})
    assert plan.contract.domains["target"].splits["train"].num_rows == 503
    assert plan.num_evaluations_of({}) == 6
    assert plan.num_evaluations_of({"training.epochs": 1}) == 2
    assert [plan.num_evaluations_of({"training.max_steps": steps}) for steps in (3, 4, 5, 12, 100)] == [1, 1, 2, 3, 6]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"stopping": None}, "stopping=null"),
        ({"objectives": ["auc", "train_s"]}, "cost is known at the end alone"),
        ({"method": "evolution"}, "a population consists of trials that finished"),
        ({"stopping": {"first_evaluation": 4}}, "a trial has 4 evaluations, and the last one is paid for"),
    ],
    ids=["it is", "switched off", "two objectives", "a population", "nothing to stop"],
)
def test_why_no_trial_is_stopped_is_said(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    plan = plan_in(tmp_path, **changes)
    assert plan.why_no_stopping == reason
    assert (plan.stopping is None) == bool(reason)


def test_missing_data_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ContractError):
        load_sweep(write_sweep(tmp_path), [f"data.path={tmp_path}/nowhere"])


def test_a_job_is_told_from_a_sweep(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("model: {name: din}\ndata: {path: x}\n")
    with pytest.raises(ConfigError, match=r"takes a sweep, which has `space:`.*Run `raytrain train"):
        load_sweep(str(file))


def test_a_grid_has_as_many_trials_as_points(tmp_path: Path) -> None:
    space = {"model.hidden_units": {"choice": [[8], [16]]}, "tables.dim": {"choice": [4, 8, 16]}}
    assert plan_in(tmp_path, method="grid", space=space, num_trials=...).sweep.total_trials == 6
    assert plan_in(tmp_path, method="grid", space=space, num_trials=4).sweep.total_trials == 4


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_sweeps_fit_the_schema_and_their_bases(file: Path) -> None:
    """Everything but their data, which is not here: the base is checked at every corner of the space."""
    with pytest.raises((ContractError, StorageError), match=r"contract.yaml|prepared"):
        load_sweep(str(file), ["data.path=/nowhere" if "calendar" not in base_of(file) else "base.data.path=/nowhere"])


def base_of(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((file.parent / yaml.safe_load(file.read_text())["base"]).read_text())
    return values
