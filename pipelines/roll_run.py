"""Runs the stages of a roll that are due, days in order; what is finished is never run twice."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from rich.console import Console

from pipelines.roll_config import Calendar
from pipelines.roll_lease import Lease
from pipelines.roll_stage import PlannedStage, RollPlan
from pipelines.roll_store import Manifest, RollStore, data_hashes, schema_hash
from pipelines.runs import Runs
from raytrain.config import CONFIG_FILE
from raytrain.data.contract import CONTRACT_FILE, Contract, load_contract
from raytrain.data.days import contract_of
from raytrain.errors import RaytrainError, RunError
from raytrain.storage import masked

State = Literal["finished", "failed", "blocked"]
RESULT_KEYS = ("rows_trained", "rows_quarantined", "num_steps", "train_samples_per_s", "wall_s", "best_checkpoint", "test", "starts")


@dataclass
class Outcome:
    """How a stage ended."""

    planned: PlannedStage
    state: State
    manifest: Manifest | None = None
    error: str | None = None
    ran_s: float = 0.0
    """0 for a stage that was finished before"""


@dataclass
class _Running:
    planned: PlannedStage
    started: float


@dataclass
class RollRunner:
    """Runs stages into a store."""

    store: RollStore
    contract: Contract
    console: Console
    runs: Runs
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _calendars: dict[str, Calendar] = field(default_factory=dict)
    """Name of a stage -> calendar of the first arm that has it"""

    def run(self, plans: Iterable[RollPlan], lease: Lease) -> None:
        """Every stage of every arm once, in order where there is no room for more; one that fails stops only what is made from it.

        Raises:
            LeaseLostError: another roll has taken the directory over; nothing is written after it has.
        """
        left: dict[str, PlannedStage] = {}
        for plan in plans:
            for planned in plan.stages:
                if planned.name not in self.outcomes and planned.name not in left:
                    left[planned.name] = planned
                    self._calendars[planned.name] = plan.calendar
        num_stages = len(left)
        running: dict[str, _Running] = {}
        while left or running:
            lease.check_known()
            while len(running) < self.runs.room and (ready := self._ready(left.values())):
                lease.check()
                # Room for one more: what is finished, or cannot be, takes none.
                del left[ready.name]
                outcome = self._settled(ready)
                if outcome is None:
                    place = f"stage {num_stages - len(left)} of {num_stages}"
                    time_left = self._time_left([ready, *left.values(), *(other.planned for other in running.values())])
                    self.console.print(f"[bold]{place}: {ready.name}[/bold]  {described(ready)}  {time_left}", highlight=False)
                    running[ready.name] = _Running(ready, time.monotonic())
                    outcome = self._begun(ready)
                if outcome is not None:
                    running.pop(ready.name, None)
                    self.outcomes[ready.name] = outcome
            # With none running there is no room yet: a process has to start.
            ended = self.runs.next() if running or left else None
            if ended is not None:
                # Training takes long: whoever has taken the directory over since is the one to write.
                lease.check()
                name, result = ended
                self.outcomes[name] = self._ended(running.pop(name), result)

    def of(self, plan: RollPlan) -> list[Outcome]:
        """How the stages of an arm ended."""
        return [self.outcomes[planned.name] for planned in plan.stages]

    def _ready(self, left: Iterable[PlannedStage]) -> PlannedStage | None:
        """The first one whose parents have ended, whatever way."""
        return next((planned for planned in left if all(parent.name in self.outcomes for parent in planned.parents)), None)

    def _settled(self, planned: PlannedStage) -> Outcome | None:
        """How a stage that is not to be trained ends; None for one that is."""
        broken = [parent.name for parent in planned.parents if self.outcomes[parent.name].state != "finished"]
        if broken:
            error = f"needs {', '.join(broken)}"
            self.console.print(f"{planned.name}: left out, {error}", style="yellow", highlight=False)
            return Outcome(planned, "blocked", error=error)
        try:
            read = self.store.read(planned.name)
            if read is not None:
                self._check_data(planned, read[0])
            else:
                self._check_age(planned)
            parents = self.store.parents(planned)
            anew = [name for name, (_, now) in parents.items() if read is not None and read[0].parents.get(name) != now]
            if anew:
                self.console.print(
                    f"warning: {planned.name} was made from another {', '.join(anew)} than there is now; delete it to make it anew",
                    style="yellow",
                    highlight=False,
                )
        except Exception as err:  # As below.
            return self._failed(planned, err)
        return Outcome(planned, "finished", read[0]) if read is not None else None

    def _begun(self, planned: PlannedStage) -> Outcome | None:
        """None where training has begun."""
        try:
            self.runs.begin(planned.name, planned.job, self._can_go_on(planned))
        except Exception as err:  # As below.
            return self._failed(planned, err)
        return None

    def _ended(self, running: _Running, result: dict[str, Any] | Exception) -> Outcome:
        planned, ran_s = running.planned, time.monotonic() - running.started
        if isinstance(result, Exception):
            return self._failed(planned, result)
        try:
            manifest = self.store.commit(planned, self.contract, {key: result[key] for key in RESULT_KEYS if key in result})
        except Exception as err:  # One stage's failure, of whatever kind, must not cost those that are not made from it.
            return self._failed(planned, err)
        return Outcome(planned, "finished", manifest, ran_s=ran_s)

    def _failed(self, planned: PlannedStage, err: Exception) -> Outcome:
        error = masked(str(err) if isinstance(err, RaytrainError) else f"{type(err).__name__}: {err}")
        self.console.print(f"{planned.name} failed: {error}", style="red", markup=False, highlight=False)
        return Outcome(planned, "failed", error=error)

    def _can_go_on(self, planned: PlannedStage) -> bool:
        """Whether the stage was begun on the rows that there are now; one that was begun on others is deleted."""
        run = self.store.run(planned)
        if not run.exists(CONFIG_FILE):
            return False
        same = run.exists(CONTRACT_FILE) and load_contract(run.uri) == contract_of(planned.job.data)
        if not same:
            self.console.print(f"{planned.name}: its data set was prepared anew since it was begun, so it begins again", highlight=False)
            run.delete_dir("")
        return same

    def _check_data(self, planned: PlannedStage, manifest: Manifest) -> None:
        """Raises RunError where a finished stage was trained on other rows, or on other tables, than there are now."""
        if manifest.contract != schema_hash(self.contract):
            raise RunError(
                f"A chain goes on with the tables and features it was begun with. Received: {planned.job.data.path}, whose tables or "
                f"features are not those that {planned.name} was trained with. Prepare the data set as it was, or set another output."
            )
        if self._calendars[planned.name].changed_data == "keep":
            return
        now = data_hashes(self.contract, planned)
        changed = sorted(day for day in {**manifest.data, **now} if manifest.data.get(day) != now.get(day))
        if changed:
            raise RunError(
                f"A stage is finished with the rows it was trained on. Received: {planned.name}, and other rows now on "
                f"{', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''}. Set calendar.changed_data=keep to go on with it, "
                "or delete its directory to train it, and what is made from it, anew."
            )

    def _check_age(self, planned: PlannedStage) -> None:
        """Raises RunError, or warns, where a parent is too old for the day that is served."""
        if planned.stage.kind != "actr":
            return
        calendar = self._calendars[planned.name]
        for newest, days in _limits(calendar, planned):
            age = (planned.stage.day - newest.day).days
            if age > days:
                text = f"{planned.name} would be made from {newest.name}, {age} days old, calendar.{newest.kind}.max_age_days={days}"
                if calendar.stale == "stop":
                    raise RunError(f"A parent may not be stale. Received: {text}. Roll what is due, raise it, or set calendar.stale=warn.")
                self.console.print(f"warning: {text}", style="yellow", highlight=False)

    def _time_left(self, left: Sequence[PlannedStage]) -> str:
        """From the mean time of stages of each kind that ran here."""
        ran: dict[str, list[float]] = {}
        for outcome in self.outcomes.values():
            # Less is a stage that had only to be closed.
            if outcome.ran_s > 1.0:
                ran.setdefault(outcome.planned.stage.kind, []).append(outcome.ran_s)
        if not ran:
            return "time left: known after the first stage"
        most = widest(left)
        known = [seconds for of_kind in ran.values() for seconds in of_kind]
        left_s = 0.0
        for planned in left:
            of_kind = ran.get(planned.stage.kind, known)
            left_s += sum(of_kind) / len(of_kind) / min(self.runs.room, most)
        about = "about" if all(planned.stage.kind in ran for planned in left) else "at least"
        return f"{about} {int(left_s // 3600)}:{int(left_s // 60 % 60):02d}:{int(left_s % 60):02d} left"


def described(planned: PlannedStage) -> str:
    """What a stage is trained on and from, in a line."""
    span, stage = planned.stage.train, planned.stage
    start = f", from {stage.start.name}" if stage.start else ""
    months = f", snapshots {', '.join(str(snapshot.day) for snapshot in stage.snapshots)}" if stage.snapshots else ""
    return f"{planned.job.data.domain} {span.start} to {last_day(span.stop)}{start}{months}"


def last_day(stop: date) -> date:
    return date.fromordinal(stop.toordinal() - 1)


def widest(stages: Iterable[PlannedStage]) -> int:
    """How many of ``stages`` can run at one time at most, as far as generations say: of stages that are as many parents deep."""
    depths: dict[str, int] = {}
    for planned in stages:
        depths[planned.name] = 1 + max((depths.get(parent.name, 0) for parent in planned.parents), default=0)
    return max(Counter(depths.values()).values(), default=0)


def _limits(calendar: Calendar, planned: PlannedStage) -> list[tuple[Any, int]]:
    found = []
    if planned.stage.snapshots and calendar.tpm is not None:
        found.append((planned.stage.snapshots[-1], calendar.tpm.max_age_days))
    if planned.stage.start is not None and planned.stage.start.kind == "cpm" and calendar.cpm is not None:
        found.append((planned.stage.start, calendar.cpm.max_age_days))
    return found


def states(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
    """State -> stages that ended so."""
    counts = {"finished": 0, "failed": 0, "blocked": 0}
    for outcome in outcomes:
        counts[outcome.state] += 1
    return counts
