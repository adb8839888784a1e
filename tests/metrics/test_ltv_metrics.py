"""Each lifetime-value metric as a plain function: hand-computed values, other libraries as oracles, and properties."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import mean_absolute_error, roc_auc_score, root_mean_squared_error

from raytrain.errors import ConfigError
from raytrain.metrics.deciles import DecileState, decile_mape
from raytrain.metrics.gini import norm_gini
from raytrain.metrics.gini_by_size import SizeIntervals, gini_by_size
from raytrain.metrics.nmae import nmae
from raytrain.metrics.nrmse import nrmse
from raytrain.metrics.spearman import spearman
from raytrain.metrics.total_error import total_error

# Few values make many ties; zeros are the mass of those who never pay.
rows = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([0, 0, 0, 1, 2, 7, 50]), st.sampled_from([0.25, 0.5, 1.0, 3.0])),
    min_size=2,
    max_size=60,
).map(lambda drawn: tuple(np.array(column, dtype=np.float64) for column in zip(*drawn, strict=True)))

# A shared machine stalls now and then; a slow example is no failure.
unhurried = settings(max_examples=60)

RANKING = pytest.mark.parametrize("metric", [norm_gini, spearman], ids=["gini", "spearman"])


def same(first: float, second: float, tolerance: float = 1e-12) -> bool:
    return (math.isnan(first) and math.isnan(second)) or math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)


def gini_of_pairs(prediction: np.ndarray, label: np.ndarray, weight: np.ndarray) -> float:
    """The definition, pair by pair."""

    def raw(score: np.ndarray) -> float:
        return float((weight * label) @ np.sign(score[:, None] - score[None, :]) @ weight)

    return raw(prediction) / raw(label) if raw(label) else math.nan


def gini_of_lifetime_value(prediction: np.ndarray, label: np.ndarray) -> float:
    """google/lifetime_value: 2 * mean(cumulative share of the value, by descending prediction) - 1, over the truth's."""

    def raw(score: np.ndarray) -> float:
        return float(2 * np.mean(np.cumsum(label[np.argsort(-score)]) / label.sum()) - 1)

    return raw(prediction) / raw(label)


def test_gini_by_hand():
    # Truth 0, 1, 3 in centred ranks -2, 0, 2: 3 * 2 = 6. Predicted order puts 3 in the middle and 1 on top: 3 * 0 + 1 * 2 = 2.
    assert norm_gini(np.array([0.1, 0.9, 0.5]), np.array([0, 1, 3])) == pytest.approx(1 / 3, rel=1e-15)


def test_spearman_by_hand():
    # Midranks of the truth 1.5, 1.5, 3; of the prediction 1, 2, 3: correlation sqrt(3) / 2.
    assert spearman(np.array([1, 2, 3]), np.array([0, 0, 5])) == pytest.approx(math.sqrt(3) / 2, rel=1e-15)


def test_errors_by_hand():
    prediction, label = np.array([2.0, 0, 4]), np.array([1.0, 0, 7])
    assert nmae(prediction, label) == pytest.approx(4 / 8)
    assert nrmse(prediction, label) == pytest.approx(math.sqrt(10 / 3) / (8 / 3))
    assert total_error(prediction, label) == pytest.approx(abs(6 / 8 - 1))


def test_deciles_by_hand():
    # Twenty rows, two a bin: bin k predicts 2 k + 1.5 and sees 2 k + 2, so its relative error is 0.5 / (2 k + 2).
    prediction = np.arange(1.0, 21)
    state = DecileState.of(prediction, 2 * np.ceil(prediction / 2), np.ones(20))
    predicted, observed = state.means()
    np.testing.assert_allclose(predicted, 2 * np.arange(10) + 1.5)
    np.testing.assert_allclose(observed, 2 * np.arange(10) + 2)
    assert state.mape() == pytest.approx(np.mean(0.5 / (2 * np.arange(10) + 2)))


