"""Each metric as a plain function: hand-computed values, sklearn and brute force as oracles, and properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from raytrain.metrics.auc import AucHistogram, auc
from raytrain.metrics.calibration import pcoc
from raytrain.metrics.gauc import gauc
from raytrain.metrics.logloss import logloss
from raytrain.metrics.ne import ne

# Eighths are exact in float32, and few of them make many ties.
rows = st.lists(
    st.tuples(st.integers(1, 7).map(lambda k: k / 8), st.integers(0, 1), st.integers(0, 4), st.sampled_from([0.25, 0.5, 1.0, 3.0])),
    min_size=1,
    max_size=60,
).map(lambda drawn: tuple(np.array(column, dtype=np.float64) for column in zip(*drawn, strict=True)))

# A shared machine stalls now and then; a slow example is no failure.


def same(first: float, second: float, tolerance: float = 1e-12) -> bool:
    return (math.isnan(first) and math.isnan(second)) or math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)


def test_auc_by_hand():
    # Pairs (positive, negative): .8>.1, .8>.4, .35>.1, .35<.4: three of four.
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75


def test_a_tie_counts_half():
    assert auc(np.array([0.5, 0.5, 0.9]), np.array([1, 0, 0])) == 0.25


def test_a_weight_repeats_a_row():
    prediction, label = np.array([0.1, 0.4, 0.4, 0.8]), np.array([1, 0, 1, 0])
    repeats = np.array([2, 3, 1, 2])
    assert auc(prediction, label, repeats) == auc(np.repeat(prediction, repeats), np.repeat(label, repeats))


def test_gauc_by_hand():
    # Group 1: AUC 1 of 2 rows. Group 2: AUC 1/4 (a tie and a loss) of 3 rows. Group 3: positives alone, left out.
    prediction = np.array([0.9, 0.1, 0.5, 0.5, 0.9, 0.3, 0.2])
    label = np.array([1, 0, 1, 0, 0, 1, 1])
    group = np.array([1, 1, 2, 2, 2, 3, 3])
    assert gauc(prediction, label, group) == pytest.approx((2 * 1 + 3 * 0.25) / 5, abs=1e-15)


def test_logloss_by_hand():
    expected = -(math.log(0.8) + 3 * math.log(0.75)) / 4
    assert logloss(np.array([0.8, 0.25]), np.array([1, 0]), np.array([1, 3])) == pytest.approx(expected, rel=1e-15)


def test_a_sure_and_wrong_row_costs_the_clip():
    assert logloss(np.array([0.0]), np.array([1.0])) == pytest.approx(-math.log(1e-7), rel=1e-12)


def test_pcoc_by_hand():
    assert pcoc(np.array([0.5, 0.25, 0.25]), np.array([1, 0, 0]), np.array([2, 1, 1])) == pytest.approx(1.5 / 2)


def test_ne_of_the_base_rate_is_one():
    assert ne(np.full(8, 0.25), np.array([1, 0, 0, 0, 1, 0, 0, 0])) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize("label", [[], [1, 1], [0, 0]], ids=["no rows", "positives alone", "negatives alone"])
def test_what_is_undefined_is_nan(label):
    label = np.array(label, dtype=float)
    prediction, group = np.full(len(label), 0.5), np.zeros(len(label), dtype=np.int64)
    assert math.isnan(auc(prediction, label))
    assert math.isnan(gauc(prediction, label, group))
    assert math.isnan(ne(prediction, label))
    assert math.isnan(logloss(prediction, label)) == (len(label) == 0)
    assert math.isnan(pcoc(prediction, label)) == (label.sum() == 0)


def test_a_nan_prediction_is_not_ranked():
    prediction, label, group = np.array([np.nan, 0.2, 0.8]), np.array([1, 0, 1]), np.zeros(3, dtype=np.int64)
    assert math.isnan(auc(prediction, label))
    assert math.isnan(gauc(prediction, label, group))
    assert math.isnan(logloss(prediction, label))
    padding = np.array([0.0, 1, 1])
    assert auc(prediction, label, padding) == gauc(prediction, label, group, padding) == 1.0
    assert math.isfinite(logloss(prediction, label, padding))
    assert math.isfinite(pcoc(prediction, label, padding))


def test_log_loss_of_an_amount_is_nan():
    assert math.isnan(logloss(np.array([0.5, 0.5]), np.array([1.0, 17.5])))


@given(rows)
def test_auc_agrees_with_sklearn(drawn):
    prediction, label, _, weight = drawn
    expected = roc_auc_score(label, prediction, sample_weight=weight) if 0 < label.sum() < len(label) else math.nan
    assert same(auc(prediction, label, weight), expected)


@given(rows)
def test_logloss_agrees_with_sklearn(drawn):
    prediction, label, _, weight = drawn
    assert same(logloss(prediction, label, weight), sklearn_log_loss(label, prediction, sample_weight=weight, labels=[0, 1]))


@given(rows)
def test_gauc_agrees_with_a_loop_over_groups(drawn):
    prediction, label, group, weight = drawn
    areas, impressions = [], []
    for one in np.unique(group):
        mine = group == one
        if 0 < label[mine].sum() < mine.sum():
            areas.append(roc_auc_score(label[mine], prediction[mine], sample_weight=weight[mine]))
            impressions.append(weight[mine].sum())
    assert same(gauc(prediction, label, group, weight), float(np.average(areas, weights=impressions)) if areas else math.nan)


@given(rows)
def test_gauc_of_one_group_is_auc(drawn):
    prediction, label, group, weight = drawn
    assert same(gauc(prediction, label, np.zeros_like(group), weight), auc(prediction, label, weight))


@given(rows)
def test_auc_sees_order_alone(drawn):
    prediction, label, _, weight = drawn
    assert same(auc(prediction**3 * 100 - 7, label, weight), auc(prediction, label, weight))
    assert same(auc(1 - prediction, label, weight), 1 - auc(prediction, label, weight))


@given(rows, st.sampled_from([1, 2, 5, 16, 256]))
def test_histogram_is_within_its_bound(drawn, num_bins):
    prediction, label, _, weight = drawn
    histogram = AucHistogram.of(prediction, label, weight, num_bins)
    exact = auc(prediction, label, weight)
    if math.isnan(exact):
        assert math.isnan(histogram.value())
        assert math.isnan(histogram.error_bound())
    else:
        assert abs(histogram.value() - exact) <= histogram.error_bound() + 1e-12


def test_the_bound_is_reached_when_a_bin_hides_the_order():
    histogram = AucHistogram.of(np.array([0.2, 0.8]), np.array([0, 1]), None, num_bins=1)
    assert (histogram.value(), histogram.error_bound()) == (0.5, 0.5)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_histogram_is_close_at_click_rates_near_zero(seed):
    generator = np.random.default_rng(seed)
    prediction = generator.beta(1, 200, size=5000)
    label = (generator.random(5000) < prediction * 20).astype(float)
    histogram = AucHistogram.of(prediction, label, None, num_bins=1 << 16)
    assert abs(histogram.value() - auc(prediction, label)) <= histogram.error_bound() < 1e-4


def test_many_small_groups_of_uneven_weight_do_not_lose_digits():
    generator = np.random.default_rng(0)
    num_rows = 200_000
    prediction, weight = generator.random(num_rows), generator.random(num_rows)
    label, group = generator.integers(0, 2, num_rows), generator.integers(0, 40_000, num_rows)
    # A group's AUC may not depend on the groups sorted before it: here they are cut apart and averaged by hand.
    halves = [gauc(prediction[part], label[part], group[part], weight[part]) for part in (group < 20_000, group >= 20_000)]
    num_positives, num_all = np.bincount(group, label), np.bincount(group)
    scored = ((num_positives > 0) & (num_positives < num_all))[group]
    impressions = [weight[scored & part].sum() for part in (group < 20_000, group >= 20_000)]
    assert gauc(prediction, label, group, weight) == pytest.approx(np.average(halves, weights=impressions), abs=1e-13)
