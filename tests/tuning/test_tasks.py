"""What a trial's process does with a task: it trains, gives signs of life, and is scored once it is chosen."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console

from pipelines.roll_lease import LeaseLostError
from raytrain.capacity import DRIVER_BYTES
from raytrain.errors import RunError
from raytrain.storage import Storage
from tests.tuning.sweeps import plan_in
from tuning import sweep, tasks
from tuning.tasks import run_task
from tuning.tasks import test_task as score_task
from tuning.trial_log import TrialLog, TrialRecord
from tuning.watching import SweepWatcher

IN_PROCESS = ("scaling.in_process=true", "tables.backend=local", "training.log_every_steps=1")
PARAMS = {"tables.lr": 0.05, "model.hidden_units": [8]}


def test_a_trial_in_its_own_process_trains_on_one_thread_with_signs_of_life_and_is_scored_on_test(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, *IN_PROCESS)
    (task,) = plan.tasks_of(PARAMS, "trial-0000", Storage(str(tmp_path / "sweep")))
    assert task["job"]["scaling"]["threads_per_worker"] == 1
    epochs, num_pulses = [], 0

    def watch(record: dict[str, float]) -> bool:
        epochs.append(record["epoch"])
        return len(epochs) < 2

    def pulse() -> bool:
        nonlocal num_pulses
        num_pulses += 1
        return True

    values = run_task(task, watch, pulse, ["auc", "train_s"])
    assert epochs == [1.0, 2.0]
    assert num_pulses > 10
    assert 0 < values["auc"] < 1
    assert run_task(task, watch, pulse, ["auc", "train_s"]) == values, "a finished run is read, not trained again"
    assert 0 < score_task(task, plan.contract.target)["auc"] < 1


def test_a_sweep_whose_best_cannot_be_scored_says_why_and_keeps_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise OSError("the disk is gone")

    plan, storage = plan_in(tmp_path), Storage(str(tmp_path / "sweep"))
    log = TrialLog(storage)
    assert sweep._test_of(plan, log, storage, Console(quiet=True)) == (None, "no trial finished")
    log.write(TrialRecord(0, PARAMS, "finished", {"auc": 0.6}))
    monkeypatch.setattr(sweep, "test_task", gone)
    assert sweep._test_of(plan, log, storage, Console(quiet=True)) == (None, "OSError: the disk is gone")
    assert not storage.exists("test/trial-0000.yaml")


def test_a_trial_asks_ray_for_what_its_own_process_takes(tmp_path: Path) -> None:
    assert sweep._resources(plan_in(tmp_path)) == {"memory": DRIVER_BYTES}
    plan = plan_in(tmp_path, *IN_PROCESS, "scaling.threads_per_worker=2", space={"tables.dim": {"choice": [8, 512]}})
    asked = sweep._resources(plan)
    num_rows = sum(table.num_rows for table in plan.contract.tables.values())
    assert asked["cpu"] == 2
    assert asked["memory"] > DRIVER_BYTES + num_rows * 512 * 4, "of the largest tables of the space"


def test_a_run_that_died_before_it_was_whole_is_begun_anew(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, *IN_PROCESS, "training.epochs=1")
    (task,) = plan.tasks_of(PARAMS, "trial-0000", Storage(str(tmp_path / "sweep")))
    Storage(str(tmp_path / "sweep/runs/trial-0000-seed0")).write_text("config.yaml", yaml.safe_dump(task["job"]))
    assert 0 < run_task(task, lambda _: True, lambda: True, ["auc"])["auc"] < 1


def test_a_sweep_that_has_lost_its_directory_writes_nothing_there(tmp_path: Path) -> None:
    def lost() -> None:
        raise LeaseLostError("held by another")

    plan, log = plan_in(tmp_path), TrialLog(Storage(str(tmp_path / "sweep")))
    watcher = SweepWatcher(plan, log, 1, 1, Console(quiet=True), lost)
    with pytest.raises(LeaseLostError):
        watcher.on_trial_start(0, [], SimpleNamespace(config={"number": 0, "params": PARAMS}))  # type: ignore[arg-type]
    assert not (tmp_path / "sweep/trials").exists()


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "epoch 0.50  no best yet"), (0.61, "epoch 0.50  best valid auc 0.6100")])
def test_a_model_that_prepares_itself_has_no_best_yet(value: float, said: str, tmp_path: Path) -> None:
    console = Console(width=200, file=io.StringIO())
    watcher = SweepWatcher(plan_in(tmp_path), TrialLog(Storage(str(tmp_path / "sweep"))), 1, 1, console, lambda: None)
    trial = SimpleNamespace(config={"number": 0, "params": PARAMS})
    watcher.on_trial_start(0, [], trial)  # type: ignore[arg-type]
    result = {"status": "running", "evaluations": 1, "epoch": 0.5, "auc": value, "time_total_s": 1.0}
    watcher.on_trial_result(0, [], trial, result)  # type: ignore[arg-type]
    assert said in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_roll_that_could_not_count_every_day_is_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"failed": [], "arms": {"full": {"days_left_out": {"2020-11-04": "a prediction of it is NaN"}, "pooled": {"gauc": 0.9}}}}
    monkeypatch.setattr(tasks, "run_roll", lambda *_, **__: result)
    task = {"kind": "roll", "roll": {}, "valid": ["2020-11-01", "2020-11-04"]}
    with pytest.raises(RunError, match="2020-11-04, and a prediction of it is NaN"):
        run_task(task, lambda _: True, lambda: True, ["gauc"])
