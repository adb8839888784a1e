"""A roll: which model is refreshed when, on which days, from which parents. Torch-free.

    raytrain roll pipelines/rolls/complete_journey.yaml --dry-run

The sections ``tpm``, ``cpm`` and ``actr`` are laid over ``base``; together they are the job of that kind of stage, for all but what
the calendar decides: domain, days, start.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from raytrain.config import JobConfig, check_kind, read_text
from raytrain.errors import ConfigError
from raytrain.settings import Section, nearest, parse_yaml, with_overrides

Kind = Literal["tpm", "cpm", "actr"]
KINDS: tuple[Kind, ...] = ("tpm", "cpm", "actr")
DECIDED = ("data.domain", "data.days", "start", "run")
"""Keys of a stage's job that the calendar and the roll directory decide."""
REFERENCE = "full"
"""The arm that is the config as it stands."""


class TpmCalendar(Section):
    """A monthly snapshot of natural content, on the first of the month. Half a year is the paper's; the rest our choice."""

    first_days: PositiveInt = 182
    """Days that the first snapshot is trained on, as far as there are so many."""
    mode: Literal["incremental", "window"] = "incremental"
    """Later ones start from the one before. incremental: and train on the month since. window: and train on ``first_days`` again."""
    max_age_days: PositiveInt = 45
    """Of the newest snapshot on the day that is served."""


class CpmCalendar(Section):
    """The weekly model of natural content."""

    every_days: PositiveInt = 7
    """Counted from Monday, 5 January 1970: weeks begin on Mondays."""
    window_days: PositiveInt = 30
    begin: Literal["scratch", "previous"] = "scratch"
    """From drawn weights, or from the one before."""
    max_age_days: PositiveInt = 14
    on_failure: Literal["stop", "former"] = "stop"
    """Of a model that failed. former: its days are served from the one before it, as long as ``max_age_days`` and ``stale`` allow; the
    next roll tries the failed one again, and with it those days."""


class ActrCalendar(Section):
    """The daily model of ads, which is served."""

    mode: Literal["window", "incremental"] = "window"
    """window: start from the latest CPM and train on ``window_days``. incremental: go on from yesterday's with yesterday's ads, and
    start from CPM anew whenever there is a new one."""
    window_days: PositiveInt = 30
    batch_norm: Literal["keep", "reset_statistics", "reset"] = "reset"
    """What becomes of CPM's batch norm: ads are distributed otherwise."""


class Calendar(Section):
    first_day: date
    """The first day that is served. The chain begins here, whatever part of it is asked for."""
    last_day: date
    """The last one, itself included."""
    tpm: TpmCalendar | None = TpmCalendar()
    """null: no snapshots."""
    cpm: CpmCalendar | None = CpmCalendar()
    """null: the daily model begins with drawn weights."""
    actr: ActrCalendar = ActrCalendar()
    stale: Literal["stop", "warn"] = "stop"
    """What to do where the newest snapshot, or CPM, is older than its ``max_age_days`` allows."""
    missing_days: Literal["stop", "skip"] = "stop"
    """stop: a stage fails whose days have no rows. skip: it trains on the days that there are, and a day without ads the day before
    is served by the model that there is."""
    changed_data: Literal["stop", "keep"] = "stop"
    """What to do where a finished stage was trained on days that have been prepared anew with other rows."""


class Forgetting(Section):
    """Which users count as back after a pause: a model that goes on from day to day may have forgotten them."""

    pause_days: PositiveInt = 28
    """Days without any event of theirs, in any domain, that ended"""
    back_days: PositiveInt = 7
    """at most so many days before the row. Everybody else with an event in those days is steady."""


class Roll(Section):
    """The file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    calendar: Calendar
    base: dict[str, Any]
    """What the jobs of all stages have in common; ``base.data.path`` is the data set."""
    tpm: dict[str, Any] = Field(default_factory=lambda: {"model": {"name": "tpm"}})
    cpm: dict[str, Any] = Field(default_factory=lambda: {"model": {"name": "ecdctr"}})
    actr: dict[str, Any] = Field(default_factory=lambda: {"model": {"name": "ecdctr"}})
    natural: str | None = None
    """Domain of natural content; null takes the data set's one source. Ads are its target."""
    output: str | None = None
    """Directory of the stages and the report; null: runs/rolls/<name>."""
    seeds: tuple[NonNegativeInt, ...] = ()
    """Every arm is rolled once a seed, and figures are means over them; none takes ``base.seed`` alone."""
    arms: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Name -> overrides of this file, such as [calendar.cpm=null]. Rolled beside the chain itself and compared with it; stages that
    arms have in common run once."""
    max_concurrent: PositiveInt | None = None
    """Stages at one time, of all arms, where none is made from another; null: as many as the cluster has room for. In_process stages are
    spread over its processes, a core each unless scaling.threads_per_worker says more."""
    forgetting: Forgetting = Forgetting()
    num_resamples: PositiveInt = 1000

    @property
    def directory(self) -> str:
        return self.output or f"runs/rolls/{self.name}"

    @property
    def data_path(self) -> str:
        return str(self.base.get("data", {}).get("path"))

    @property
    def all_seeds(self) -> tuple[int, ...]:
        return self.seeds or (int(self.base.get("seed", 0)),)

    def with_seed(self, seed: int) -> "Roll":
        return self.model_copy(update={"base": {**self.base, "seed": seed}})

    def job_values(self, kind: Kind) -> dict[str, Any]:
        """The job of a kind of stage, before the calendar's part of it."""
        return _laid_over(self.base, getattr(self, kind))


