"""From SWEEP.yaml to what its trials run, everything checked that can be before one starts. Torch-free.

A trial is one task a seed: a mapping that its process takes (``tuning.tasks``).
"""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pipelines.study_metrics import check_metrics
from raytrain.config import JobConfig, check_kind, read_text
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.errors import ConfigError
from raytrain.models.declared import DECLARED
from raytrain.resources import Needs, needs_of, num_training_streams
from raytrain.settings import flat_keys, parse_yaml, with_overrides
from raytrain.storage import Storage, has_credentials
from tuning.space import Params, overrides_of, points_to_check
from tuning.sweep_config import Stopping, Sweep

NUM_CHECKED_DRAWS = 200
Task = dict[str, Any]


class SweepPlan(ABC):
    """A checked sweep."""

    kind: str
    """What a trial is, and the command that the best one is run with."""
    set_by_sweep: tuple[str, ...]
    """Keys that are nobody else's."""
    how_tested: str
    """What is done to the chosen trial, in words."""

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], origin: str) -> None:
        """
        Args:
            values: the base, as a file holds it.

        Raises:
            ConfigError: the base, or what the space may make of it, is not right; ContractError where there is no data.
        """
        self.sweep, self._values, self._origin = sweep, values, origin
        overridden, varied = [key_of(override) for override in sweep.overrides], keys_of(sweep)
        twice = [key for key in overridden if _collides(key, (*self.set_by_sweep, *varied))]
        if twice:
            raise ConfigError(
                f"{origin}: A sweep itself sets {', '.join(self.set_by_sweep)} and the keys of its space. "
                f"Received: {twice[0]} among the overrides. Change seeds, work_dir or space."
            )
        taken = [key for place, key in enumerate(varied) if _collides(key, (*self.set_by_sweep, *varied[:place]))]
        if taken:
            raise ConfigError(
                f"{origin}: A key is set in one place, and a sweep itself sets {', '.join(self.set_by_sweep)}. "
                f"Received: {taken[0]} in space. Remove it, or change seeds."
            )
        self.needs = largest(self.check(overrides_of(params)) for params in ({}, *points_to_check(sweep.space, NUM_CHECKED_DRAWS)))
        """Of the largest trial that was looked at."""

    @abstractmethod
    def check(self, overrides: Sequence[str]) -> Needs:
        """What such a trial keeps busy. Raises ConfigError where the base does not take them."""

    @property
    @abstractmethod
    def contract(self) -> Contract: ...

    @property
    @abstractmethod
    def model_name(self) -> str: ...

    @property
    @abstractmethod
    def default_objective(self) -> str: ...

    def num_evaluations_of(self, params: Params) -> int:
        """At which such a trial is looked at while it trains, the last one included."""
        return 0

    @abstractmethod
    def flat_base(self) -> dict[str, Any]:
        """Dotted key -> value of the base as it stands."""

    @abstractmethod
    def tasks_of(self, params: Params, name: str, storage: Storage) -> list[Task]:
        """One a seed, with absolute paths: a trial's process is not where the user is."""

    @abstractmethod
    def best_values(self, params: Params) -> dict[str, Any]:
        """A file that says the same without the sweep."""

    @property
    def objectives(self) -> tuple[str, ...]:
        return self.sweep.objectives or (self.default_objective,)

    @property
    def stopping(self) -> Stopping | None:
        """Null where trials train to their ends; see ``why_no_stopping``."""
        return None if self.why_no_stopping else self.sweep.stopping

    @property
    def why_no_stopping(self) -> str:
        """ "" where trials may be stopped."""
        if self.sweep.stopping is None:
            return "stopping=null"
        if len(self.objectives) > 1 or self.objectives[0] == "train_s":
            return "cost is known at the end alone"
        if self.sweep.method == "evolution":
            return "a population consists of trials that finished"
        num = self.num_evaluations_of({})
        if num <= self.sweep.stopping.first_evaluation:
            return f"a trial has {num} evaluations, and the last one is paid for"
        return ""

    @property
    def default_params(self) -> Params | None:
        """The base's own values; None where the space does not hold them, or keys of one knob differ."""
        flat, found = self.flat_base(), {}
        for knob, distribution in self.sweep.space.items():
            values = [flat.get(key) for key in split_knob(knob)]
            unknown = any(key not in flat for key in split_knob(knob))
            if unknown or values.count(values[0]) < len(values) or not distribution.holds(values[0]):
                return None
            found[knob] = values[0]
        return found

    def best_yaml(self, params: Params) -> str:
        return yaml.safe_dump(self.best_values(params), sort_keys=False)

    def described(self, overrides: Sequence[str]) -> str:
        """Where a message says that something is not right."""
        return f"{self._origin}, at {' '.join(overrides)}" if overrides else self._origin

    def with_overrides(self, overrides: Sequence[str]) -> dict[str, Any]:
        return with_overrides(self._values, (*self.sweep.overrides, *overrides))


