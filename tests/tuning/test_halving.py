"""Successive halving across a kill: who was judged is judged once, and nobody loses a run that is paid for."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler

from raytrain.storage import Storage
from tests.tuning.sweeps import plan_in
from tuning.halving import Halving, scheduler_of
from tuning.trial_log import Evaluation, TrialLog, TrialRecord

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP


def trial(number: int) -> Any:
    return SimpleNamespace(trial_id=f"drawn-{number}", config={"number": number, "num_evaluations": 4})


def told(scheduler: Any, number: int, evaluation: int, auc: float) -> str:
    return str(scheduler.on_trial_result(None, trial(number), {"evaluations": evaluation, "auc": auc}))


@pytest.fixture
def log(tmp_path: Path) -> TrialLog:
    """Two trials of an earlier launch: one finished with .8, one was cut off after its second evaluation."""
    log = TrialLog(Storage(str(tmp_path / "sweep")))
    log.write(TrialRecord(0, {}, "finished", {"auc": 0.8}, evaluations=[Evaluation(step, float(step), 0.8) for step in (1, 2, 3, 4)]))
    log.write(TrialRecord(1, {}, "running", evaluations=[Evaluation(step, float(step), 0.6) for step in (1, 2)]))
    return log


def test_new_trials_are_held_against_those_of_an_earlier_launch(tmp_path: Path, log: TrialLog) -> None:
    scheduler = scheduler_of(plan_in(tmp_path, stopping={"reduction": 2}), log)
    for number in (2, 3):
        scheduler.on_trial_add(None, trial(number))
    assert (told(scheduler, 2, 1, 0.65), told(scheduler, 3, 1, 0.81)) == (STOP, CONTINUE)


def test_a_trial_that_was_cut_off_is_not_judged_again_where_it_was(tmp_path: Path, log: TrialLog) -> None:
    scheduler = scheduler_of(plan_in(tmp_path, stopping={"reduction": 2}), log)
    scheduler.on_trial_add(None, trial(1))
    assert told(scheduler, 1, 3, 0.61) == CONTINUE


def test_nobody_is_stopped_at_the_last_evaluation(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, stopping={"first_evaluation": 1, "reduction": 2})
    scheduler = scheduler_of(plan, TrialLog(Storage(str(tmp_path / "sweep"))))
    assert isinstance(scheduler, Halving)
    for number, auc in enumerate((0.9, 0.5)):
        scheduler.on_trial_add(None, trial(number))
        last = told(scheduler, number, 4, auc)
        assert last == CONTINUE


@pytest.mark.filterwarnings("error")
def test_a_trial_without_a_value_yet_goes_on_and_counts_for_nobody(tmp_path: Path, log: TrialLog) -> None:
    log.write(TrialRecord(4, {}, "running", evaluations=[Evaluation(1, 1.0, math.nan)]))
    scheduler = scheduler_of(plan_in(tmp_path, stopping={"reduction": 2}), log)
    for number in (2, 3):
        scheduler.on_trial_add(None, trial(number))
    assert told(scheduler, 2, 1, math.nan) == CONTINUE
    scheduler.on_trial_complete(None, trial(2), {"evaluations": 1, "auc": math.nan})
    assert told(scheduler, 3, 1, 0.65) == STOP
