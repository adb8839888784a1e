"""SWEEP.yaml: what is varied, how it is searched, and when a trial is stopped. Torch-free."""

from datetime import date
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipelines.study_metrics import SearchMetric
from pipelines.study_plan import Name
from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.settings import Section
from tuning.space import Distribution, grid_of

Objective = SearchMetric | Literal["train_s"]
"""A validation metric, or what training took: seconds, start-up and evaluations left out."""


class Stopping(Section):
    """Asynchronous successive halving (ASHA): whoever is not among the best 1/reduction at an evaluation 1, reduction, reduction^2 ...
    times ``first_evaluation`` ends there."""

    first_evaluation: PositiveInt = 1
    reduction: float = Field(default=3.0, gt=1)


class ServedDays(Section):
    """Of a sweep over a roll: days are what its models are chosen and tested on. Both ends belong to a span."""

    valid: tuple[date, date]
    test: tuple[date, date]

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if not self.valid[0] <= self.valid[1] < self.test[0] <= self.test[1]:
            raise ValueError(
                "Days to test on come after those to choose on. "
                f"Received: valid from {self.valid[0]} to {self.valid[1]}, test from {self.test[0]} to {self.test[1]}. Move them."
            )
        return self


class Sweep(Section):
    """SWEEP.yaml."""

    name: Name
    base: str | dict[str, Any]
    """The job, or the roll, that trials vary: written out, or a file's path, seen from the sweep file."""
    overrides: tuple[str, ...] = ()
    """Of every trial."""
    space: dict[str, Distribution] = Field(min_length=1)
    """Dotted key of the job, or several with commas between that get the same value -> what it is drawn from."""
    serve: ServedDays | None = None
    """Of a roll; null for a job."""
    method: Literal["tpe", "random", "grid", "evolution"] = "tpe"
    """tpe: Optuna's tree-structured Parzen estimator. evolution: NSGA-II, populations of trials. grid: every combination of choices."""
    num_trials: PositiveInt | None = None
    """Null: 20, or of a grid all. The job as it stands is the first, where the space holds it."""
    objectives: tuple[Objective, ...] = ()
    """What is searched for on validation, by the first of which one trial is chosen; two are traded off. Empty: the metric that the job
    stops by."""
    stopping: Stopping | None = Stopping()
    """Null lets every trial train to its end."""
    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    """Runs of each trial; its value is their mean. Successive halving looks at the first alone."""
    max_concurrent: PositiveInt | None = None
    """Null: as many as fit on the cluster."""
    silence_limit_s: PositiveFloat = 1800.0
    """A trial without a line of progress for so long is given up as failed."""
    search_seed: NonNegativeInt = 0
    """Of what is drawn; ``seeds`` are those of the runs."""
    work_dir: str | None = None
    """Where runs and report go, on any file system; null: runs/sweeps/<name>."""

    @property
    def directory(self) -> str:
        return self.work_dir or f"runs/sweeps/{self.name}"

    @property
    def total_trials(self) -> int:
        """How many trials are run at most."""
        size = len(grid_of(self.space)) if self.method == "grid" else 20
        return min(self.num_trials or size, size) if self.method == "grid" else self.num_trials or size

    @model_validator(mode="after")
    def _check(self) -> Self:
        ranges = [key for key, distribution in self.space.items() if distribution.choice is None]
        if self.method == "grid" and ranges:
            raise ValueError(f"A grid goes through choices. Received: method=grid, {ranges[0]} with a range. Make it a choice.")
        if len(self.objectives) > 1 and self.stopping is not None and "stopping" in self.model_fields_set:
            raise ValueError(
                "Two objectives are traded off over whole runs, so stopping has to be null. "
                f"Received: objectives={list(self.objectives)} with stopping. Set stopping to null, or one objective."
            )
        if self.objectives[:1] == ("train_s",):
            raise ValueError("The first objective chooses a trial, so it has to be a metric. Received: train_s. Swap them.")
        return self


def higher_is_better(objective: str) -> bool:
    """Of a validation metric or ``train_s``."""
    return HIGHER_IS_BETTER.get(objective, False)
