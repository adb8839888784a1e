"""Optuna behind Ray Tune: proposes trials, learns from their ends, and knows those of an earlier launch of the sweep."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raytrain.storage import Storage
from tuning.plan import SweepPlan
from tuning.space import Params, Space, grid_of
from tuning.sweep_config import Sweep, higher_is_better
from tuning.trial_log import TrialLog, TrialRecord, trial_name

NUM_RANDOM_TRIALS = 6
"""Before TPE has an opinion: a third of a sweep's usual twenty."""
POPULATION = 8


class OptunaSearcher(Searcher):
    """Ask and tell. What it hands to a trial is what ``TrialRun`` takes, with ``number`` and ``params`` for the log."""

    def __init__(self, plan: SweepPlan, log: TrialLog, storage: Storage) -> None:
        super().__init__()
        self._plan, self._space, self._log, self._storage = plan, plan.sweep.space, log, storage
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
        directions = [up if higher_is_better(objective) else down for objective in plan.objectives]
        self._study = optuna.create_study(directions=directions, sampler=_sampler(plan.sweep, len(log.records)))
        self._distributions = {key: distribution.to_optuna() for key, distribution in self._space.items()}
        finished = log.with_status("finished")
        for record in log.with_status("finished", "stopped"):
            told = _told(record, self._space, self._distributions, plan.objectives)
            if record in finished:
                # NSGA-II breeds from whole generations, and counts them by this mark.
                told.system_attrs = {NSGAIISampler._get_generation_key(): finished.index(record) // POPULATION}
            self._study.add_trial(told)
        self._again = log.with_status("running", "failed")
        """Trials that a kill or a failure has left, which keep their numbers and their runs."""
        self._next = max(log.records, default=-1) + 1
        self._enqueue(first=not log.records)
        self._asked: dict[str, optuna.Trial] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles itself for a restart of its own, which nobody asks for."""
        return {}

    def _enqueue(self, first: bool) -> None:
        """Points that are to be run whatever the sampler thinks: those begun, a grid's, and the job as it stands."""
        known = [record.params for record in self._log.records.values()]
        points: list[Params] = [record.params for record in self._again]
        if self._plan.sweep.method == "grid":
            points += [point for point in grid_of(self._space) if point not in known][: self._num_new]
        elif first and self._plan.default_params is not None:
            points.append(self._plan.default_params)
        for point in points:
            self._study.enqueue_trial({key: self._space[key].encode(value) for key, value in point.items()})

    @property
    def _num_new(self) -> int:
        return self._plan.sweep.total_trials - len(self._log.records)

    @property
    def num_left(self) -> int:
        """Trials that this launch runs at most."""
        return len(self._again) + max(0, self._num_new)

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        if len(self._asked) < len(self._again):
            number = self._again[len(self._asked)].number
        else:
            number, self._next = self._next, self._next + 1
        self._asked[trial_id] = self._study.ask(self._distributions)
        drawn = self._asked[trial_id].params
        params = {key: self._space[key].decode(value) for key, value in drawn.items()}
        return {
            "number": number,
            "params": params,
            "tasks": self._plan.tasks_of(params, trial_name(number), self._storage),
            "objectives": list(self._plan.objectives),
            "num_evaluations": self._plan.num_evaluations_of(params),
            "silence_limit_s": self._plan.sweep.silence_limit_s,
            "so_far": self._so_far(number),
        }

    def _so_far(self, number: int) -> dict[str, Any]:
        """What an earlier launch has seen of the trial."""
        record = self._log.records.get(number)
        if record is None or not record.evaluations:
            return {}
        last = record.evaluations[-1]
        return {"evaluations": last.number, "epoch": last.epoch, self._plan.objectives[0]: last.value}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        asked, result = self._asked[trial_id], result or {}
        values = [float(result.get(objective, math.nan)) for objective in self._plan.objectives]
        if error or result.get("status") == "failed" or any(math.isnan(value) for value in values):
            self._study.tell(asked, state=TrialState.FAIL)
        elif result["status"] == "finished":
            self._study.tell(asked, values)
        else:
            # TPE orders trials that were stopped by how far they came, then by their value there.
            asked.report(values[0], result["evaluations"])
            self._study.tell(asked, state=TrialState.PRUNED)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: trials/*.json hold what a restart needs, and no pickle has to be trusted."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see ``save``."""


def _sampler(sweep: Sweep, num_known: int) -> BaseSampler:
    # What a launch before this one has drawn is not drawn again.
    seed = int(np.random.SeedSequence((sweep.search_seed, num_known)).generate_state(1)[0])
    if sweep.method == "tpe":
        return TPESampler(seed=seed, n_startup_trials=min(NUM_RANDOM_TRIALS, 1 + sweep.total_trials // 3))
    return NSGAIISampler(seed=seed, population_size=POPULATION) if sweep.method == "evolution" else RandomSampler(seed=seed)


def _told(
    record: TrialRecord, space: Space, distributions: Mapping[str, optuna.distributions.BaseDistribution], objectives: Sequence[str]
) -> optuna.trial.FrozenTrial:
    """What Optuna would remember of the trial."""
    params = {key: space[key].encode(value) for key, value in record.params.items()}
    values = [record.values.get(objective, math.nan) for objective in objectives]
    if any(math.isnan(value) for value in values):
        return optuna.create_trial(state=TrialState.FAIL, params=params, distributions=dict(distributions))
    if record.status == "finished":
        return optuna.create_trial(state=TrialState.COMPLETE, params=params, distributions=dict(distributions), values=values)
    steps = {one.number: one.value for one in record.evaluations}
    return optuna.create_trial(state=TrialState.PRUNED, params=params, distributions=dict(distributions), intermediate_values=steps)
