"""SWEEP.yaml -> a checked ``Sweep`` and the job of every trial. Torch-free, and nothing runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from pipelines.study_metrics import SearchMetric, check_metrics
from pipelines.study_plan import Name
from raytrain.config import JobConfig, check_kind, read_text
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.errors import ConfigError
from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.models.declared import DECLARED
from raytrain.settings import Section, flat_keys, parse_yaml, with_overrides
from raytrain.storage import Storage
from tuning.space import Distribution, Params, grid_of, overrides_of, points_to_check

Objective = SearchMetric | Literal["train_s"]
"""A validation metric, or what training took: seconds, start-up and evaluations left out."""
NUM_CHECKED_DRAWS = 200
_OWN_KEYS = ("seed", "run.name", "run.storage_path", "run.save_predictions")


class Stopping(Section):
    """Asynchronous successive halving (ASHA): whoever is not among the best 1/reduction at an evaluation 1, reduction, reduction^2 ...
    times ``first_evaluation`` ends there."""

    first_evaluation: PositiveInt = 1
    reduction: float = Field(default=3.0, gt=1)


class Sweep(Section):
    """SWEEP.yaml."""

    name: Name
    base: str | dict[str, Any]
    """The job that trials vary: written out, or a file's path, seen from the sweep file."""
    overrides: tuple[str, ...] = ()
    """Of every trial."""
    space: dict[str, Distribution] = Field(min_length=1)
    """Dotted key of the job -> what it is drawn from."""
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
    """A trial without an evaluation for so long is given up as failed."""
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
        if len(self.objectives) > 1 and self.objectives[0] == "train_s":
            raise ValueError("The first objective chooses a trial, so it has to be a metric. Received: train_s. Swap them.")
        return self


def higher_is_better(objective: str) -> bool:
    """Of a validation metric or ``train_s``."""
    return HIGHER_IS_BETTER.get(objective, False)


class Plan:
    """A checked sweep: what its trials run."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], origin: str) -> None:
        """Raises ConfigError where the base or any drawn job is not right, ContractError where there is no data."""
        self.sweep, self._values, self._origin = sweep, values, origin
        self.base = self._job(())
        for params in points_to_check(sweep.space, NUM_CHECKED_DRAWS):
            self._job(overrides_of(params))
        self.contract: Contract = contract_of(self.base.data)
        self.objectives: tuple[str, ...] = sweep.objectives or (self.base.training.early_stopping.metric,)
        self.stopping = sweep.stopping if len(self.objectives) == 1 and self.objectives[0] != "train_s" else None
        self._check()

    def _check(self) -> None:
        metrics = [objective for objective in self.objectives if objective != "train_s"]
        check_metrics({"objectives": metrics}, self.contract, self.base.data.path)
        if self.base.model.name not in DECLARED:
            raise ConfigError(
                f"A sweep trains networks, whose evaluations it watches. Received: model.name={self.base.model.name}. "
                "Give the trials of other models to an arm of a study."
            )
        if self.base.data.days is not None:
            raise ConfigError(
                "A sweep chooses on a validation split, which a data set that is kept by day has none of. "
                "Received: data.days. Prepare the data with a split."
            )

    @property
    def default_params(self) -> Params | None:
        """The base job's own values; None where the space does not hold them."""
        flat = flat_keys(self.base.model_dump(mode="json"))
        found = {key: flat.get(key) for key in self.sweep.space}
        return found if all(distribution.holds(found[key]) for key, distribution in self.sweep.space.items()) else None

    def jobs_of(self, params: Params, name: str, storage: Storage) -> list[JobConfig]:
        """A job a seed, with absolute paths: a trial's process is not where the user is."""
        jobs = []
        for seed in self.sweep.seeds:
            job = self._job((*overrides_of(params), f"seed={seed}"))
            run = job.run.model_copy(update={"name": f"{name}-seed{seed}", "storage_path": storage.join("runs"), "tensorboard": False})
            data = job.data.model_copy(update={"path": Storage(job.data.path).uri})
            jobs.append(job.model_copy(update={"run": run, "data": data}))
        return jobs

    def _job(self, overrides: Sequence[str]) -> JobConfig:
        drawn = f", at {' '.join(overrides)}" if overrides else ""
        return JobConfig.parse(with_overrides(self._values, (*self.sweep.overrides, *overrides)), f"{self._origin}{drawn}")


def load_sweep(path: str, overrides: Sequence[str] = ()) -> Plan:
    """Reads SWEEP.yaml. A key of the sweep changes the sweep (``num_trials=12``), any other every job (``data.path=x``).

    Raises:
        RaytrainError: the file, a job that the space may draw, or the data set is not right.
    """
    own = [override for override in overrides if _key(override).split(".")[0] in Sweep.model_fields]
    values = parse_yaml(read_text(path), path)
    check_kind(values, path, "space")
    sweep = Sweep.parse(with_overrides(values, own), path)
    of_jobs = tuple(override for override in overrides if override not in own)
    sweep = sweep.model_copy(update={"overrides": (*sweep.overrides, *of_jobs)})
    set_twice = [override for override in sweep.overrides if _key(override) in _OWN_KEYS or _key(override) in sweep.space]
    if set_twice:
        raise ConfigError(
            f"{path}: A sweep itself sets {', '.join(_OWN_KEYS)} and the keys of its space. "
            f"Received: {set_twice[0]}. Change seeds, work_dir or space."
        )
    base = sweep.base if isinstance(sweep.base, dict) else parse_yaml(read_text(Path(path).parent / sweep.base), sweep.base)
    return Plan(sweep.model_copy(update={"base": base}), base, path)


def _key(override: str) -> str:
    return override.partition("=")[0].strip()
