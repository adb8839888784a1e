"""The lifetime-value suite on one rank: batches, padding, merging, and bounded memory. Ranks are in test_ranks.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrain.errors import ConfigError, DataError
from raytrain.metrics.auc import auc
from raytrain.metrics.calibration import pcoc
from raytrain.metrics.deciles import DecileState, decile_mape
from raytrain.metrics.gini import norm_gini
from raytrain.metrics.gini_by_size import SizeIntervals, gini_by_size
from raytrain.metrics.ltv_suite import LtvSuite
from raytrain.metrics.nmae import nmae
from raytrain.metrics.nrmse import nrmse
from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.metrics.rows import hash_groups
from raytrain.metrics.spearman import spearman
from tests.metrics.test_suite import assert_same

Columns = dict[str, np.ndarray]
SIZES = SizeIntervals.of({0: 3, 1: 40, 2: 41, 3: 700}, edges=(1, 10, 100))
RANKED = ("norm_gini", "spearman", "pay_auc", "decile_mape", "decile_1_predicted", "decile_10_observed")
SUMMED = ("nrmse", "nmae", "total_ratio", "total_error", "num_rows", "num_payers")


def draw_rows(num_rows: int, seed: int = 0, num_groups: int = 30) -> Columns:
    """Amounts with a mass at zero and tiers, predictions with ties, weights that are not integral, slices of which 4 is unseen."""
    generator = np.random.default_rng(seed)
    label = np.where(generator.random(num_rows) < 0.4, generator.choice([1, 6, 30, 328], num_rows), 0).astype(np.float32)
    return {
        "ltv": np.round(0.3 * label + generator.lognormal(1, 1, num_rows), 1).astype(np.float32),
        "pay": np.round(generator.random(num_rows) + (label > 0), 2).astype(np.float32),
        "label": label,
        "group": generator.integers(0, num_groups, num_rows),
        "weight": generator.choice(np.array([0.1, 0.7, 1.0, 2.3], dtype=np.float32), num_rows),
        "slice": generator.integers(0, 5, num_rows),
    }


def feed(suite: LtvSuite, columns: Columns, rows: np.ndarray, batch_rows: int = 50) -> LtvSuite:
    for start in range(0, len(rows), batch_rows):
        batch = {name: torch.from_numpy(column[rows[start : start + batch_rows]]) for name, column in columns.items()}
        prediction = {name: batch[name] for name in ("ltv", "pay")}
        suite.update(prediction, batch["label"], batch["group"], batch["weight"], batch["slice"])
    return suite


def test_the_suite_gives_what_the_functions_give():
    columns = draw_rows(700)
    result = feed(LtvSuite(SIZES), columns, np.arange(700)).reduce()
    amounts = columns["ltv"], columns["label"], columns["weight"]
    predicted, observed = DecileState.of(*(column.astype(np.float64) for column in amounts)).means()
    expected = {
        "norm_gini": norm_gini(*amounts),
        "spearman": spearman(*amounts),
        "pay_auc": auc(columns["pay"], columns["label"], columns["weight"]),
        "decile_mape": decile_mape(*amounts),
        "nrmse": nrmse(*amounts),
        "nmae": nmae(*amounts),
        "total_ratio": pcoc(*amounts),
        "total_error": abs(pcoc(*amounts) - 1),
        "num_rows": 700,
        "num_payers": (columns["label"] > 0).sum(),
        "ranked_group_share": 1,
        **{f"decile_{number + 1}_predicted": predicted[number] for number in range(10)},
        **{f"decile_{number + 1}_observed": observed[number] for number in range(10)},
    }
    interval = SIZES.interval(columns["slice"])
    for number, (name, value) in enumerate(gini_by_size(*amounts[:2], columns["slice"], SIZES, amounts[2]).items()):
        expected |= {f"norm_gini_slice_{name}": value, f"num_rows_slice_{name}": (interval == number).sum()}
    assert_same(expected, result)


def test_every_metric_with_a_best_direction_is_reported():
    reported = LtvSuite().reduce().keys()
    assert set(HIGHER_IS_BETTER) - reported == {"auc", "gauc", "logloss", "ne"}


@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 60))
def test_any_order_split_and_batching_give_the_same(num_rows, seed, num_suites, batch_rows):
    columns = draw_rows(num_rows, seed)
    generator = np.random.default_rng(seed)
    parts = np.array_split(generator.permutation(num_rows), np.sort(generator.integers(0, num_rows + 1, num_suites - 1)))
    merged = LtvSuite(SIZES)
    for part in parts:
        merged.merge(feed(LtvSuite(SIZES), columns, part, batch_rows))
    assert_same(feed(LtvSuite(SIZES), columns, np.arange(num_rows)).reduce(), merged.reduce())


@pytest.mark.parametrize("limit", [10, 10_000], ids=["sampled", "exact"])
def test_padding_counts_nowhere(limit):
    columns = draw_rows(100)
    padding = {
        name: np.full(40, 10**9 if name in ("group", "slice") else math.nan).astype(column.dtype) for name, column in columns.items()
    }
    padding["weight"] = np.zeros(40, np.float32)
    padded = {name: np.concatenate([column, padding[name]]) for name, column in columns.items()}
    mixed = np.random.default_rng(0).permutation(140)
    plain = feed(LtvSuite(SIZES, limit), columns, np.arange(100)).reduce()
    assert_same(plain, feed(LtvSuite(SIZES, limit), padded, mixed).reduce())


def test_a_nan_amount_spares_the_auc_of_paying_and_the_other_way_round():
    columns = draw_rows(50)
    for spoilt, intact in (("ltv", "pay_auc"), ("pay", "norm_gini")):
        broken = columns | {spoilt: np.where(np.arange(50) == 7, np.float32(math.nan), columns[spoilt])}
        result = feed(LtvSuite(SIZES), broken, np.arange(50)).reduce()
        undefined = {name for name in (*RANKED, "norm_gini_slice_0", "nrmse", "nmae", "total_ratio") if math.isnan(result[name])}
        assert intact not in undefined
        assert len(undefined) == (1 if spoilt == "pay" else 9)


def test_a_constant_prediction_earns_nothing_in_any_interval():
    columns = draw_rows(300) | {"ltv": np.full(300, 3.3, np.float32)}
    result = feed(LtvSuite(SIZES), columns, np.arange(300)).reduce()
    assert [value for name, value in result.items() if name.startswith("norm_gini") or name == "spearman"] == [0] * 6


def test_without_rows_everything_is_nan_and_counts_are_zero():
    result = LtvSuite(SIZES).reduce()
    assert all(math.isnan(result[key]) for key in (*RANKED, "nrmse", "nmae", "total_ratio", "total_error", "norm_gini_slice_0"))
    assert result["num_rows"] == result["num_payers"] == result["num_rows_slice_0"] == 0


def test_above_the_limit_rows_are_ranked_on_whole_groups_and_sums_stay_exact():
    columns = draw_rows(3000, num_groups=400)
    result = feed(LtvSuite(exact_limit_rows=1000), columns, np.arange(3000)).reduce()
    level = -round(math.log2(result["ranked_group_share"]))
    sampled = np.flatnonzero(hash_groups(columns["group"]) >> np.uint64(64 - level) == 0)
    assert level >= 2
    assert 0 < len(sampled) <= 1000
    few, all_rows = (feed(LtvSuite(), columns, rows).reduce() for rows in (sampled, np.arange(3000)))
    assert all(result[name] == pytest.approx(few[name], rel=1e-12) for name in RANKED)
    assert all(result[name] == pytest.approx(all_rows[name], rel=1e-12) for name in SUMMED)


def test_a_column_of_another_shape_is_refused():
    rows, ids = torch.ones(3), torch.ones(3, dtype=torch.int64)
    with pytest.raises(
        DataError, match=r"ltv, pay, label, group, weight and slice have to be vectors of one length. Received: shapes \(3, 1\)"
    ):
        LtvSuite().update({"ltv": torch.rand(3, 1), "pay": rows}, rows, ids, rows, ids)


def test_a_limit_below_one_is_refused():
    with pytest.raises(ConfigError, match="exact_limit_rows=0"):
        LtvSuite(exact_limit_rows=0)
