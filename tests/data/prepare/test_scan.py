import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.data.prepare import scan as module
from raytrain.data.prepare.scan import Scan, cut_times, scan_block
from raytrain.data.prepare.spec import SplitRule
from raytrain.errors import DataError
from tests.data.prepare.cases import events, spec, with_uses


def row(time, rating, user=1, item="a", country="x", tags=()):
    return (user, item, time, rating, country, list(tags), 1, 0.0)


def scanned(declared, ads, feed=None):
    scan = Scan(declared)
    for block in ads:
        scan.add("ads", scan_block(block, declared))
    scan.add("feed", scan_block(feed if feed is not None else events(row(1, 5.0)), declared))
    return scan


TARGET = [row(time, rating) for time in (10, 20, 30, 40) for rating in (1.0, 5.0)]


@given(st.lists(st.integers(-5, 20), min_size=1, max_size=60), st.floats(0.05, 0.6), st.floats(0.65, 0.95))
def test_cut_times_are_quantiles_of_the_sorted_rows(times, valid_from, test_from):
    distinct, counts = np.unique(times, return_counts=True)
    cut = cut_times(distinct, counts, SplitRule(valid_from=valid_from, test_from=test_from))
    ordered = sorted(times)
    assert cut.valid_time == ordered[int(valid_from * len(times))]
    assert cut.test_time == ordered[int(test_from * len(times))]


def test_a_time_is_never_in_two_splits():
    cut = scanned(spec(), [events(*TARGET)]).cut()
    assert (cut.valid_time, cut.test_time) == (30, 40)
    assert cut.split_of(np.array([29, 30, 39, 40])).tolist() == [0, 1, 1, 2]


@pytest.mark.parametrize("pending", [pytest.param(0, id="merged after every block"), pytest.param(10**6, id="merged at the end")])
def test_blocks_may_come_in_any_order(monkeypatch, pending):
    monkeypatch.setattr(module, "_PENDING_ROWS", pending)
    rows = [*TARGET, row(50, None), row(15, 5.0, user=7, item="b", country=None, tags=["t", "s"])]
    blocks = [events(one) for one in rows]
    for order in (blocks, blocks[::-1], [events(*rows)]):
        scan = scanned(spec(), order)
        vocabularies = {table: values.to_pylist() for table, values in scan.vocabularies().items()}
        assert vocabularies == {"user": [1, 7], "item": ["a", "b"], "country": ["x"], "tags": ["s", "t"]}
        assert scan.dropped["ads"] == {"null label": 1}
        assert scan.num_rows["ads"] == 10
        assert scan.cut().valid_time == 20  # row int(0.5 * 9) of 10 10 15 20 20 30 30 40 40


def test_columns_that_share_a_table_share_its_values():
    declared = spec(features=["country", {"name": "tags", "kind": "multi", "max_values": 2, "table": "country"}])
    scan = scanned(declared, [events(row(1, 5.0, country="b", tags=["a", "c"]))])
    assert scan.vocabularies()["country"].to_pylist() == ["a", "b", "c", "x"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        pytest.param([row(10, 1.0), row(10, 5.0)], r"Every split .* has to have rows\. Received: train=0 rows", id="one time only"),
        pytest.param([row(time, 1.0) for time in range(20)], r"has to have both labels\. Received: train=10 rows, 0 of", id="no positives"),
        pytest.param([row(time, 5.0) for time in range(20)], r"has to have both labels", id="no negatives"),
        pytest.param([row(10**12, 5.0), row(10**12 + 9, 1.0)], r"before the year 2200\..*Set keys\.time\.unit", id="milliseconds"),
    ],
)
def test_a_target_that_cannot_be_split_is_refused(rows, message):
    with pytest.raises(DataError, match=message):
        scanned(spec(), [events(*rows)]).cut()


def test_labels_have_to_be_binary_without_a_rule():
    with pytest.raises(DataError, match=r"Labels have to be 0 or 1\. Received: 2 rows of domain ads .* for example 5"):
        scanned(spec(label="rating"), [events(row(1, 0.0), row(2, 5.0), row(3, 5.0))], events(row(1, 1.0))).check()


def test_a_domain_without_usable_rows_is_refused():
    with pytest.raises(DataError, match=r"Received: feed with 2 null label"):
        scanned(spec(), [events(*TARGET)], events(row(1, None), row(2, None))).check()


BY_COLUMN = {"split": {"column": "split"}}
USES = ["train", "train", "valid", "valid", "test", "test", None, None]


def test_a_column_splits_in_place_of_times():
    feed = with_uses(events(row(1, 5.0)), ["train"])
    assert scanned(spec(**BY_COLUMN), [with_uses(events(*TARGET), USES)], feed).cut() is None


@pytest.mark.parametrize(
    ("uses", "message"),
    [
        pytest.param(
            ["train", "train", "valid", "valid", None, None, None, None],
            r"have rows\. Received: .*test=0 rows.*by split\.column=split",
            id="no test",
        ),
        pytest.param(["train", None, "valid", "valid", "test", "test", None, None], "have both labels", id="no positive in train"),
    ],
)
def test_a_column_has_to_fill_every_split_of_the_target(uses, message):
    feed = with_uses(events(row(1, 5.0)), ["train"])
    with pytest.raises(DataError, match=message):
        scanned(spec(**BY_COLUMN), [with_uses(events(*TARGET), uses)], feed).cut()
