"""Which stages a day needs: nothing may see the day that it serves, and a part of the calendar needs what the whole does."""

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise, takewhile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.roll_calendar import Chain, Days, Stage, in_order
from pipelines.roll_config import ActrCalendar, Calendar, CpmCalendar, Kind, TpmCalendar
from raytrain.config import DaySpan
from raytrain.errors import ConfigError
from tests.messages import assert_three_parts

START = date(2020, 1, 1)


def after(number: int) -> date:
    return START + timedelta(days=number)


def days(num_days: int = 500, ads_start: int = 0, missing: frozenset[int] = frozenset()) -> Days:
    return Days(START, after(ads_start), frozenset(after(number) for number in range(ads_start, num_days) if number not in missing))


def calendar(first: int = 100, last: int = 120, **sections: Any) -> Calendar:
    return Calendar(first_day=after(first), last_day=after(last), **sections)


def served(section: Calendar, there: Days, months: int = 3, first: date | None = None) -> list[Stage]:
    of_kind: dict[Kind, int] = {"cpm": months, "actr": months}
    return list(Chain(section, there, of_kind).served(first or section.first_day, section.last_day))


def ancestors(stage: Stage) -> list[Stage]:
    """Of a stage, itself left out."""
    return in_order([stage])[:-1]


@st.composite
def chains(draw: st.DrawFn) -> tuple[Calendar, Days, int]:
    """A calendar, its days and how many snapshots are read."""
    first = draw(st.integers(1, 200))
    tpm = st.builds(TpmCalendar, first_days=st.integers(1, 200), mode=st.sampled_from(["incremental", "window"]))
    cpm = st.builds(
        CpmCalendar, every_days=st.integers(1, 20), window_days=st.integers(1, 60), begin=st.sampled_from(["scratch", "previous"])
    )
    actr = st.builds(ActrCalendar, mode=st.sampled_from(["window", "incremental"]), window_days=st.integers(1, 60))
    section = calendar(
        first,
        first + draw(st.integers(0, 40)),
        tpm=draw(st.none() | tpm),
        cpm=draw(st.none() | cpm),
        actr=draw(actr),
        missing_days=draw(st.sampled_from(["stop", "skip"])),
    )
    missing = draw(st.frozensets(st.integers(1, 240), max_size=60))
    return section, days(240, draw(st.integers(0, first - 1)), missing), draw(st.integers(0, 6))


def firsts(day: date) -> Iterator[date]:
    """Firsts of months from the one of ``day`` backwards."""
    while True:
        day = day.replace(day=1)
        yield day
        day -= timedelta(days=1)


@given(chains())
def test_nothing_is_trained_on_the_day_that_it_serves_or_later(drawn: tuple[Calendar, Days, int]) -> None:
    for stage in served(*drawn):
        assert stage.train.stop <= stage.day
        for ancestor in ancestors(stage):
            assert ancestor.day <= stage.day
            assert ancestor.train.start < ancestor.train.stop <= stage.day


@given(chains())
def test_a_stage_is_one_object_and_comes_after_its_parents(drawn: tuple[Calendar, Days, int]) -> None:
    ordered = in_order(served(*drawn))
    assert len({(stage.kind, stage.day) for stage in ordered}) == len(ordered)
    place = {stage: number for number, stage in enumerate(ordered)}
    assert all(place[parent] < place[stage] for stage in ordered for parent in stage.parents)


@given(chains())
def test_snapshots_are_those_that_some_row_may_see_oldest_first(drawn: tuple[Calendar, Days, int]) -> None:
    """The latest ones before the first row, and every one since, for later rows and the day that is served."""
    section, there, months = drawn
    for stage in in_order(served(*drawn)):
        if stage.kind == "tpm":
            continue
        since = list(takewhile(lambda first, start=stage.train.start: first > start, firsts(stage.day)))
        before = [first for first, _ in zip(firsts(stage.train.start), range(months), strict=False)]
        wanted = [first for first in [*since, *before] if first > there.natural_start]
        assert [snapshot.day for snapshot in stage.snapshots] == (wanted[::-1] if section.tpm and months else [])


@given(chains(), st.integers(0, 40))
def test_a_later_beginning_needs_the_same_stages(drawn: tuple[Calendar, Days, int], later: int) -> None:
    section, there, months = drawn
    first = min(section.first_day + timedelta(days=later), section.last_day)

    def described(stage: Stage) -> tuple[Any, ...]:
        return (stage.kind, stage.day, stage.train.start, stage.train.stop, tuple(described(parent) for parent in stage.snapshots))

    whole = {(stage.kind, stage.day): stage for stage in in_order(served(section, there, months))}
    for stage in in_order(served(section, there, months, first)):
        same = whole[stage.kind, stage.day]
        assert described(stage) == described(same)
        assert [parent.name for parent in stage.parents] == [parent.name for parent in same.parents]


