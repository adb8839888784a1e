"""Figures of a roll against numbers by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.roll_config import REFERENCE, Forgetting
from pipelines.roll_figures import MIN_ROWS, by_day, compared, cost, forgetting, metrics_of, seeds_disagree, sides, spread_of
from pipelines.roll_scores import ServedRows, days_away, scored, served_rows
from pipelines.roll_snapshots import drift, known_users, procrustes
from raytrain.data.contract import load_contract
from raytrain.storage import Storage
from tests.data.build import DAY_S, START, DomainRows, Events, build_dataset, numbered_samples, write_dataset
from tests.pipelines.fake_rolls import FakeTrain, day, roll, roll_values, run_directory, store_of


def rows(prediction: list[float], label: list[int], group: list[int] | None = None, on: list[int] | None = None) -> ServedRows:
    count = len(label)
    columns = (on or [18_000] * count, group or [1] * count, list(range(count)))
    return ServedRows(*(np.asarray(column) for column in columns), np.asarray(label, np.float32), np.asarray([prediction], np.float32))


def events(*found: tuple[int, float]) -> Events:
    """(user, days after START)"""
    user, when = (np.array(column) for column in zip(*found, strict=True))
    return Events(user, np.ones(len(user), np.int64), (START + when * DAY_S).astype(np.int64), np.ones(len(user), np.int64))


def test_days_away_are_counted_from_the_newest_event_before_a_row_in_any_domain(tmp_path: Path) -> None:
    splits = {"train": numbered_samples(4)}
    domains = {
        "target": DomainRows(splits, events((1, 0), (1, 2), (4, 1))),
        "source": DomainRows({}, events((1, 1), (2, 5), (4, 3)), role="source"),
    }
    contract = write_dataset(tmp_path, domains)
    expected = [
        (1, 2.0, 1.0, "an event at the row's own time is not before it"),
        (1, 2.5, 0.5, "one of the target"),
        (1, 1.25, 0.25, "one of the source"),
        (1, 0.0, np.inf, "none before the first"),
        (2, 3.0, np.inf, "the only one is later"),
        (2, 6.0, 1.0, "of the source alone"),
        (4, 2.0, 1.0, "a later one of the other domain does not count"),
        (9, 6.0, np.inf, "no history"),
        (3, 6.0, np.inf, "no history, between users that have one"),
    ]
    user, when, away, why = (list(column) for column in zip(*expected, strict=True))
    time = (START + np.array(when) * DAY_S).astype(np.int64)
    zeros = np.zeros(len(user))
    found = days_away(contract, str(tmp_path), ServedRows(zeros, np.array(user), time, zeros, zeros[None]))
    assert dict(zip(why, found.tolist(), strict=True)) == dict(zip(why, away, strict=True))
    # User 1 came back at day 2: of the pause before it, the event at day 1 is the other end.
    back = ServedRows(np.zeros(2), np.array([1, 4]), (START + np.array([2.5, 1.5]) * DAY_S).astype(np.int64), np.zeros(2), np.zeros((1, 2)))
    assert days_away(contract, str(tmp_path), back, back_days=1).tolist() == [1.5, np.inf]
    other = contract.model_copy(update={"group": "country"})
    assert np.isnan(days_away(other, str(tmp_path), ServedRows(zeros, np.array(user), time, zeros, zeros[None]))).all()
    assert len(days_away(contract, str(tmp_path), ServedRows(*(np.zeros(0) for _ in range(4)), np.zeros((1, 0))))) == 0


def test_metrics_pool_the_rows_of_all_days() -> None:
    # Each day ranks its two rows right; over both days, one of four pairs is wrong, or of user 1's and 2's two, none.
    served = rows([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0], group=[1, 1, 2, 2], on=[18_000, 18_000, 18_001, 18_001])
    assert metrics_of(served)["auc"] == 0.75
    assert metrics_of(served)["gauc"] == 1.0
    assert metrics_of(served)["logloss"] == pytest.approx(-np.log([0.9, 0.2, 0.3, 0.9]).mean())
    daily = by_day(served)
    assert [(record["day"], record["num_rows"], record["auc"]) for record in daily] == [("2019-04-14", 2, 1.0), ("2019-04-15", 2, 1.0)]


def test_figures_of_several_seeds_are_means_over_them() -> None:
    label, group = [1, 0] * 20, [user for user in range(20) for _ in range(2)]
    right, wrong = [0.8, 0.2] * 20, [0.2, 0.8] * 20
    one = rows(right, label, group)
    two = ServedRows(one.day, one.group, one.time, one.label, np.array([right, wrong], np.float32))
    assert metrics_of(two)["auc"] == 0.5
    assert spread_of(two)["auc"] == pytest.approx(np.std([0.0, 1.0], ddof=1))
    assert set(spread_of(one).values()) == {None}
    pair = next(pair for pair in compared({REFERENCE: two, "right": ServedRows(*_columns(one), np.array([right, right]))}, 20))
    assert (pair["metric"], pair["difference"], pair["verdict"]) == ("auc", -0.5, "worse")
    assert pair["seed_differences"] == [0.0, -1.0]
    assert seeds_disagree(pair)
    assert not seeds_disagree(pair | {"seed_differences": [-0.1, -0.9]})
    first = two.take(two.group == 0)
    assert first.predictions.shape == (2, 2)


def _columns(served: ServedRows) -> tuple[Any, ...]:
    return served.day, served.group, served.time, served.label


def test_what_is_not_defined_is_null() -> None:
    assert metrics_of(rows([0.5, 0.6], [1, 1]))["auc"] is None
    assert set(metrics_of(rows([], [])).values()) == {None}


def test_the_better_arm_is_called_better_and_equal_ones_are_undecided() -> None:
    group, label = [user for user in range(20) for _ in range(2)], [1, 0] * 20
    good, bad = rows([0.8, 0.2] * 20, label, group), rows([0.2, 0.8] * 20, label, group)
    other_rows = rows([0.8, 0.2] * 20, [0, 1] * 20, group)
    found = {
        (pair["b"], pair["metric"]): pair
        for pair in compared({REFERENCE: good, "bad": bad, "same": good, "other rows": other_rows}, num_resamples=20)
    }
    assert {name for name, _ in found} == {"bad", "same"}
    assert (found["bad", "gauc"]["difference"], found["bad", "gauc"]["low"], found["bad", "gauc"]["verdict"]) == (1.0, 1.0, "better")
    # Lower is better: the sign is that of the difference, the verdict says who wins.
    assert found["bad", "logloss"]["difference"] == pytest.approx(np.log(0.2) - np.log(0.8))
    assert found["bad", "logloss"]["verdict"] == "better"
    assert (found["same", "gauc"]["difference"], found["same", "gauc"]["verdict"]) == (0.0, "undecided")
    assert {pair["verdict"] for pair in compared({REFERENCE: bad, "good": good}, 20)} == {"worse"}


def test_arms_are_compared_on_the_days_that_both_served() -> None:
    full = rows([0.9, 0.1, 0.1, 0.9], [1, 0, 1, 0], group=[1, 1, 2, 2], on=[18_000, 18_000, 18_001, 18_001])
    other = full.take(full.day == 18_000)
    assert {pair["difference"] for pair in compared({REFERENCE: full, "other": other}, 20)} == {0.0}


def test_an_arm_that_cannot_be_compared_is_named_with_the_reason() -> None:
    full = rows([0.9, 0.1], [1, 0], on=[18_000, 18_000])
    later, changed = rows([0.9, 0.1], [1, 0], on=[18_001, 18_001]), rows([0.9, 0.1], [0, 1], on=[18_000, 18_000])
    found, refused = sides({REFERENCE: full, "same": full, "later": later, "changed": changed})
    assert set(found) == {"same"}
    assert "no scored day in common" in refused["later"]
    assert "other rows of the same days" in refused["changed"]


def test_the_forgetting_index_is_the_auc_that_a_pause_costs() -> None:
    num_users = MIN_ROWS
    group, label = np.repeat(np.arange(3 * num_users), 2).tolist(), [1, 0] * (3 * num_users)
    away = np.repeat([1.0, 40.0, np.inf], 2 * num_users)
    # Active users are ranked right, those back after a pause not at all, and new ones all wrong: they count nowhere.
    full = rows([0.9, 0.1] * num_users + [0.5, 0.5] * num_users + [0.1, 0.9] * num_users, label, group)
    kept = rows([0.9, 0.1] * 2 * num_users + [0.1, 0.9] * num_users, label, group)
    few = full.take(np.arange(20))
    found = forgetting({REFERENCE: full, "kept": kept, "few": few}, {REFERENCE: away, "kept": away, "few": away[:20]}, Forgetting(), 20)
    assert found[REFERENCE] == {
        "num_steady_rows": 2 * num_users,
        "num_back_rows": 2 * num_users,
        "steady_auc": 1.0,
        "back_auc": 0.5,
        "index": 0.5,
        "low": 0.5,
        "high": 0.5,
    }
    assert found["kept"]["index"] == 0.0
    assert found["kept"]["more_than_full"] == {"difference": -0.5, "low": -0.5, "high": -0.5}
    assert found["few"] == {"num_steady_rows": 20, "num_back_rows": 0}


def test_a_turn_of_the_axes_is_no_drift_once_it_is_undone() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(50, 4))
    turned = x @ np.linalg.qr(draw.normal(size=(4, 4)))[0]
    found = procrustes(x, turned)
    assert found["residual"] == pytest.approx(0.0, abs=1e-12)
    assert found["plain"] > 0.1
    moved = procrustes(x, 2 * x)
    assert (moved["residual"], moved["plain"]) == pytest.approx((0.5, 0.5))


@pytest.fixture(scope="module")
def rolled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[Any]]:
    """The 4th and 5th of November, whose snapshots are of October and November."""
    directory = tmp_path_factory.mktemp("figures")
    build_dataset(directory / "data", num_days=55, by_day=True)
    values = roll_values(str(directory / "data"), str(directory / "roll"), 52, 53, tpm={"first_days": 10}, actr={"window_days": 7})
    return values, roll(values, FakeTrain())


def test_costs_are_rows_and_seconds_by_kind_beside_training_all_every_day(rolled: tuple[dict[str, Any], list[Any]]) -> None:
    values, outcomes = rolled
    contract = load_contract(values["base"]["data"]["path"])

    def num_rows(domain: str, first: int, stop: int) -> int:
        days = contract.domains[domain].days
        return sum(days[day(number).isoformat()].num_rows for number in range(first, stop) if day(number).isoformat() in days)

    found = cost(contract, "source", outcomes)
    # 1 October is day 18, 1 November day 49, Monday 2 November day 50.
    assert found["kinds"] == {
        "tpm": {"num_stages": 2, "rows": num_rows("source", 8, 18) + num_rows("source", 18, 49), "wall_s": 4.0, "train_s": 0.0},
        "cpm": {"num_stages": 1, "rows": num_rows("source", 20, 50), "wall_s": 2.0, "train_s": 0.0},
        "actr": {"num_stages": 2, "rows": num_rows("target", 45, 52) + num_rows("target", 46, 53), "wall_s": 4.0, "train_s": 0.0},
    }
    assert found["all_daily_rows"] == {
        # A month, the widest span.
        "tpm": num_rows("source", 21, 52) + num_rows("source", 22, 53),
        "cpm": num_rows("source", 22, 52) + num_rows("source", 23, 53),
        "actr": num_rows("target", 45, 52) + num_rows("target", 46, 53),
    }


def test_drift_is_measured_between_snapshots_that_follow_each_other(rolled: tuple[dict[str, Any], list[Any]]) -> None:
    values, outcomes = rolled
    found = drift(store_of(values), outcomes)
    assert [(record["day"], record["feature"], record["num_ids"]) for record in found] == [
        ("2020-11-01", "user", 61),
        ("2020-11-01", "item", 81),
    ]
    # Tables drawn from two seeds have nothing in common.
    assert all(0.5 < record["residual"] < record["plain"] for record in found)


def test_served_rows_are_those_of_the_days_and_without_predictions_a_day_is_open(rolled: tuple[dict[str, Any], list[Any]]) -> None:
    values, outcomes = rolled
    days = load_contract(values["base"]["data"]["path"]).domains["target"].days
    served, left_out = served_rows(store_of(values), [outcomes])
    assert not left_out
    counts = dict(zip(*(column.tolist() for column in np.unique(served.day, return_counts=True)), strict=True))
    assert counts == {(day(number) - day(0)).days + START // DAY_S: days[day(number).isoformat()].num_rows for number in (52, 53)}
    last = next(outcome for outcome in outcomes if outcome.planned.stage.name == "actr-2020-11-05")
    assert scored(store_of(values), last) is not None
    for file in (run_directory(values, "actr", 53) / "predictions/test").iterdir():
        file.unlink()
    assert scored(store_of(values), last) is None
    assert len(served_rows(store_of(values), [outcomes])[0]) == counts[52 + START // DAY_S]


def test_rows_whose_user_a_snapshot_knows_are_counted_by_month(
    rolled: tuple[dict[str, Any], list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    values, outcomes = rolled
    contract = load_contract(values["base"]["data"]["path"])
    served, _ = served_rows(store_of(values), [outcomes])

    def vectors(run: Storage) -> dict[str, torch.Tensor]:
        """October knows all users but the first 20, November those of odd numbers."""
        user = torch.arange(contract.tables["user"].num_rows)
        return {"user": (user >= 20 if "tpm-2020-10" in run.uri else user % 2 == 1)[:, None].float()}

    monkeypatch.setattr("pipelines.roll_snapshots.snapshot_vectors", vectors)
    odd = served.group % 2 == 1
    assert 0 < odd.sum() < len(served)
    expected = {"month": "2020-11", "num_rows": len(served), "newest": odd.mean(), "any": (odd | (served.group >= 20)).mean()}
    assert known_users(store_of(values), contract, outcomes, served) == [pytest.approx(expected)]
    assert known_users(store_of(values), contract.model_copy(update={"group": "country"}), outcomes, served) == []
