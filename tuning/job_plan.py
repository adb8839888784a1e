"""A sweep over a job: a trial is a run a seed, chosen on the validation split. Torch-free."""

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from pipelines.study_metrics import check_metrics
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.errors import ConfigError
from raytrain.models.declared import DECLARED
from raytrain.resources import beside_others
from raytrain.settings import flat_keys
from raytrain.storage import Storage
from tuning.plan import SweepPlan, Task
from tuning.space import Params, overrides_of
from tuning.sweep_config import Sweep


class JobPlan(SweepPlan):
    """Trials are runs of one job."""

    kind = "train"
    set_by_sweep = ("seed", "run.name", "run.storage_path", "run.save_predictions")
    how_tested = "scoring its test split"

    def __init__(self, sweep: Sweep, values: Mapping[str, Any], origin: str) -> None:
        super().__init__(sweep, values, origin)
        self.base = self._job(())
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

    def check_data(self) -> None:
        metrics = [objective for objective in self.objectives if objective != "train_s"]
        check_metrics({"objectives": metrics}, self.contract, self.base.data.path)

    def jobs_of(self, overrides: Sequence[str]) -> list[JobConfig]:
        return [self._job(overrides)]

    @cached_property
    def contract(self) -> Contract:
        return contract_of(self.base.data)

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
            changed = beside_others(job).model_copy(update={"run": run, "data": data})
            tasks.append({"kind": self.kind, "job": changed.model_dump(mode="json")})
        return tasks

    def best_values(self, params: Params) -> dict[str, Any]:
        job = self._job((*overrides_of(params), f"seed={self.sweep.seeds[0]}"))
        return job.model_dump(mode="json", exclude={"run"})

    def _job(self, overrides: Sequence[str]) -> JobConfig:
        return JobConfig.parse(self.with_overrides(overrides), self.described(overrides))
