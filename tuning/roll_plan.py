"""A sweep over a roll: a trial is a chain of its own, chosen by the days that it serves, tested on later ones. Torch-free."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pipelines.roll_config import KINDS, Roll, checked_days, checked_roll
from pipelines.roll_stage import RollPlan, plan_roll
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.errors import ConfigError
from raytrain.metrics.bootstrap import CLICK_METRICS
from raytrain.settings import flat_keys
from raytrain.storage import Storage
from tuning.plan import SweepPlan, Task
from tuning.space import Params, overrides_of
from tuning.sweep_config import Sweep


class RollSweepPlan(SweepPlan):
    """Trials are rolls."""

    kind = "roll"
    set_by_sweep = ("base.seed", "seeds", "output", "arms", "name")
    how_tested = "rolling on over the days that test it"

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], origin: str) -> None:
        # Arms are other questions: a trial is the chain alone, with the sweep's seeds.
        super().__init__(sweep, {key: value for key, value in values.items() if key not in ("arms", "seeds")}, origin)
        if sweep.serve is None:
            raise ConfigError(f"{origin}: A sweep of a roll chooses on days. Received: serve=null. Name days to choose on and to test on.")
        wrong = [objective for objective in self.objectives if objective not in (*CLICK_METRICS, "train_s")]
        if wrong:
            raise ConfigError(
                f"A roll is measured by {', '.join(CLICK_METRICS)} and train_s. Received: objectives={wrong[0]}. Choose of them."
            )
        self._base = self._roll(())
        for days in (sweep.serve.valid, sweep.serve.test):
            checked_days(self._base.calendar, *days)

    def check_data(self) -> None:
        serve = self.sweep.serve
        assert serve is not None
        plan_roll("full", self._base, *serve.test)
        _ = self._plan  # Planned once, and kept.

    def jobs_of(self, overrides: Sequence[str]) -> list[JobConfig]:
        """One a kind of stage."""
        roll = self._roll(overrides)
        kinds = [kind for kind in KINDS if getattr(roll.calendar, kind) is not None]
        return [JobConfig.parse(roll.job_values(kind), kind) for kind in kinds]

    @property
    def contract(self) -> Contract:
        return self._plan.contract

    @property
    def model_name(self) -> str:
        return self._plan.stages[-1].job.model.name

    @property
    def default_objective(self) -> str:
        return "gauc"

    def flat_base(self) -> dict[str, Any]:
        """What a stage's own section does not say comes from ``base``, or is the schema's default."""
        flat = flat_keys(self._base.model_dump(mode="json"))
        jobs = {planned.stage.kind: planned.job for planned in self._plan.stages}
        return flat | {
            f"{kind}.{key}": value for kind, job in jobs.items() for key, value in flat_keys(job.model_dump(mode="json")).items()
        }

    def tasks_of(self, params: Params, name: str, storage: Storage) -> list[Task]:
        serve = self.sweep.serve
        assert serve is not None
        tasks = []
        for seed in self.sweep.seeds:
            roll = self._roll((*overrides_of(params), f"base.seed={seed}"))
            directory = storage.join(f"runs/{name}-seed{seed}")
            base = {**roll.base, "data": {**roll.base["data"], "path": Storage(roll.data_path).uri}}
            values = roll.model_copy(update={"name": name, "output": directory, "base": base}).model_dump(mode="json")
            spans = {"valid": [str(day) for day in serve.valid], "test": [str(day) for day in serve.test]}
            tasks.append({"kind": self.kind, "roll": values, **spans})
        return tasks

    def best_values(self, params: Params) -> dict[str, Any]:
        roll = self._roll((*overrides_of(params), f"base.seed={self.sweep.seeds[0]}"))
        return roll.model_copy(update={"name": f"{roll.name}-best"}).model_dump(mode="json", exclude={"output", "arms"})

    @cached_property
    def _plan(self) -> RollPlan:
        serve = self.sweep.serve
        assert serve is not None
        return plan_roll("full", self._base, *serve.valid)

    def _roll(self, overrides: Sequence[str]) -> Roll:
        return checked_roll(self.with_overrides(overrides), self.described(overrides))