def test_a_bin_without_value_is_left_out_of_the_relative_error():
    prediction = np.arange(10.0)
    assert decile_mape(prediction, np.where(prediction >= 8, 10, 0)) == pytest.approx((2 / 10 + 1 / 10) / 2)


@RANKING
def test_a_weight_repeats_a_row(metric):
    prediction, label = np.array([0.1, 0.4, 0.4, 0.8]), np.array([2, 0, 1, 5])
    repeats = np.array([2, 3, 1, 2])
    expected = metric(np.repeat(prediction, repeats), np.repeat(label, repeats))
    assert metric(prediction, label, repeats) == pytest.approx(expected, rel=1e-14)


@unhurried
@given(rows)
def test_gini_is_what_its_pairs_say(drawn):
    prediction, label, weight = drawn
    assert same(norm_gini(prediction, label, weight), gini_of_pairs(prediction, label, weight))


@unhurried
@given(rows)
def test_gini_of_binary_labels_is_twice_auc_less_one(drawn):
    prediction, label, weight = drawn
    paid = (label > 0).astype(float)
    expected = 2 * roc_auc_score(paid, prediction, sample_weight=weight) - 1 if 0 < paid.sum() < len(paid) else math.nan
    assert same(norm_gini(prediction, paid, weight), expected)


@unhurried
@given(rows)
def test_spearman_agrees_with_scipy(drawn):
    prediction, label, _ = drawn
    if len(set(label)) > 1:
        expected = spearmanr(prediction, label).statistic if len(set(prediction)) > 1 else 0
        assert same(spearman(prediction, label), float(expected))
    else:
        assert math.isnan(spearman(prediction, label))


def test_gini_is_close_to_the_published_code_where_that_is_defined():
    generator = np.random.default_rng(0)
    label = np.where(generator.random(4000) < 0.3, generator.lognormal(3, 1, 4000), 0)
    prediction = label * 0.3 + generator.lognormal(3, 1, 4000)
    # The published raw Gini is ours + 1 / n, in numerator and denominator.
    assert norm_gini(prediction, label) == pytest.approx(gini_of_lifetime_value(prediction, label), abs=2 / 4000)


