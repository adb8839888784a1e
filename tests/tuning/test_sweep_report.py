"""What a sweep says in the end: who leads, what matters, and what none beats in quality and cost at once."""

from pathlib import Path

import pytest
import yaml

from raytrain.config import load_config
from raytrain.storage import Storage
from tests.tuning.sweeps import plan_in
from tuning.importance import importances
from tuning.plan import SweepPlan
from tuning.sweep_report import pareto_front, write_sweep_report
from tuning.trial_log import Evaluation, TrialLog, TrialRecord, ranked

RATES = [0.05, 0.001, 0.01, 0.1, 0.3, 1.0, 0.02, 0.5]
LAYERS = [[16], [8], [16], [32, 16], [32, 16], [8], [32, 16], [16]]


def log_of(folder: Path, plan: SweepPlan) -> tuple[TrialLog, Storage]:
    """Eight trials whose value depends on the rate alone; the sixth was stopped and the seventh failed."""
    storage = Storage(str(folder / "sweep"))
    log = TrialLog(storage)
    for number, (rate, layers) in enumerate(zip(RATES, LAYERS, strict=True)):
        value = 0.6 + 0.2 * rate
        record = TrialRecord(number, {"tables.lr": rate, "model.hidden_units": layers}, "finished", {"auc": value})
        record.seed_values, record.wall_s = [{"auc": value - 0.01}, {"auc": value + 0.01}], 100.0 - number
        record.evaluations = [Evaluation(1, 1.0, value)]
        log.write(record)
    log.records[5].status = "stopped"
    log.records[6].status, log.records[6].values, log.records[6].error = "failed", {}, "s3://key:secret@bucket is gone"
    return log, storage


def test_files_and_findings(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, "training.max_steps=3", seeds=[0, 1])
    log, storage = log_of(tmp_path, plan)
    test = {"trial": "trial-0007", "seeds": [0, 1], "metrics": [{"auc": 0.66, "num_rows": 9}, {"auc": 0.68, "num_rows": 9}], "seen": []}
    result = write_sweep_report(plan, log, storage, test, "sweep.yaml", ["training.max_steps=3"])
    assert result["chosen"] == "trial-0007"
    assert result["as_it_stands"] == "trial-0000"
    assert result["leaderboard"] == [f"trial-{number:04d}" for number in (7, 4, 3, 0, 2, 1)]
    assert result["counts"] == {"finished": 6, "stopped": 1, "failed": 1}
    assert result["summary"] == (
        "6 of 8 trials finished, 1 stopped early, 1 failed. The best on validation is trial-0007, auc 0.7000 (mean of 2 seeds, "
        "0.6900 to 0.7100); the job as it stands came to 0.6100. Its test auc is 0.6700, looked at for this trial alone."
    )
    page = storage.read_text("sweep.html")
    assert "secret" not in page + storage.read_text("sweep.json")
    assert page.count("<svg") == 5
    assert "num_rows" not in page


def test_best_yaml_is_a_job_that_train_takes(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    log, storage = log_of(tmp_path, plan)
    result = write_sweep_report(plan, log, storage, None, "sweep.yaml", [], "StorageError: the disk is gone.")
    assert "Its test figures are missing: StorageError: the disk is gone." in result["summary"]
    job = load_config(storage.join("best.yaml"))
    assert (job.tables.lr, job.model.hidden_units) == (0.5, (16,))
    assert (job.run.name, job.data.path) == (None, plan.base.data.path)
    assert "run" not in yaml.safe_load(storage.read_text("best.yaml"))


def test_without_a_finished_trial_there_is_nothing_to_choose(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    log, storage = TrialLog(Storage(str(tmp_path / "sweep"))), Storage(str(tmp_path / "sweep"))
    log.write(TrialRecord(0, {"tables.lr": 0.1, "model.hidden_units": [8]}, "failed", error="it broke"))
    result = write_sweep_report(plan, log, storage, None, "sweep.yaml", [])
    assert result["chosen"] is None
    assert result["summary"].endswith("There is nothing to choose.")
    assert not storage.exists("best.yaml")


def test_the_knob_that_decides_is_the_important_one(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    log, _ = log_of(tmp_path, plan)
    found = importances(list(log.records.values()), plan.sweep.space)
    assert next(iter(found)) == "tables.lr"
    assert sum(found.values()) == pytest.approx(1.0)
    assert importances(list(log.records.values())[:4], plan.sweep.space) == {}


def test_the_front_is_what_none_beats_in_both() -> None:
    def trial(number: int, auc: float, train_s: float) -> TrialRecord:
        return TrialRecord(number, {}, "finished", {"auc": auc, "train_s": train_s})

    trials = [trial(0, 0.7, 10), trial(1, 0.7, 8), trial(2, 0.8, 20), trial(3, 0.6, 9), trial(4, 0.5, 1), trial(5, 0.8, 30)]
    assert pareto_front(ranked(trials, True), ["auc", "train_s"], "train_s") == ["trial-0002", "trial-0001", "trial-0004"]


def test_ranks_go_by_the_objectives_direction_and_leave_out_what_did_not_finish() -> None:
    trials = [TrialRecord(number, {}, "finished", {"logloss": value}) for number, value in enumerate([0.5, 0.4, 0.4])]
    trials.append(TrialRecord(3, {}, "stopped", {"logloss": 0.1}))
    assert [record.number for record in ranked(trials, higher_is_better=False)] == [1, 2, 0]
