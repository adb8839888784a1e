"""Which stages a day needs, as pure arithmetic on dates. Torch-free.

A stage of day t is trained on days before t alone, and so is everything that it is made from. Paper: arXiv 2408.16238, the calendar of
its three levels; what it leaves open is our choice (roll_config.py).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from pipelines.roll_config import Calendar, Kind
from raytrain.config import DaySpan
from raytrain.errors import ConfigError

MONDAY = date(1970, 1, 5)


@dataclass(frozen=True, eq=False)
class Stage:
    """One model to train."""

    kind: Kind
    day: date
    """The first day that it may serve"""
    train: DaySpan
    start: "Stage | None" = None
    """Whose weights it begins with"""
    snapshots: tuple["Stage", ...] = ()
    """oldest first"""

    @property
    def parents(self) -> tuple["Stage", ...]:
        return (*self.snapshots, *([self.start] if self.start else []))

    @property
    def goes_on(self) -> bool:
        """Whether it continues a model of its own kind, optimizer and all, rather than being transferred from another."""
        return self.start is not None and self.start.kind == self.kind == "actr"

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.day}"


@dataclass(frozen=True)
class Days:
    """What there is: the first day of natural content, the first of ads, and the days that have ads."""

    natural_start: date
    ads_start: date
    ads: frozenset[date]


class Chain:
    """The stages of one calendar; a stage that several days need is one object."""

    def __init__(self, calendar: Calendar, days: Days, months: Mapping[Kind, int], without: Collection[date] = ()) -> None:
        """
        Args:
            months: snapshots that a stage of each kind reads.
            without: days of weekly models that there are none of; the ones before them serve.

        Raises:
            ConfigError: the first day has no ads before it.
        """
        if calendar.first_day <= days.ads_start:
            raise ConfigError(
                f"The first day that is served has to have ads before it. Received: calendar.first_day={calendar.first_day}, "
                f"ads from {days.ads_start} on. Move it."
            )
        self._calendar, self._days, self._months, self._without = calendar, days, months, without
        self._cpms: dict[date, Stage] = {}
        self._tpms: dict[date, Stage] = {}

    def served(self, first: date, last: date) -> Iterator[Stage]:
        """The daily model of each day from ``first`` to ``last``, itself included; every other stage is a parent of one of them."""
        before: Stage | None = None
        for number in range((last - self._calendar.first_day).days + 1):
            day = self._calendar.first_day + timedelta(days=number)
            if self._calendar.missing_days == "skip" and day - timedelta(days=1) not in self._days.ads:
                continue
            before = self._actr(day, before)
            if day >= first:
                yield before

    def _actr(self, day: date, before: Stage | None) -> Stage:
        section, cpm = self._calendar.actr, self._cpm(day)
        if before is None or section.mode == "window" or (cpm is not None and cpm.day > before.day):
            span = _span(day, section.window_days, self._days.ads_start)
            return Stage("actr", day, span, cpm, self._snapshots("actr", span))
        span = DaySpan(start=before.train.stop, stop=day)
        return Stage("actr", day, span, before, self._snapshots("actr", span))

    def _cpm(self, day: date) -> Stage | None:
        """The latest weekly model that may serve ``day``; None where there is no content before it."""
        section = self._calendar.cpm
        if section is None:
            return None
        due = _week(day, section.every_days)
        while due in self._without:
            due -= timedelta(days=section.every_days)
        if due <= self._days.natural_start:
            return None
        if due not in self._cpms:
            first = _week(self._calendar.first_day, section.every_days)
            # Weeks before the chain begins are not made for their successors' sake.
            before = self._cpm(due - timedelta(days=1)) if section.begin == "previous" and due > first else None
            span = _span(due, section.window_days, self._days.natural_start)
            self._cpms[due] = Stage("cpm", due, span, before, self._snapshots("cpm", span))
        return self._cpms[due]

    def _snapshots(self, kind: Kind, span: DaySpan) -> tuple[Stage, ...]:
        """The monthly models that rows of ``span`` and of the day after it may see, oldest first.

        A row sees the latest ones before it, as many as a stage of ``kind`` reads: one that was trained on the row itself would give
        its label away. So the first row's are needed, and every one since.
        """
        section, count = self._calendar.tpm, self._months[kind]
        if section is None or not count:
            return ()
        before: Stage | None = None
        found = []
        for month in self._firsts(span.stop):
            if month not in self._tpms:
                own = _span(month, section.first_days, self._days.natural_start)
                if before is not None and section.mode == "incremental":
                    own = DaySpan(start=before.day, stop=month)
                self._tpms[month] = Stage("tpm", month, own, before)
            before = self._tpms[month]
            found.append(before)
        since = sum(stage.day > span.start for stage in found)
        return tuple(found[-(count + since) :])

    def _firsts(self, day: date) -> list[date]:
        """Firsts of the months from the oldest snapshot that the chain's first day needs up to ``day``, after the first day of content."""
        calendar = self._calendar
        first = calendar.first_day - timedelta(days=calendar.actr.window_days)
        if calendar.cpm is not None:
            # A weekly model may be older than the first day that it serves.
            first = min(first, _week(calendar.first_day, calendar.cpm.every_days) - timedelta(days=calendar.cpm.window_days))
        oldest = first.replace(day=1)
        for _ in range(max(self._months.values()) - 1):
            oldest = (oldest - timedelta(days=1)).replace(day=1)
        months = []
        while oldest <= day:
            months += [oldest] if oldest > self._days.natural_start else []
            oldest = (oldest + timedelta(days=31)).replace(day=1)
        return months


def in_order(stages: Iterable[Stage]) -> list[Stage]:
    """The stages and everything that they are made from, parents first."""
    found: dict[Stage, None] = {}
    for stage in stages:
        waiting = [stage]
        while waiting:
            missing = [parent for parent in waiting[-1].parents if parent not in found]
            if missing:
                waiting += missing[::-1]
            else:
                found[waiting.pop()] = None
    return list(found)


def _week(day: date, every_days: int) -> date:
    return day - timedelta(days=(day - MONDAY).days % every_days)


def _span(stop: date, num_days: int, earliest: date) -> DaySpan:
    return DaySpan(start=max(stop - timedelta(days=num_days), earliest), stop=stop)
