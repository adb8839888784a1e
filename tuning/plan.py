"""What a sweep's trials run, of whatever kind, everything checked that can be before one starts. Torch-free.

A trial is one task a seed: a mapping that its process takes (``tuning.tasks``).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import yaml

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.errors import ConfigError
from raytrain.footprint import process_bytes
from raytrain.resources import largest, needs_beside_others
from raytrain.settings import with_overrides
from raytrain.storage import Storage
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
            ConfigError: the base, or what the space may make of it, is not right.
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
        points = ({}, *points_to_check(sweep.space, NUM_CHECKED_DRAWS))
        self.needs = largest(needs_beside_others(job) for params in points for job in self.jobs_of(overrides_of(params)))
        """Of the largest trial that was looked at."""

    @abstractmethod
    def check_data(self) -> None:
        """Raises ConfigError where the data set does not fit what is asked, ContractError where there is none."""

    @abstractmethod
    def jobs_of(self, overrides: Sequence[str]) -> list[JobConfig]:
        """What such a trial trains, one after the other. Raises ConfigError where the base does not take the overrides."""

    @property
    def trains_in_process(self) -> bool:
        """Whether a trial's own process does the work, instead of waiting for workers that do."""
        return all(job.scaling.in_process for job in self.jobs_of(()))

    @cached_property
    def process_bytes(self) -> int:
        """Memory that a trial's process asks Ray for: the most of the base and of the points that are looked at."""
        points = ({}, *points_to_check(self.sweep.space, NUM_CHECKED_DRAWS))
        return max(process_bytes(job, self.contract) for params in points for job in self.jobs_of(overrides_of(params)))

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
            found[knob] = distribution.own(values[0])
        return found

    def best_yaml(self, params: Params) -> str:
        return yaml.safe_dump(self.best_values(params), sort_keys=False)

    def described(self, overrides: Sequence[str]) -> str:
        """Where a message says that something is not right."""
        return f"{self._origin}, at {' '.join(overrides)}" if overrides else self._origin

    def with_overrides(self, overrides: Sequence[str]) -> dict[str, Any]:
        return with_overrides(self._values, (*self.sweep.overrides, *overrides))


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
