import datetime as dt
import math

import numpy as np
import pyarrow as pa
import pytest

from raytrain.data.prepare.events import NO_SPLIT, clean, dense_values, id_values, list_values, side_codes
from tests.data.prepare.cases import events, spec, with_uses


def test_clean_counts_each_dropped_row_once_by_its_first_reason():
    good = (1, "a", 10, 5.0, "x", [], 1, 0.0)
    block = events(
        good,
        (None, None, 10, 5.0, "x", [], 1, 0.0),
        (1, None, 10, 5.0, "x", [], 1, 0.0),
        (1, "a", None, 5.0, "x", [], 1, 0.0),
        (1, "a", 10, None, "x", [], 1, 0.0),
        (1, "a", 10, math.nan, "x", [], 1, 0.0),
        (2, "b", 11, 3.9, None, None, None, None),
    )
    kept, dropped = clean(block, spec())
    assert dropped == {"null user": 1, "null item": 1, "null time": 1, "null label": 1, "NaN label": 1}
    assert kept.user.to_pylist() == [1, 2]
    assert kept.item.to_pylist() == ["a", "b"]
    assert kept.time.tolist() == [10, 11]
    assert kept.label.tolist() == [1.0, 0.0]
    assert kept.block.num_rows == 2


def test_clean_drops_direct_keys_out_of_their_table():
    declared = spec(keys={"user": {"column": "user", "encoding": "direct", "num_rows": 3}})
    block = events(*((user, "a", 10, 5.0, "x", [], 1, 0.0) for user in (-1, 0, 1, 2, 3)))
    kept, dropped = clean(block, declared)
    assert kept.user.to_pylist() == [1, 2]
    assert dropped == {"user out of range": 3}


def test_clean_reads_what_a_row_is_for():
    rows = events(*((user, "a", 10, 5.0, "x", [], 1, 0.0) for user in range(1, 7)))
    block = with_uses(rows, ["train", "test", None, None, "tset", "valid"], [True, False, True, False, True, None])
    kept, dropped = clean(block, spec(split={"column": "split"}, in_history="in_history"))
    assert kept.user.to_pylist() == [1, 2, 3, 6]
    assert kept.split.tolist() == [0, 2, NO_SPLIT, 1]
    assert kept.in_history.tolist() == [True, False, True, False]
    assert dropped == {"unknown split": 1, "neither sample nor history": 1}


def test_clean_takes_an_empty_block():
    kept, dropped = clean(events(), spec())
    assert len(kept.user) == 0
    assert not dropped


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        pytest.param(pa.array([-1, 90_000], pa.int64()), "s", id="seconds"),
        pytest.param(pa.array([-1, 90_000_999], pa.int64()), "ms", id="milliseconds rounded down"),
        pytest.param(pa.array([-1, 90_000_999_999], pa.timestamp("us")), "s", id="timestamps carry their unit"),
        pytest.param(pa.array([-1, 90_000], pa.timestamp("s", tz="UTC")), "s", id="timestamps with a zone"),
        pytest.param(pa.array([dt.date(1969, 12, 31), dt.date(1970, 1, 2)]), "s", id="dates"),
    ],
)
def test_times_become_seconds(column, unit):
    block = events(*[(1, "a", 0, 5.0, "x", [], 1, 0.0)] * 2)
    block = block.set_column(block.column_names.index("time"), "time", column)
    kept, _ = clean(block, spec(keys={"time": {"column": "time", "unit": unit}}))
    expected = [-86400, 86400] if pa.types.is_date(column.type) else [-1, 90_000]
    assert kept.time.tolist() == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        pytest.param(pa.array([3, None], pa.int8()), pa.array([3, None], pa.int64()), id="small integers"),
        pytest.param(pa.array([2**64 - 1], pa.uint64()), pa.array([-1], pa.int64()), id="unsigned wraps"),
        pytest.param(pa.array(["b", "a", "b"]).dictionary_encode(), pa.array(["b", "a", "b"], pa.large_string()), id="dictionary"),
        pytest.param(pa.array([True, False]), pa.array([1, 0], pa.int64()), id="booleans"),
    ],
)
def test_id_values_have_one_of_two_types(column, expected):
    assert id_values(column).equals(expected)


def test_list_values_keeps_the_first_values_and_no_nulls():
    column = pa.chunked_array([[["a", "b", "c"], None], [[], [None, "d", "e"]]])
    rows, values = list_values(column, 2)
    assert rows.tolist() == [0, 0, 3]
    assert values.to_pylist() == ["a", "b", "d"]


def test_dense_values_counts_what_it_replaces():
    values, missing = dense_values(pa.chunked_array([[1.5, None, math.inf, math.nan]]), missing=-1.0)
    assert values.tolist() == [1.5, -1.0, -1.0, -1.0]
    assert values.dtype == np.float32
    assert missing.tolist() == [False, True, True, True]


def test_side_codes_out_of_range_become_zero():
    assert side_codes(pa.chunked_array([[1, 5, 6, 0, -3, None]]), 6).tolist() == [1, 5, 0, 0, 0, 0]
    assert side_codes(pa.chunked_array([[2.0, 2.5, math.nan, math.inf]]), 6).tolist() == [2, 0, 0, 0]
