"""From a stage of the calendar to the job that trains it, and to the name that says whether it has been done. Torch-free.

A stage is named by its kind, its day and a digest of its job and of its parents: a config that changes makes stages anew beside the
old ones, and arms that have a stage in common share it. Where it runs, and how it is watched, is not part of it.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property
from typing import Any

from pipelines.roll_calendar import Chain, Days, Stage, in_order
from pipelines.roll_config import Calendar, Kind, Roll, checked_days
from raytrain.config import JobConfig
from raytrain.data.contract import Contract, load_contract
from raytrain.ecdctr_config import EcdctrModel
from raytrain.errors import ContractError
from raytrain.resources import beside_others
from raytrain.run import RESUME_KEYS
from raytrain.settings import flat_keys
from raytrain.storage import Storage

STAGES = "stages"


@dataclass(frozen=True, eq=False)
class PlannedStage:
    """A stage of one arm, with its job."""

    stage: Stage
    job: JobConfig
    parents: tuple["PlannedStage", ...]

    @cached_property
    def digest(self) -> str:
        """Of everything that what is trained depends on, the rows aside."""
        kept = {key: value for key, value in flat_keys(self.job.model_dump(mode="json")).items() if not _is_left_out(key)}
        known = [self.stage.kind, self.stage.day.isoformat(), kept, [parent.digest for parent in self.parents]]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """Directory below ``stages/``; the run's name."""
        return f"{self.stage.name}-{self.digest[:8]}"


@dataclass(frozen=True)
class RollPlan:
    """What the roll of one arm consists of, parents first."""

    arm: str
    calendar: Calendar
    stages: tuple[PlannedStage, ...]
    contract: Contract
    natural: str
    first: date
    """The first day that was asked for."""


def plan_roll(arm: str, roll: Roll, first: date | None = None, last: date | None = None, without: Collection[date] = ()) -> RollPlan:
    """Everything that the days from ``first`` to ``last`` (None: the calendar's) need.

    Args:
        without: days of weekly models that failed; those before them take their place.

    Raises:
        ConfigError: the calendar does not fit the data set, or a day lies outside it.
        ContractError: the data set is not kept by day, or has no such domains.
    """
    calendar = roll.calendar
    first, last = checked_days(calendar, first, last)
    contract = load_contract(roll.data_path)
    natural = _natural(contract, roll, roll.data_path)
    months: dict[Kind, int] = {kind: _months(roll, kind) for kind in ("cpm", "actr")}
    chain = Chain(calendar, _days(contract, natural), months, without)
    planned: dict[Stage, PlannedStage] = {}
    for stage in in_order(chain.served(first, last)):
        parents = tuple(planned[parent] for parent in stage.parents)
        planned[stage] = PlannedStage(stage, _job(roll, stage, parents, contract, natural), parents)
    return RollPlan(arm, calendar, tuple(planned.values()), contract, natural, first)


def _job(roll: Roll, stage: Stage, parents: tuple[PlannedStage, ...], contract: Contract, natural: str) -> JobConfig:
    values = roll.job_values(stage.kind)
    directory = Storage(roll.directory).join(STAGES)
    domain = contract.target if stage.kind == "actr" else natural
    days: dict[str, Any] = {"train": stage.train, "skip_missing": roll.calendar.missing_days == "skip"}
    if stage.kind == "actr" and stage.day.isoformat() in contract.domains[domain].days:
        days["test"] = {"start": stage.day, "stop": stage.day + timedelta(days=1)}
    own = {parent.stage: parent for parent in parents}
    start: dict[str, Any] = {"snapshots": [f"{directory}/{own[snapshot].name}" for snapshot in stage.snapshots]}
    if stage.start is not None:
        transferred = stage.kind == "actr" and not stage.goes_on
        start |= {
            "run": f"{directory}/{own[stage.start].name}",
            "batch_norm": roll.calendar.actr.batch_norm if transferred else "keep",
            "optimizer": "keep" if stage.goes_on else "reset",
        }
    run = {"storage_path": directory, "save_predictions": stage.kind == "actr", "tensorboard": False}
    # A process of Ray has a directory of its own.
    data = {**values.get("data", {}), "path": Storage(roll.data_path).uri, "domain": domain, "days": days}
    # However many stages run beside it: another number of threads is another order of sums.
    job = beside_others(JobConfig.parse({**values, "data": data, "start": start, "run": run}, f"{roll.name}, {stage.name}"))
    # The name holds the digest, which the name is no part of.
    named = job.run.model_copy(update={"name": PlannedStage(stage, job, parents).name})
    return job.model_copy(update={"run": named})


def _is_left_out(key: str) -> bool:
    # Parents are part of a digest by their own; a day may be scored when its rows have come.
    others = (*RESUME_KEYS, "start.run", "start.snapshots", "data.days.test")
    return any(key == left or key.startswith(f"{left}.") for left in others)


def _months(roll: Roll, kind: Kind) -> int:
    model = JobConfig.parse(roll.job_values(kind), kind).model
    return model.months if isinstance(model, EcdctrModel) else 0


def _natural(contract: Contract, roll: Roll, path: str) -> str:
    if not contract.domains[contract.target].days:
        raise ContractError(
            f"A roll needs a data set that is kept by day. Received: {path}, kept by split. Prepare it with split.by_day=true."
        )
    sources = [name for name in contract.sources if contract.domains[name].days]
    name = roll.natural or (sources[0] if len(sources) == 1 else None)
    if name not in sources:
        raise ContractError(
            f"natural has to be a source domain with rows. Received: {name}, of {', '.join(sources) or 'none'}. Set natural."
        )
    return name


def _days(contract: Contract, natural: str) -> Days:
    dates: Mapping[str, list[str]] = {name: sorted(contract.domains[name].days) for name in (natural, contract.target)}
    first = {name: date.fromisoformat(found[0]) for name, found in dates.items()}
    return Days(first[natural], first[contract.target], frozenset(date.fromisoformat(day) for day in dates[contract.target]))