@given(chains())
def test_a_window_never_goes_on_and_covers_its_days(drawn: tuple[Calendar, Days, int]) -> None:
    section, there, _ = drawn
    for stage in served(*drawn):
        if section.actr.mode == "window":
            assert not stage.goes_on
            assert stage.train == DaySpan(start=max(stage.day - timedelta(days=section.actr.window_days), there.ads_start), stop=stage.day)


@given(chains())
def test_incremental_days_train_on_every_day_once_and_begin_anew_with_a_new_cpm(drawn: tuple[Calendar, Days, int]) -> None:
    section, _, _ = drawn
    if section.actr.mode == "window":
        return
    stages = served(*drawn)
    for before, stage in pairwise(stages):
        if stage.goes_on:
            assert stage.start is before
            assert stage.train == DaySpan(start=before.day, stop=stage.day)
        else:
            assert stage.start is not None
            assert stage.start.kind == "cpm"
            assert before.day < stage.start.day <= stage.day
    if section.cpm is None:
        assert all(stage.goes_on for stage in stages[1:])


def test_an_example_by_hand() -> None:
    """2020-03-10, a Tuesday, to 17: two weeks, two snapshots of content since 1 January."""
    section = calendar(69, 76, tpm=TpmCalendar(first_days=20), actr=ActrCalendar(mode="incremental", window_days=5))
    stages = in_order(served(section, days(), months=2))
    found = {
        stage.name: (str(stage.train.start), str(stage.train.stop), stage.start and stage.start.name, [s.name for s in stage.snapshots])
        for stage in stages
    }
    snapshots = ["tpm-2020-02-01", "tpm-2020-03-01"]
    assert found["tpm-2020-02-01"] == ("2020-01-12", "2020-02-01", None, [])
    assert found["tpm-2020-03-01"] == ("2020-02-01", "2020-03-01", "tpm-2020-02-01", [])
    assert found["cpm-2020-03-09"] == ("2020-02-08", "2020-03-09", None, snapshots)
    assert found["actr-2020-03-10"] == ("2020-03-05", "2020-03-10", "cpm-2020-03-09", snapshots)
    assert found["actr-2020-03-11"] == ("2020-03-10", "2020-03-11", "actr-2020-03-10", snapshots)
    assert found["cpm-2020-03-16"] == ("2020-02-15", "2020-03-16", None, snapshots)
    assert found["actr-2020-03-16"] == ("2020-03-11", "2020-03-16", "cpm-2020-03-16", snapshots)
    assert found["actr-2020-03-17"] == ("2020-03-16", "2020-03-17", "actr-2020-03-16", snapshots)
    assert len(found) == 2 + 2 + 8
    assert [stage.name for stage in stages[:3]] == ["tpm-2020-02-01", "tpm-2020-03-01", "cpm-2020-03-09"]


def test_a_weekly_model_may_begin_with_the_one_before() -> None:
    stages = served(calendar(69, 84, cpm=CpmCalendar(begin="previous")), days())
    weekly = [stage for stage in in_order(stages) if stage.kind == "cpm"]
    assert [str(stage.day) for stage in weekly] == ["2020-03-09", "2020-03-16", "2020-03-23"]
    assert [stage.start for stage in weekly] == [None, *weekly[:-1]]


def test_a_year_of_days_that_go_on_is_no_deeper_than_it_may_be() -> None:
    section = calendar(10, 410, cpm=None, tpm=None, actr=ActrCalendar(mode="incremental"))
    stages = in_order(served(section, days(), months=0))
    assert len(stages) == 401
    assert len(ancestors(stages[-1])) == 400


def test_a_day_without_ads_the_day_before_has_the_former_model() -> None:
    section = calendar(100, 103, missing_days="skip", cpm=None, actr=ActrCalendar(mode="incremental"))
    stages = served(section, days(missing=frozenset({100})))
    assert [stage.day for stage in stages] == [after(100), after(102), after(103)]
    assert stages[1].train == DaySpan(start=after(100), stop=after(102))


def test_the_first_day_needs_ads_before_it() -> None:
    with pytest.raises(ConfigError) as error:
        served(calendar(100), days(ads_start=100))
    assert_three_parts(error.value, "calendar.first_day=2020-04-10", "ads from 2020-04-10 on")
