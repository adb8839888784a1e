"""What happens while a sweep runs: records on disk, lines on the screen, and an end where nothing works."""

import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ray.tune import Callback, Stopper
from ray.tune.experiment import Trial
from rich.console import Console
from rich.markup import escape

from raytrain.storage import masked
from tuning.plan import SweepPlan
from tuning.space import overrides_of
from tuning.sweep_config import higher_is_better
from tuning.trial_log import Evaluation, TrialLog, TrialRecord, ranked

HOPELESS_FAILURES = 3
"""Trials that fail before a single one has come to a value: the fourth will too."""


class SweepWatcher(Callback, Stopper):
    """Tune's callback, and its stopper."""

    def __init__(
        self, plan: SweepPlan, log: TrialLog, num_left: int, concurrency: int, console: Console, check: Callable[[], None]
    ) -> None:
        """``check`` raises where the sweep's directory is no longer this one's to write."""
        self.check = check
        self._plan, self._log, self._console, self._concurrency = plan, log, console, concurrency
        self._num_left, self._num_failed = num_left, 0
        self._walls_s: list[float] = []
        self._walls_before_s: dict[int, float] = {}
        """Number of a trial -> what it took in launches before this one."""

    @property
    def is_done(self) -> bool:
        """Whether every trial of this launch has come to an end of its own."""
        return len(self._walls_s) >= self._num_left

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles itself for a restart of its own, which nobody asks for; a console does not go along."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number, params = trial.config["number"], trial.config["params"]
        record = self._log.records.get(number) or TrialRecord(number, params)
        self._walls_before_s[number] = record.wall_s
        record.status, record.error = "running", ""
        self._write(record)
        again = f", going on after evaluation {len(record.evaluations)}" if record.evaluations else ""
        self._say(f"[bold]{record.name}[/bold]{again}  {escape('  '.join(overrides_of(params)))}")

    def on_trial_result(self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any) -> None:
        if result["status"] != "running":
            return
        record, objective = self._record(trial), self._plan.objectives[0]
        record.wall_s = self._wall_s(trial, result)
        record.evaluations.append(Evaluation(result["evaluations"], result["epoch"], float(result[objective])))
        self._write(record)
        # Evaluations of a model that prepares itself do not count yet, and NaN is never best.
        best = "no best yet" if math.isnan(result[objective]) else f"best valid {objective} {result[objective]:.4f}"
        self._say(f"{record.name}  epoch {result['epoch']:.2f}  {best}")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        result = trial.last_result
        status = "stopped" if result.get("status") == "running" else result.get("status", "failed")
        self._close(trial, status, result, result.get("error") or ("" if status != "failed" else "it ended without a word"))

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        error = trial.get_error()
        told = str(error).strip().splitlines()[-1:] if error is not None else []
        self._close(trial, "failed", trial.last_result or {}, told[0] if told else "its process died; read the logs under /tmp/ray")

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """No trial is stopped here."""
        return False

    def stop_all(self) -> bool:
        """Whether the sweep is hopeless: trials of this launch failed, and never one has come to a value."""
        worked = any(record.status in ("finished", "stopped") or record.evaluations for record in self._log.records.values())
        return self._num_failed >= HOPELESS_FAILURES and not worked

    def _close(self, trial: Trial, status: Any, result: dict[str, Any], error: str) -> None:
        record = self._record(trial)
        record.status, record.error = status, error
        values = {objective: float(result.get(objective, math.nan)) for objective in self._plan.objectives}
        record.values = {objective: value for objective, value in values.items() if not math.isnan(value)}
        record.seed_values = result.get("seed_values", [])
        record.wall_s = self._wall_s(trial, result)
        self._write(record)
        self._num_failed += status == "failed"
        self._walls_s.append(float(result.get("time_total_s", 0.0)))
        found = "  ".join(f"{name} {value:.4f}" for name, value in record.values.items())
        colour = {"finished": "green", "failed": "red"}.get(status, "yellow")
        self._say(f"{record.name}  [{colour}]{status}[/{colour}]  {escape(masked(error)) or found}{self._best()}  {self._left()}")

    def _best(self) -> str:
        order = ranked(list(self._log.records.values()), higher_is_better(self._plan.objectives[0]))
        return f"  (best: {order[0].name}, {order[0].value:.4f})" if order else ""

    def _left(self) -> str:
        num_left = self._num_left - len(self._walls_s)
        each_s = sum(self._walls_s) / len(self._walls_s)
        left = timedelta(seconds=round(each_s * -(-num_left // self._concurrency)))
        return f"{num_left} trial{'s' if num_left > 1 else ''} left, about {left}" if num_left > 0 else ""

    def _wall_s(self, trial: Trial, result: dict[str, Any]) -> float:
        return self._walls_before_s.get(trial.config["number"], 0.0) + float(result.get("time_total_s", 0.0))

    def _write(self, record: TrialRecord) -> None:
        self.check()
        self._log.write(record)

    def _record(self, trial: Trial) -> TrialRecord:
        number = trial.config["number"]
        return self._log.records.setdefault(number, TrialRecord(number, trial.config["params"]))

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False)
