"""Optuna behind Tune: the job as it stands comes first, a restart knows what was run, and better regions are found."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain.storage import Storage
from tests.tuning.sweeps import plan_in
from tuning.plan import SweepPlan
from tuning.searcher import OptunaSearcher
from tuning.trial_log import Evaluation, TrialLog, TrialRecord

Params = dict[str, Any]


def searcher_for(plan: SweepPlan, folder: Path) -> tuple[OptunaSearcher, TrialLog, Storage]:
    storage = Storage(str(folder / "sweep"))
    log = TrialLog(storage)
    return OptunaSearcher(plan, log, storage), log, storage


def run(plan: SweepPlan, folder: Path, value: Callable[[Params], float], num_trials: int | None = None) -> list[TrialRecord]:
    """Trials that take no time, up to a kill after ``num_trials``."""
    searcher, log, _ = searcher_for(plan, folder)
    records = []
    for trial in range(searcher.num_left if num_trials is None else num_trials):
        config = searcher.suggest(f"t{trial}")
        assert config is not None
        found = value(config["params"])
        record = TrialRecord(config["number"], config["params"], "finished", {"auc": found})
        log.write(record)
        searcher.on_trial_complete(f"t{trial}", {"auc": found, "status": "finished", "evaluations": 4})
        records.append(record)
    return records


def near(params: Params) -> float:
    """Best at a rate of 0.3 and layers of 32 and 16."""
    return 0.9 - 0.1 * abs(math.log10(params["tables.lr"] / 0.3)) - 0.2 * (params["model.hidden_units"] != [32, 16])


def test_the_job_as_it_stands_is_the_first_trial(tmp_path: Path) -> None:
    searcher, _, _ = searcher_for(plan_in(tmp_path), tmp_path)
    config = searcher.suggest("a")
    assert config is not None
    assert config["number"] == 0
    assert config["params"] == {"tables.lr": 0.05, "model.hidden_units": [16]}
    assert [task["job"]["tables"]["lr"] for task in config["tasks"]] == [0.05]


@pytest.mark.parametrize("method", ["tpe", "evolution"])
def test_a_search_finds_the_planted_region_more_often_than_drawing_does(method: str, tmp_path: Path) -> None:
    def hits(name: str) -> int:
        plan = plan_in(tmp_path, method=name, num_trials=40)
        found = run(plan, tmp_path / name, near)
        return sum(record.value > 0.85 for record in found)

    assert hits(method) > 1.5 * hits("random")


def test_a_grid_runs_every_point_once_across_a_kill(tmp_path: Path) -> None:
    space = {"model.hidden_units": {"choice": [[8], [16]]}, "tables.dim": {"choice": [4, 8, 16]}}
    plan = plan_in(tmp_path, method="grid", space=space, num_trials=...)
    records = [*run(plan, tmp_path, lambda _: 0.5, 2), *run(plan, tmp_path, lambda _: 0.5)]
    assert [record.number for record in records] == list(range(6))
    assert len({str(record.params) for record in records}) == 6


def test_a_restart_draws_new_points_and_goes_on_with_those_that_were_cut_off(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, method="random")
    before = run(plan, tmp_path, near, 3)
    _, log, _ = searcher_for(plan, tmp_path)
    log.write(TrialRecord(3, {"tables.lr": 0.5, "model.hidden_units": [8]}, evaluations=[Evaluation(2, 2.0, 0.61)]))
    searcher, _, _ = searcher_for(plan, tmp_path)
    assert searcher.num_left == 3
    first, second = searcher.suggest("a"), searcher.suggest("b")
    assert first is not None
    assert second is not None
    assert (first["number"], first["params"]) == (3, {"tables.lr": 0.5, "model.hidden_units": [8]})
    assert first["so_far"] == {"evaluations": 2, "epoch": 2.0, "auc": 0.61}
    assert second["number"] == 4
    assert second["so_far"] == {}
    assert second["params"] not in [record.params for record in before]


def test_a_sweep_may_go_on_for_more_trials(tmp_path: Path) -> None:
    run(plan_in(tmp_path), tmp_path, near)
    assert searcher_for(plan_in(tmp_path), tmp_path)[0].num_left == 0
    assert searcher_for(plan_in(tmp_path, num_trials=9), tmp_path)[0].num_left == 3


def test_failed_and_stopped_trials_are_told_and_remembered(tmp_path: Path) -> None:
    searcher, log, _ = searcher_for(plan_in(tmp_path), tmp_path)
    for trial, result in enumerate(
        [{"auc": 0.6, "status": "running", "evaluations": 1}, {"auc": math.nan, "status": "failed", "evaluations": 0}, None]
    ):
        assert searcher.suggest(str(trial)) is not None
        searcher.on_trial_complete(str(trial), result, error=result is None)
    log.write(TrialRecord(0, {"tables.lr": 0.1, "model.hidden_units": [8]}, "stopped", {"auc": 0.6}, evaluations=[Evaluation(1, 1.0, 0.6)]))
    log.write(TrialRecord(1, {"tables.lr": 0.2, "model.hidden_units": [8]}, "failed", error="it broke"))
    again, _, _ = searcher_for(plan_in(tmp_path), tmp_path)
    assert again.num_left == 5
    retried = again.suggest("x")
    assert retried is not None
    assert (retried["number"], retried["params"]) == (1, {"tables.lr": 0.2, "model.hidden_units": [8]})


def test_a_population_goes_on_breeding_after_a_kill(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, method="evolution", num_trials=48)
    records = [*run(plan, tmp_path, near, 24), *run(plan, tmp_path, near)]
    hits = [record.value > 0.85 for record in records]
    assert sum(hits[24:32]) >= sum(hits[:8]) + 2


def test_records_survive_the_disk_nan_included(tmp_path: Path) -> None:
    _, log, storage = searcher_for(plan_in(tmp_path), tmp_path)
    record = TrialRecord(2, {"a": [1]}, "stopped", {"auc": 0.5}, [{"auc": 0.5}], [Evaluation(1, 0.5, math.nan)], 3.0, "why")
    log.write(record)
    read = TrialLog(storage).records[2]
    assert math.isnan(read.evaluations[0].value)
    assert (read.params, read.values, read.error, read.name) == ({"a": [1]}, {"auc": 0.5}, "why", "trial-0002")
