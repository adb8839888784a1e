"""Rows kept by day: the days (UTC) of every domain, each a part of the samples of its own as a split is."""

from dataclasses import dataclass
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt

from raytrain.data.prepare.spec import SplitRule
from raytrain.errors import DataError

DAY_S = 86_400
MAX_DAYS = 4_000
"""Of a domain: each is a directory of its own and an entry of the contract."""


@dataclass(frozen=True)
class Days:
    """Every domain's days that have samples; a day's part of the rows depends on that day's rows alone."""

    numbers: dict[str, npt.NDArray[np.int64]]
    """domain -> days since 1970-01-01, ascending"""
    known_until: int | None
    """Seconds: means, deviations and known slices are of rows strictly before it; None takes all rows."""

    def names(self, domain: str) -> tuple[str, ...]:
        """ISO dates, ascending."""
        return tuple(str(day) for day in self.numbers[domain].astype("datetime64[D]"))

    def part_of(self, domain: str, time: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
        """[N] index into ``names(domain)``"""
        return np.searchsorted(self.numbers[domain], day_of(time)).astype(np.int16)

    def is_known(self, time: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """[N]"""
        return np.ones(len(time), bool) if self.known_until is None else time < self.known_until


def day_of(time: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """[N] days since 1970-01-01 (UTC) of Unix seconds; floored, so that times before 1970 keep their day."""
    return time // DAY_S


def days_of(found: dict[str, npt.NDArray[np.int64]], rule: SplitRule, target: str) -> Days:
    """The days that the scan found, domain -> distinct days, ascending; a source may have none, and be a history alone.

    Raises:
        DataError: a domain has more than ``MAX_DAYS`` days, or the target, which has one, none before ``known_until``.
    """
    until = None if rule.known_until is None else midnight(rule.known_until)
    for domain, numbers in found.items():
        if len(numbers) > MAX_DAYS:
            raise DataError(
                f"Rows kept by day may be of {MAX_DAYS:,} days. Received: domain {domain} with {len(numbers):,}. Check keys.time.unit."
            )
    days = Days(found, until)
    if until is not None and not days.is_known(found[target][:1] * DAY_S).all():
        raise DataError(
            "The target has to have a day before split.known_until. "
            f"Received: known_until={rule.known_until}, the first day is {days.names(target)[0]}. Set a later one."
        )
    return days


def midnight(day: date) -> int:
    """Unix second that a day begins at (UTC)."""
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
