"""Successive halving that knows trials by their numbers, so that those of an earlier launch are the ones they were."""

import math
from types import SimpleNamespace
from typing import Any, cast

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from tuning.plan import SweepPlan
from tuning.sweep_config import higher_is_better
from tuning.trial_log import TrialLog, TrialRecord, trial_name

MOST_EVALUATIONS = 10_000
"""How far rungs go; no trial has as many."""


class Halving(AsyncHyperBandScheduler):
    """ASHA (Li et al. 2020) over evaluations. Nobody is stopped at its last one, which is paid for, nor before it has a value."""

    def __init__(self, objective: str, **options: Any) -> None:
        super().__init__(metric=objective, **options)
        self._objective = objective

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_add(tune_controller, _known(trial.config["number"]))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if math.isnan(result[self._objective]):
            # A model that prepares has nothing to serve yet: it is neither ahead nor behind.
            return TrialScheduler.CONTINUE
        action = super().on_trial_result(tune_controller, _known(trial.config["number"]), result)
        return TrialScheduler.CONTINUE if result["evaluations"] >= trial.config["num_evaluations"] else action

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if not math.isnan(result.get(self._objective, math.nan)):
            super().on_trial_complete(tune_controller, _known(trial.config["number"]), result)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        super().on_trial_remove(tune_controller, _known(trial.config["number"]))

    def remember(self, record: TrialRecord) -> None:
        """How far a trial of an earlier launch came."""
        known = _known(record.number)
        super().on_trial_add(None, known)  # type: ignore[arg-type]
        for one in record.evaluations:
            if not math.isnan(one.value):
                super().on_trial_result(None, known, {"evaluations": one.number, self._objective: one.value})  # type: ignore[arg-type]


def scheduler_of(plan: SweepPlan, log: TrialLog) -> TrialScheduler:
    """What stops trials, with the memory of those that are known."""
    if plan.stopping is None:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    objective = plan.objectives[0]
    scheduler = Halving(
        objective,
        time_attr="evaluations",
        mode="max" if higher_is_better(objective) else "min",
        grace_period=plan.stopping.first_evaluation,
        reduction_factor=plan.stopping.reduction,
        max_t=MOST_EVALUATIONS,
        stop_last_trials=False,
    )
    for record in log.records.values():
        scheduler.remember(record)
    return scheduler


def _known(number: int) -> Trial:
    """All that ASHA looks at of a trial."""
    return cast(Trial, SimpleNamespace(trial_id=trial_name(number)))