def load_roll(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Roll]:
    """Arm -> its roll, ``REFERENCE`` first.

    Raises:
        ConfigError: the file is missing or no YAML, or a key or a value of any arm is not right.
    """
    values = parse_yaml(read_text(path), str(path))
    check_kind(values, str(path), "calendar")
    values = with_overrides(values, overrides)
    full = checked_roll(values, str(path))
    if REFERENCE in full.arms:
        raise ConfigError(f"{path}: Arm {REFERENCE} is the file as it stands. Received: arms.{REFERENCE}. Rename it.")
    arms = {name: checked_roll(with_overrides(values, changes), f"{path}, arm {name}") for name, changes in full.arms.items()}
    for name, arm in arms.items():
        if full.seeds and arm.base.get("seed") != full.base.get("seed"):
            raise ConfigError(f"{path}: seeds are of every arm. Received: arm {name} with base.seed={arm.base['seed']}. Remove it.")
        own, shared = ({"data": one.data_path, "directory": one.directory, "seeds": one.all_seeds} for one in (arm, full))
        if own != shared:
            raise ConfigError(
                f"{path}: Arms share a data set, a directory and seeds. Received: arm {name} with {own}, the file with {shared}. "
                "Roll it from a file of its own."
            )
    return {REFERENCE: full} | arms


def checked_roll(values: Mapping[str, Any], origin: str) -> Roll:
    """One arm of a file that has been read. Raises ConfigError as ``load_roll`` does."""
    roll = Roll.parse(values, origin)
    if roll.calendar.first_day > roll.calendar.last_day:
        raise ConfigError(
            f"{origin}: The first day has to come before the last. Received: calendar.first_day={roll.calendar.first_day}, "
            f"last_day={roll.calendar.last_day}. Move one."
        )
    if len(set(roll.seeds)) < len(roll.seeds):
        raise ConfigError(f"{origin}: A seed stands for one roll. Received: seeds={list(roll.seeds)}. Name each once.")
    if roll.seeds and (given := [kind for kind in KINDS if "seed" in getattr(roll, kind)]):
        raise ConfigError(f"{origin}: seeds are of every stage. Received: {given[0]}.seed beside seeds={list(roll.seeds)}. Remove one.")
    for kind in KINDS:
        job_values = roll.job_values(kind)
        for key in DECIDED:
            if _given(job_values, key):
                raise ConfigError(f"{origin}: The calendar decides {key}. Received: {kind}.{key}. Remove it from base and {kind}.")
        job = JobConfig.parse(job_values, f"{origin}, {kind}")
        if (job.model.name == "tpm") != (kind == "tpm"):
            raise ConfigError(f"{origin}: Stage {kind} has another model. Received: {kind}.model.name={job.model.name}. Change it.")
    return roll


def chosen_arms(rolls: dict[str, Roll], arms: Sequence[str]) -> dict[str, Roll]:
    """The rolls of the chain itself and of ``arms``; of all where none is named.

    Raises:
        ConfigError: there is no such arm.
    """
    for name in arms:
        if name not in rolls:
            near = nearest(name, rolls) if len(rolls) > 1 else "There are none, as after arms={}."
            raise ConfigError(f"An arm has to be one of the roll's. Received: {name}. {near}")
    return {name: roll for name, roll in rolls.items() if not arms or name in (REFERENCE, *arms)}


def checked_days(calendar: Calendar, first: date | None = None, last: date | None = None) -> tuple[date, date]:
    """The days from ``first`` to ``last``, None being the calendar's.

    Raises:
        ConfigError: they are in the wrong order, or outside the calendar.
    """
    first, last = first or calendar.first_day, last or calendar.last_day
    if first > last:
        raise ConfigError(f"The first day has to come before the last. Received: from {first} to {last}. Exchange them.")
    if not calendar.first_day <= first <= last <= calendar.last_day:
        raise ConfigError(
            f"Days have to lie in the calendar, {calendar.first_day} to {calendar.last_day}. Received: from {first} to {last}. Move them, "
            "or calendar.first_day and calendar.last_day."
        )
    return first, last


def _given(values: Mapping[str, Any], key: str) -> bool:
    found: Any = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return found is not None


def _laid_over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A section named anew (``model: {name: ...}``) takes the place of the whole one below it."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _laid_over(merged[key], value) if both and "name" not in value else value
    return merged
