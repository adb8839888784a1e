"""What happens while a sweep runs: records on disk, lines on the screen, and an end where nothing works."""

import math
import time
from datetime import timedelta
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from rich.console import Console

from raytrain.metrics.order import HIGHER_IS_BETTER
from tuning.plan import SweepPlan
from tuning.space import overrides_of
from tuning.trial_log import Evaluation, TrialLog, TrialRecord, ranked

HOPELESS_FAILURES = 3
"""Trials that fail before a single one has come to a value: the fourth will too."""


class SweepWatcher(Callback, Stopper):
    """Tune's callback, and its stopper."""

    def __init__(self, plan: SweepPlan, log: TrialLog, num_left: int, concurrency: int, console: Console) -> None:
        self._plan, self._log, self._console, self._concurrency = plan, log, console, concurrency
        self._num_done, self._num_left = 0, num_left
        self._started = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles itself for a restart of its own, which nobody asks for; a console does not go along."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number, params = trial.config["number"], trial.config["params"]
        record = self._log.records.get(number) or TrialRecord(number, params)
        self._log.write(record)
        again = f", going on after evaluation {len(record.evaluations)}" if record.evaluations else ""
        self._say(f"[bold]{record.name}[/bold]{again}  {'  '.join(overrides_of(params))}")

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        if result["status"] != "running":
            return
        record, objective = self._record(trial), self._plan.objectives[0]
        record.evaluations.append(Evaluation(result["evaluations"], result["epoch"], float(result[objective])))
        self._log.write(record)
        self._say(f"{record.name}  epoch {result['epoch']:.2f}  best valid {objective} {result[objective]:.4f}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result
        status = "stopped" if result.get("status") == "running" else result.get("status", "failed")
        self._close(trial, status, result, result.get("error") or ("" if status != "failed" else "it ended without a word"))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._close(trial, "failed", trial.last_result or {}, "the trial's process died; read the logs under /tmp/ray")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep is hopeless."""
        records = self._log.records.values()
        num_failed = sum(record.status == "failed" for record in records)
        return num_failed >= HOPELESS_FAILURES and num_failed == len(records)

    def _close(self, trial: Trial, status: Any, result: dict[str, Any], error: str) -> None:
        record = self._record(trial)
        record.status, record.error = status, error
        values = {objective: float(result.get(objective, math.nan)) for objective in self._plan.objectives}
        record.values = {objective: value for objective, value in values.items() if not math.isnan(value)}
        record.seed_values = result.get("seed_values", [])
        record.wall_s += float(result.get("time_total_s", 0.0))
        self._log.write(record)
        self._num_done += 1
        found = "  ".join(f"{name} {value:.4f}" for name, value in record.values.items())
        colour = {"finished": "green", "failed": "red"}.get(status, "yellow")
        self._say(f"{record.name}  [{colour}]{status}[/{colour}]  {error or found}{self._best()}  {self._left()}")

    def _best(self) -> str:
        order = ranked(list(self._log.records.values()), HIGHER_IS_BETTER.get(self._plan.objectives[0], False))
        return f"  (best: {order[0].name}, {order[0].value:.4f})" if order else ""

    def _left(self) -> str:
        num_left = self._num_left - self._num_done
        each_s = (time.monotonic() - self._started) / self._num_done
        left = timedelta(seconds=round(each_s * num_left))
        return f"{num_left} trials left, about {left}" if num_left > 0 else ""

    def _record(self, trial: Trial) -> TrialRecord:
        number = trial.config["number"]
        return self._log.records.setdefault(number, TrialRecord(number, trial.config["params"]))

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False)
