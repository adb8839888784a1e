"""What a trial's process does with a task: train a job, or roll a chain, and say what came of it."""

import io
import math
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from rich.console import Console

from pipelines.roll import run_roll
from pipelines.roll_config import REFERENCE
from raytrain.config import JobConfig
from raytrain.errors import RunError
from raytrain.run import RESULT_FILE, clear_half_begun, evaluate, read_result, train
from raytrain.storage import Storage
from raytrain.training.stopping import Watch
from tuning.plan import Task

Values = dict[str, float]
Pulse = Callable[[], bool]
"""Called where there is progress; says whether to go on"""


def run_task(task: Task, watch: Watch, pulse: Pulse, objectives: Sequence[str]) -> Values:
    """Begins the task, or goes on with what a kill has left of it; objective -> value on validation, NaN where it is undefined."""
    return _train(task, watch, pulse, objectives) if task["kind"] == "train" else _roll(task, "valid", pulse, objectives)


def test_task(task: Task, target: str) -> Values:
    """Metrics of a finished task on what nobody has chosen by: the test split, or later days."""
    if task["kind"] == "roll":
        return _served(_rolled(task, "test", lambda: True))
    run = Storage(task["job"]["run"]["storage_path"]).join(task["job"]["run"]["name"])
    return evaluate(run, "test", None, (), Console(quiet=True))[target]


def _train(task: Task, watch: Watch, pulse: Pulse, objectives: Sequence[str]) -> Values:
    job = JobConfig.parse(task["job"], "sweep")
    storage = Storage(Storage(job.run.storage_path).join(job.run.name or ""))
    if storage.exists(RESULT_FILE):
        result = read_result(storage.uri)
    else:
        result = train(job, Console(file=_Heard(pulse)), resume=clear_half_begun(job), watch=watch)
    # Of the checkpoint that the run would serve.
    train_s = sum(result["rows_trained"].values()) / result["train_samples_per_s"]
    return _of({**result["valid"], "train_s": train_s}, objectives)


class _Heard(io.StringIO):
    """A screen that nobody sees: a line of progress is a sign of life."""

    def __init__(self, pulse: Pulse) -> None:
        super().__init__()
        self._pulse = pulse

    def write(self, text: str) -> int:
        self._pulse()
        return len(text)


def _roll(task: Task, span: str, pulse: Pulse, objectives: Sequence[str]) -> Values:
    result = _rolled(task, span, pulse)
    kinds = result["arms"][REFERENCE]["cost"]["kinds"].values()
    return _of({**_served(result), "train_s": sum(kind["train_s"] for kind in kinds)}, objectives)


def _rolled(task: Task, span: str, pulse: Pulse) -> dict[str, Any]:
    """Raises RunError where a stage failed: a chain with a hole is no trial."""

    def train_stage(job: JobConfig, console: Console, resume: bool) -> dict[str, Any]:
        if not pulse():
            raise RunError("The trial was ended between two stages.")
        return train(job, console, resume=resume)

    first, last = (date.fromisoformat(day) for day in task[span])
    with TemporaryDirectory(prefix="raytrain-roll-") as scratch:
        path = Path(scratch) / "roll.yaml"
        path.write_text(yaml.safe_dump(task["roll"], sort_keys=False), encoding="utf-8")
        result = run_roll(str(path), (), Console(file=_Heard(pulse)), first, last, train=train_stage)
    if result["failed"]:
        failure = result["failed"][0]
        raise RunError(f"Every stage of a trial has to finish. Received: {failure['stage']} {failure['state']}. {failure['error']}")
    if left_out := result["arms"][REFERENCE]["days_left_out"]:
        # Those that are left may be the easier ones.
        day, why = next(iter(left_out.items()))
        raise RunError(f"Every day of a trial has to count. Received: {day}, and {why}. Lower the learning rate.")
    return result


def _served(result: dict[str, Any]) -> Values:
    return {metric: math.nan if value is None else value for metric, value in result["arms"][REFERENCE]["pooled"].items()}


def _of(found: dict[str, Any], objectives: Sequence[str]) -> Values:
    return {objective: math.nan if found.get(objective) is None else float(found[objective]) for objective in objectives}
