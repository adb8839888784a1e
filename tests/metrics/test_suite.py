"""The suite on one rank: batches, padding, merging, and bounded memory. Ranks are in test_ranks.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrain.errors import ConfigError, DataError
from raytrain.metrics.auc import auc
from raytrain.metrics.calibration import pcoc
from raytrain.metrics.gauc import gauc
from raytrain.metrics.logloss import logloss
from raytrain.metrics.ne import ne
from raytrain.metrics.rows import hash_groups
from raytrain.metrics.suite import MetricSuite

Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def draw_rows(num_rows: int, seed: int = 0, num_groups: int = 30) -> Columns:
    """Prediction (with ties), label, group, weight (not integral)."""
    generator = np.random.default_rng(seed)
    prediction = np.round(generator.random(num_rows), 2).astype(np.float32)
    label = (generator.random(num_rows) < prediction).astype(np.float32)
    weight = generator.choice(np.array([0.1, 0.7, 1.0, 2.3], dtype=np.float32), num_rows)
    return prediction, label, generator.integers(0, num_groups, num_rows), weight


def feed(suite: MetricSuite, columns: Columns, rows: np.ndarray, batch_rows: int = 50) -> MetricSuite:
    for start in range(0, len(rows), batch_rows):
        suite.update(*(torch.from_numpy(column[rows[start : start + batch_rows]]) for column in columns))
    return suite


def assert_same(first: dict[str, float], second: dict[str, float]) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert second[key] == pytest.approx(value, rel=1e-12, abs=1e-12, nan_ok=True), key


def test_the_suite_gives_what_the_functions_give():
    columns = prediction, label, group, weight = draw_rows(700)
    result = feed(MetricSuite(), columns, np.arange(700)).reduce()
    assert result["auc"] == pytest.approx(auc(prediction, label, weight), rel=1e-12)
    assert result["gauc"] == pytest.approx(gauc(prediction, label, group, weight), rel=1e-12)
    assert result["logloss"] == pytest.approx(logloss(prediction, label, weight), rel=1e-12)
    assert result["pcoc"] == pytest.approx(pcoc(prediction, label, weight), rel=1e-12)
    assert result["ne"] == pytest.approx(ne(prediction, label, weight), rel=1e-12)
    assert result["num_rows"] == 700
    assert result["num_positives"] == label.sum()
    assert result["auc_error_bound"] == 0
    assert result["gauc_num_groups"] == 30
    assert result["gauc_group_share"] == 1


@settings(max_examples=30)
@given(st.integers(1, 200), st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 60))
def test_any_order_split_and_batching_give_the_same(num_rows, seed, num_suites, batch_rows):
    columns = draw_rows(num_rows, seed)
    generator = np.random.default_rng(seed)
    parts = np.array_split(generator.permutation(num_rows), np.sort(generator.integers(0, num_rows + 1, num_suites - 1)))
    merged = MetricSuite()
    for part in parts:
        merged.merge(feed(MetricSuite(), columns, part, batch_rows))
    assert_same(feed(MetricSuite(), columns, np.arange(num_rows)).reduce(), merged.reduce())


@settings(max_examples=20)
@given(st.integers(0, 100), st.integers(0, 40), st.sampled_from([10, 10_000]))
def test_padding_counts_nowhere(num_rows, num_padding, limit):
    columns = draw_rows(num_rows)
    padding = (
        np.full(num_padding, np.nan, np.float32),
        np.full(num_padding, np.nan, np.float32),
        np.arange(num_padding) + 10**12,
        np.zeros(num_padding, np.float32),
    )
    padded: Columns = tuple(np.concatenate(pair) for pair in zip(columns, padding, strict=True))  # type: ignore[assignment]
    mixed = np.random.default_rng(0).permutation(num_rows + num_padding)
    plain = feed(MetricSuite(exact_limit_rows=limit), columns, np.arange(num_rows)).reduce()
    assert_same(plain, feed(MetricSuite(exact_limit_rows=limit), padded, mixed).reduce())


def test_without_rows_everything_is_nan_and_counts_are_zero():
    result = MetricSuite().reduce()
    assert all(math.isnan(result[key]) for key in ("auc", "gauc", "logloss", "pcoc", "ne"))
    assert result["num_rows"] == result["num_positives"] == result["gauc_num_groups"] == 0


def test_one_class_leaves_ranking_undefined_and_the_loss_defined():
    suite = MetricSuite()
    suite.update(torch.tensor([0.2, 0.4]), torch.zeros(2), torch.tensor([1, 1]), torch.ones(2))
    result = suite.reduce()
    assert all(math.isnan(result[key]) for key in ("auc", "gauc", "pcoc", "ne", "auc_error_bound"))
    assert result["logloss"] == pytest.approx(-(math.log(0.8) + math.log(0.6)) / 2)


@pytest.mark.parametrize("limit", [2, 100], ids=["histogram", "exact"])
def test_a_nan_prediction_makes_every_metric_nan(limit):
    suite = MetricSuite(exact_limit_rows=limit)
    suite.update(torch.tensor([math.nan, 0.2, 0.8, 0.9]), torch.tensor([1.0, 0, 1, 0]), torch.zeros(4, dtype=torch.int64), torch.ones(4))
    result = suite.reduce()
    assert all(math.isnan(result[key]) for key in ("auc", "gauc", "logloss", "pcoc", "ne"))
    assert result["num_rows"] == 4


def test_reduce_may_be_called_between_updates():
    columns = draw_rows(200)
    suite = feed(MetricSuite(), columns, np.arange(100))
    assert_same(suite.reduce(), suite.reduce())
    feed(suite, columns, np.arange(100, 200))
    assert_same(suite.reduce(), feed(MetricSuite(), columns, np.arange(200)).reduce())


def test_the_caller_may_reuse_its_tensors():
    prediction = torch.tensor([0.1, 0.9])
    suite = MetricSuite()
    suite.update(prediction, torch.tensor([0.0, 1.0]), torch.tensor([1, 1]), torch.ones(2))
    prediction.zero_()
    assert suite.reduce()["auc"] == 1


def test_gradients_and_other_number_types_are_accepted():
    suite = MetricSuite()
    prediction = torch.tensor([0.25, 0.75], dtype=torch.bfloat16, requires_grad=True)
    suite.update(prediction, torch.tensor([0, 1]), torch.tensor([3, 3], dtype=torch.int32), torch.tensor([True, True]))
    assert suite.reduce()["gauc"] == 1


def test_above_the_limit_auc_is_a_histogram_within_its_bound():
    columns = prediction, label, _, weight = draw_rows(3000)
    result = feed(MetricSuite(num_bins=64, exact_limit_rows=500), columns, np.arange(3000)).reduce()
    assert 0 < abs(result["auc"] - auc(prediction, label, weight)) <= result["auc_error_bound"] < 0.05


def test_above_the_limit_gauc_is_exact_on_a_share_of_the_groups():
    columns = prediction, label, group, weight = draw_rows(3000, num_groups=400)
    result = feed(MetricSuite(exact_limit_rows=1000), columns, np.arange(3000)).reduce()
    level = -round(math.log2(result["gauc_group_share"]))
    sampled = hash_groups(group) >> np.uint64(64 - level) == 0
    assert level >= 2
    assert 0 < sampled.sum() <= 1000
    assert result["gauc"] == pytest.approx(gauc(*(column[sampled] for column in (prediction, label, group, weight))), rel=1e-12)


def test_sums_stay_exact_above_the_limit():
    columns = draw_rows(3000)
    bounded = feed(MetricSuite(exact_limit_rows=100), columns, np.arange(3000)).reduce()
    exact = feed(MetricSuite(), columns, np.arange(3000)).reduce()
    for key in ("logloss", "pcoc", "ne", "num_rows", "num_positives"):
        assert bounded[key] == pytest.approx(exact[key], rel=1e-12)


def test_memory_is_bounded_by_the_limit():
    columns = draw_rows(5000, num_groups=1000)
    suite = MetricSuite(exact_limit_rows=300)
    for start in range(0, 5000, 50):
        feed(suite, columns, np.arange(start, start + 50))
        assert suite._ranking.num_rows + suite._pending.num_rows <= 2 * 300


@pytest.mark.parametrize("exact_first", [True, False], ids=["histogram into exact", "exact into histogram"])
def test_exact_and_histogram_states_merge(exact_first):
    columns = draw_rows(600, num_groups=100)
    small = feed(MetricSuite(num_bins=128, exact_limit_rows=400), columns, np.arange(100))
    large = feed(MetricSuite(num_bins=128, exact_limit_rows=400), columns, np.arange(100, 600))
    first, second = (small, large) if exact_first else (large, small)
    first.merge(second)
    assert_same(feed(MetricSuite(num_bins=128, exact_limit_rows=400), columns, np.arange(600)).reduce(), first.reduce())


def test_a_column_of_another_shape_is_refused():
    with pytest.raises(DataError, match=r"vectors of one length. Received: shapes \(3, 1\), \(3,\)"):
        MetricSuite().update(torch.rand(3, 1), torch.ones(3), torch.ones(3, dtype=torch.int64), torch.ones(3))


def test_a_limit_below_one_is_refused():
    with pytest.raises(ConfigError, match="exact_limit_rows=0"):
        MetricSuite(exact_limit_rows=0)