class JobPlan(SweepPlan):
    """Trials are runs of one job."""

    kind = "train"
    set_by_sweep = ("seed", "run.name", "run.storage_path", "run.save_predictions")
    how_tested = "scoring its test split"

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], origin: str) -> None:
        super().__init__(sweep, values, origin)
        self.base = self._job(())
        self._contract = contract_of(self.base.data)
        metrics = [objective for objective in self.objectives if objective != "train_s"]
        check_metrics({"objectives": metrics}, self.contract, self.base.data.path)
        if self.base.model.name not in DECLARED:
            raise ConfigError(
                f"A sweep trains networks, whose evaluations it watches. Received: model.name={self.base.model.name}. "
                "Give the trials of other models to an arm of a study."
            )
        if self.base.data.days is not None or sweep.serve is not None:
            raise ConfigError(
                "A sweep of a job chooses on its validation split, and days are a roll's. "
                f"Received: {'serve' if sweep.serve else 'data.days'}. Remove it, or make base a roll."
            )

    def check(self, overrides: Sequence[str]) -> Needs:
        return needs_of_trial(self._job(overrides))

    @property
    def contract(self) -> Contract:
        return self._contract

    @property
    def model_name(self) -> str:
        return self.base.model.name

    @property
    def default_objective(self) -> str:
        return self.base.training.early_stopping.metric

    def num_evaluations_of(self, params: Params) -> int:
        job = self._job(overrides_of(params))
        num_rows = self.contract.domains[self.contract.target].splits["train"].num_rows
        steps_per_epoch = -(-num_rows // job.data.batch_size)
        num_steps = min(job.training.epochs * steps_per_epoch, job.training.max_steps or sys.maxsize)
        # The last step is evaluated whether it is due or not.
        return -(-num_steps * job.training.evals_per_epoch // steps_per_epoch)

    def flat_base(self) -> dict[str, Any]:
        return flat_keys(self.base.model_dump(mode="json"))

    def tasks_of(self, params: Params, name: str, storage: Storage) -> list[Task]:
        tasks = []
        for seed in self.sweep.seeds:
            job = self._job((*overrides_of(params), f"seed={seed}"))
            run = job.run.model_copy(update={"name": f"{name}-seed{seed}", "storage_path": storage.join("runs"), "tensorboard": False})
            data = job.data.model_copy(update={"path": Storage(job.data.path).uri})
            # Trials share the machine: each on all cores would have their threads wait for one another.
            threads = job.scaling.threads_per_worker or (1 if job.scaling.in_process else None)
            scaling = job.scaling.model_copy(update={"threads_per_worker": threads})
            changed = job.model_copy(update={"run": run, "data": data, "scaling": scaling})
            tasks.append({"kind": self.kind, "job": changed.model_dump(mode="json")})
        return tasks

    def best_values(self, params: Params) -> dict[str, Any]:
        job = self._job((*overrides_of(params), f"seed={self.sweep.seeds[0]}"))
        return job.model_dump(mode="json", exclude={"run"})

    def _job(self, overrides: Sequence[str]) -> JobConfig:
        return JobConfig.parse(self.with_overrides(overrides), self.described(overrides))


def load_sweep(path: str, overrides: Sequence[str] = ()) -> SweepPlan:
    """Reads SWEEP.yaml. A key of the sweep changes the sweep (``num_trials=12``), any other every trial (``data.path=x``).

    Raises:
        RaytrainError: the file, a trial that the space may draw, or the data set is not right.
    """
    # base.data.path is a roll's: the sweep's own base is named as a whole.
    own = [one for one in overrides if key_of(one).split(".")[0] in Sweep.model_fields and not key_of(one).startswith("base.")]
    values = parse_yaml(read_text(path), path)
    check_kind(values, path, "space")
    sweep = Sweep.parse(with_overrides(values, own), path)
    of_trials = tuple(override for override in overrides if override not in own)
    base = sweep.base if isinstance(sweep.base, dict) else parse_yaml(read_text(Path(path).parent / sweep.base), sweep.base)
    sweep = sweep.model_copy(update={"overrides": (*sweep.overrides, *of_trials), "base": base})
    if has_credentials(json.dumps(sweep.model_dump(mode="json"))):
        raise ConfigError(
            f"{path}: Credentials must not stand in a sweep, which is saved. Received: a URI with a user, a key or a token. "
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or what your store reads from the environment."
        )
    if "calendar" in base:
        from tuning.roll_plan import RollSweepPlan

        return RollSweepPlan(sweep, base, path)
    return JobPlan(sweep, base, path)


def needs_of_trial(job: JobConfig) -> Needs:
    """What a run keeps busy as one of several; in a trial's own process it takes as many cores as it has threads, 1 unless it says."""
    if job.scaling.in_process:
        return Needs(1, float(job.scaling.threads_per_worker or 1), 0, 0.0)
    return needs_of(job, num_training_streams(job))


def largest(needs: Iterable[Needs]) -> Needs:
    return max(needs, key=lambda one: (one.num_gpus, one.total))


def key_of(override: str) -> str:
    return override.partition("=")[0].strip()


def _collides(key: str, others: Sequence[str]) -> bool:
    """Whether it is one of them, lies inside one, or holds one."""
    return any(key == other or key.startswith(f"{other}.") or other.startswith(f"{key}.") for other in others)


def split_knob(knob: str) -> list[str]:
    """ "tpm.tables.dim, cpm.model.month_dim" -> both."""
    return [key.strip() for key in knob.split(",")]


def keys_of(sweep: Sweep) -> list[str]:
    """Every key that the space sets."""
    return [key for knob in sweep.space for key in split_knob(knob)]
