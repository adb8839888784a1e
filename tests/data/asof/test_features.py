"""As-of sums against a loop, and columns whose values are computed by hand; no label at or after a row's time may reach it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrain.data.asof.features import Features, follows
from raytrain.data.asof.past import AsOf, Clock
from raytrain.data.contract import Feature
from raytrain.data.frame import Frame
from raytrain.errors import DataError
from tests.data.asof.cases import change_from, columns_of
from tests.data.build import START, DomainRows, Events, build_dataset, samples, write_dataset

HUGE = 2**61


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def asked(events: list[tuple[int, int, float]], rows: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(count, total, age) of rows (key, time) among events (key, time, value)."""
    key, time, value = (np.array([event[i] for event in events], dtype=[np.int64, np.int64, np.float64][i]) for i in range(3))
    now_key, now_time = (np.array([row[i] for row in rows], dtype=np.int64) for i in range(2))
    clock = Clock(time)
    past = AsOf(key, clock.event_ticks, (value,), clock.num_ticks).before(now_key, clock.ticks(now_time))
    return past.count, past.totals[0], clock.age_s(past, now_time)


def test_an_event_at_a_rows_own_time_is_not_in_its_past():
    events = [(1, 10, 1.0), (1, 20, 1.0), (1, 20, 1.0), (2, 5, 1.0)]
    count, total, age = asked(events, [(1, 20), (1, 21), (1, 10), (2, 10), (3, 99)])
    assert count.tolist() == [1, 3, 0, 1, 0]
    assert total.tolist() == [1, 3, 0, 1, 0]
    assert age.tolist() == [10, 1, np.inf, 5, np.inf]


def test_without_events_every_past_is_empty():
    count, total, age = asked([], [(0, 1), (7, 2)])
    assert count.tolist() == total.tolist() == [0, 0]
    assert np.isinf(age).all()


keys = st.sampled_from([0, 1, 2, 5, HUGE, HUGE + 1])


@settings(max_examples=150)
@given(
    events=st.lists(st.tuples(keys, st.integers(0, 6), st.integers(-3, 3).map(float)), max_size=25),
    rows=st.lists(st.tuples(keys, st.integers(0, 7)), min_size=1, max_size=8),
)
def test_as_of_sums_equal_a_loop_over_events(events, rows):
    count, total, age = asked(events, rows)
    for index, (key, time) in enumerate(rows):
        past = [event for event in events if event[0] == key and event[1] < time]
        assert count[index] == len(past)
        assert total[index] == pytest.approx(sum(event[2] for event in past))
        assert age[index] == (time - max(event[1] for event in past) if past else np.inf)


def test_columns_equal_numbers_computed_by_hand(tmp_path: Path):
    # User 1 sees items 1, 2 (target) and 9 (source); user 2 sees item 1 first. The row looked at is user 1, item 2, time +40.
    train = samples(ints(2, 1), ints(1, 1), START + ints(10, 20), ints(1, 0))
    test = samples(ints(1), ints(2), START + ints(40), ints(1))
    source = samples(ints(1, 1), ints(9, 9), START + ints(30, 40), ints(1, 1))
    history = Events(ints(1, 1), ints(9, 9), START + ints(30, 40), ints(4, 1))
    domains = {"target": DomainRows({"train": train, "test": test}), "source": DomainRows({"train": source}, history, role="source")}
    contract = write_dataset(tmp_path, domains)
    _, features = columns_of(contract, str(tmp_path), "test", prior_rows=2.0)
    row = dict(zip(features.names, features.values[0].tolist(), strict=True))

    # Three events are past: labels 1, 0, 1, and 0.5 twice for the prior. The one at +40 ties with the row.
    overall = (2 + 2 * 0.5) / 5
    assert row["user/all/label"] == pytest.approx((1 + 2 * overall) / 4)
    assert row["user/target/label"] == pytest.approx((0 + 2 * overall) / 3)
    assert row["user/source/label"] == pytest.approx((1 + 2 * overall) / 3)
    assert row["user/source/log_count"] == pytest.approx(np.log(2))
    assert row["user/source/log_age"] == pytest.approx(np.log1p(10))
    assert row["item/all/label"] == pytest.approx(overall)
    # What was expected of user 1's events: item 1 at +20 had one event of label 1 over a mean of (1 + 1) / 3; item 9 at +30 none
    # over (1 + 1) / 4.
    residuals = (0 - (1 + 2 * (2 / 3)) / 3) + (1 - 2 / 4)
    assert row["user/all/residual"] == pytest.approx(residuals / (2 + 2))
    # One rating of 4 is past, here and in all; a code is expected to be 6 / 2.
    everyone = (4 + 2 * 3) / 3
    assert row["user/source/rating"] == pytest.approx((4 + 2 * everyone) / 3)
    assert row["item/source/rating"] == pytest.approx(everyone)


def test_labels_at_or_after_a_row_do_not_reach_its_columns(tmp_path: Path):
    contract = build_dataset(tmp_path, num_users=30, seed=5)
    rows, before = columns_of(contract, str(tmp_path), "valid", 5.0)
    cut = np.sort(rows.column("time"))[rows.num_rows // 2]
    assert (rows.column("time") == cut).sum() > 0
    for folder in ("samples", "histories"):
        for file in (tmp_path / folder).rglob("bucket-*"):
            change_from(file, cut)
    _, after = columns_of(contract, str(tmp_path), "valid", 5.0)
    early = rows.column("time") <= cut
    np.testing.assert_array_equal(before.values[early], after.values[early])
    assert (before.values[~early] != after.values[~early]).any()


def frame_of(item: list[int], tags: list[list[int]], country: list[int]) -> Frame:
    return Frame(pa.table({"item": pa.array(item), "tags": pa.array(tags, type=pa.list_(pa.int32())), "country": pa.array(country)}), 0)


@pytest.mark.parametrize(
    ("tags", "country", "expected"),
    [
        pytest.param([[1, 2], [3], [2, 1]], [7, 8, 7], (True, True), id="both follow the item, order of a list aside"),
        pytest.param([[1, 2], [3], [1]], [7, 8, 7], (False, True), id="a list differs"),
        pytest.param([[1, 2], [], [2, 1]], [7, 8, 9], (True, False), id="an id differs"),
    ],
)
def test_a_feature_follows_the_item_when_the_item_decides_it(tags, country, expected):
    rows = frame_of([1, 2, 1], tags, country)
    features = Feature(name="tags", kind="multi", table="tags", max_values=3), Feature(name="country", kind="id", table="country")
    assert tuple(follows(rows, "item", feature) for feature in features) == expected


def test_a_data_set_without_a_fitted_column_is_refused():
    features = Features(np.zeros(1, np.int32), np.zeros(1, np.float32), ("a", "b"), np.array([[1, 2]], np.float32))
    assert features.columns(("b", "a")).tolist() == [[2, 1]]
    with pytest.raises(DataError, match="none for c"):
        features.columns(("a", "c"))