@RANKING
@unhurried
@given(drawn=rows, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_rows_does_not_matter(metric, drawn, seed):
    order = np.random.default_rng(seed).permutation(len(drawn[0]))
    assert same(metric(*drawn), metric(*(column[order] for column in drawn)))


@RANKING
@unhurried
@given(drawn=rows)
def test_only_the_order_of_the_predictions_matters(metric, drawn):
    prediction, label, weight = drawn
    assert same(metric(np.exp(prediction), label, weight), metric(prediction, label, weight), 0)
    assert same(metric(-prediction, label, weight), -metric(prediction, label, weight))


@RANKING
@unhurried
@given(drawn=rows)
def test_a_constant_prediction_earns_exactly_nothing(metric, drawn):
    _, label, weight = drawn
    found = metric(np.full(len(label), 0.7), label, weight)
    assert found == 0 if len(set(label)) > 1 else math.isnan(found)


@RANKING
@unhurried
@given(drawn=rows)
def test_the_truth_scores_one_and_nothing_more(metric, drawn):
    prediction, label, weight = drawn
    if len(set(label)) > 1:
        assert metric(label, label, weight) == pytest.approx(1, rel=1e-14)
        assert abs(metric(prediction, label, weight)) <= 1 + 1e-12


def test_a_constant_prediction_cannot_hide_in_a_sorted_file():
    label = np.sort(np.random.default_rng(0).lognormal(3, 1, 500))[::-1]
    assert gini_of_lifetime_value(np.ones(500), label) > 0.99
    assert norm_gini(np.ones(500), label) == 0


@unhurried
@given(rows)
def test_errors_agree_with_sklearn(drawn):
    prediction, label, weight = drawn
    mean = float(np.average(label, weights=weight))
    expected = [error(label, prediction, sample_weight=weight) for error in (mean_absolute_error, root_mean_squared_error)]
    found = [nmae(prediction, label, weight), nrmse(prediction, label, weight)]
    assert all(same(one, float(other) / mean if mean else math.nan) for one, other in zip(found, expected, strict=True))


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_deciles_agree_with_quantile_cuts_where_nothing_is_tied(tens, seed):
    generator = np.random.default_rng(seed)
    prediction, label = generator.permutation(10 * tens) + generator.random(), generator.lognormal(1, 1, 10 * tens)
    bins = pd.qcut(prediction, 10, labels=False)
    expected = pd.DataFrame({"prediction": prediction, "label": label}).groupby(bins).mean()
    predicted, observed = DecileState.of(prediction, label, np.ones(len(label))).means()
    np.testing.assert_allclose(predicted, expected["prediction"], rtol=1e-11)
    np.testing.assert_allclose(observed, expected["label"], rtol=1e-11)


@unhurried
@given(rows, st.integers(0, 2**32 - 1))
def test_deciles_share_ties_out_and_lose_nothing(drawn, seed):
    prediction, label, weight = drawn
    order = np.random.default_rng(seed).permutation(len(label))
    state, other = DecileState.of(*drawn), DecileState.of(*(column[order] for column in drawn))
    for name in ("prediction", "label", "weight"):
        np.testing.assert_allclose(getattr(state, name), getattr(other, name), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(state.weight, weight.sum() / 10)
    assert state.label.sum() == pytest.approx(weight @ label, abs=1e-11)
    assert state.prediction.sum() == pytest.approx(weight @ prediction)
    assert (np.diff(state.means()[0]) >= -1e-11).all()


def test_deciles_of_a_constant_prediction_all_see_the_mean():
    _, observed = DecileState.of(np.ones(7), np.arange(7.0), np.ones(7)).means()
    np.testing.assert_allclose(observed, 3)


def test_gini_by_size_ranks_inside_each_interval():
    sizes = SizeIntervals.of({1: 5, 2: 9, 3: 10, 4: 5000}, edges=(1, 10, 100))
    assert sizes.names == ("0", "1_to_9", "10_to_99", "100_up")
    assert sizes.interval(np.array([4, 3, 2, 1, 7, -1])).tolist() == [3, 2, 1, 1, 0, 0]
    prediction, label = np.array([9.0, 1, 2, 5, 3]), np.array([0.0, 4, 6, 1, 2])
    found = gini_by_size(prediction, label, np.array([7, 1, 2, 4, 4]), sizes)
    # Slices 1 and 2 share an interval and are ranked together; slice 7 was never seen in training.
    assert found["1_to_9"] == 1
    assert found["100_up"] == -1
    assert math.isnan(found["0"])
    assert math.isnan(found["10_to_99"])


def test_without_slices_every_row_is_of_an_unseen_one():
    assert SizeIntervals.of({}).interval(np.array([3, 4])).tolist() == [0, 0]


@pytest.mark.parametrize("edges", [(0, 5), (5, 5), (9, 3)], ids=["from zero", "twice the same", "descending"])
def test_edges_that_do_not_ascend_are_refused(edges):
    with pytest.raises(ConfigError, match=r"ascend from 1 or more. Received: edges="):
        SizeIntervals.of({}, edges)


@pytest.mark.parametrize("metric", [norm_gini, spearman, decile_mape, nrmse, nmae, total_error])
def test_a_nan_prediction_is_nan_and_padding_is_nothing(metric):
    label = np.array([1.0, 0, 3])
    assert math.isnan(metric(np.array([1.0, math.nan, 2]), label))
    assert not math.isnan(metric(np.array([1.0, math.nan, 2]), label, np.array([1, 0, 1])))


@pytest.mark.parametrize("metric", [norm_gini, spearman, decile_mape, nrmse, nmae, total_error])
def test_labels_of_zero_alone_leave_everything_undefined(metric):
    assert math.isnan(metric(np.array([1.0, 2, 3]), np.zeros(3)))
    assert math.isnan(metric(np.zeros(0), np.zeros(0)))
