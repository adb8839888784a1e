"""The paired bootstrap: right point, planted difference found, users and not rows resampled."""

import math

import numpy as np
import pytest

from raytrain.errors import DataError
from raytrain.metrics.auc import auc
from raytrain.metrics.bootstrap import Metric, paired_bootstrap
from raytrain.metrics.calibration import pcoc
from raytrain.metrics.gauc import gauc
from raytrain.metrics.gini import norm_gini
from raytrain.metrics.logloss import logloss
from raytrain.metrics.spearman import spearman
from raytrain.metrics.total_error import total_error

METRICS: tuple[Metric, ...] = ("auc", "gauc", "logloss")
LTV_METRICS: tuple[Metric, ...] = ("norm_gini", "spearman", "pay_auc", "total_ratio", "total_error")
PLAIN = {
    "auc": auc,
    "logloss": logloss,
    "norm_gini": norm_gini,
    "spearman": spearman,
    "pay_auc": auc,
    "total_ratio": pcoc,
    "total_error": total_error,
}


def plain(metric: Metric, prediction: np.ndarray, label: np.ndarray, group: np.ndarray) -> float:
    if metric == "gauc":
        return gauc(prediction, label, group)
    return PLAIN[metric](prediction, label)


def planted(num_users: int = 400, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """Two seeds of a good model A and of a noisier B; labels drawn from the truth."""
    generator = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_users) * 7 + 3, generator.integers(1, 12, num_users))
    logit = generator.normal(-0.5, 1, len(group))
    label = (generator.random(len(group)) < 1 / (1 + np.exp(-logit))).astype(np.float32)

    def model(noise: float) -> np.ndarray:
        return np.round(1 / (1 + np.exp(-logit - generator.normal(0, noise, len(group)))), 3)

    return [model(0.3), model(0.3)], [model(1.5), model(1.5)], label, group


def planted_for(metric: Metric, num_users: int = 400) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray, np.ndarray]:
    """The same with amounts: a row that paid did so in tiers, and the models know the tier as well as they know the click."""
    a, b, label, group = planted(num_users)
    if metric in METRICS:
        return a, b, label, group
    tier = np.random.default_rng(1).choice(np.array([1, 6, 30, 328], dtype=np.float32), len(label))
    return [p * tier for p in a], [p * tier for p in b], label * tier, group


@pytest.mark.parametrize("metric", [*METRICS, *LTV_METRICS])
def test_the_point_is_the_metric_of_all_rows(metric):
    a, b, label, group = planted_for(metric)
    expected = np.mean([plain(metric, p, label, group) for p in a]) - np.mean([plain(metric, p, label, group) for p in b])
    assert paired_bootstrap(a, b, label, group, metric, num_resamples=2)[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("metric", [*METRICS, *LTV_METRICS])
def test_a_resample_is_whole_users_repeated(metric):
    a, b, label, group = planted_for(metric, num_users=40)
    _, low, high = paired_bootstrap(a, b, label, group, metric, num_resamples=1, seed=5)
    assert low == high
    users = np.unique(group)
    drawn = users[np.random.default_rng(5).integers(len(users), size=len(users))]
    rows = np.concatenate([np.flatnonzero(group == user) for user in drawn])
    copy = np.concatenate([np.full((group == user).sum(), k) for k, user in enumerate(drawn)])
    values = [[plain(metric, p[rows], label[rows], copy) for p in model] for model in (a, b)]
    assert low == pytest.approx(np.mean(values[0]) - np.mean(values[1]), rel=1e-12)


@pytest.mark.parametrize("metric", [*METRICS, "norm_gini", "spearman", "pay_auc"])
def test_a_planted_difference_is_found(metric):
    a, b, label, group = planted_for(metric)
    difference, low, high = paired_bootstrap(a, b, label, group, metric, num_resamples=200)
    better = -1 if metric == "logloss" else 1
    assert low < difference < high
    assert min(better * low, better * high) > 0


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    # Log loss of two constants: the true difference is known in closed form.
    truth = -(0.3 * math.log(0.3) + 0.7 * math.log(0.7)) + (0.3 * math.log(0.4) + 0.7 * math.log(0.6))
    covered = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        group = np.repeat(np.arange(150), 4)
        label = (generator.random(600) < 0.3).astype(float)
        _, low, high = paired_bootstrap([np.full(600, 0.3)], [np.full(600, 0.4)], label, group, "logloss", 200, seed)
        covered += low <= truth <= high
    assert covered >= 88


def test_equal_models_differ_by_nothing():
    a, _, label, group = planted()
    assert paired_bootstrap(a, a, label, group, "auc", num_resamples=20) == (0, 0, 0)


def test_the_seed_decides():
    a, b, label, group = planted(num_users=50)
    first = paired_bootstrap(a, b, label, group, "gauc", 50, seed=1)
    assert first == paired_bootstrap(a, b, label, group, "gauc", 50, seed=1)
    assert first[1:] != paired_bootstrap(a, b, label, group, "gauc", 50, seed=2)[1:]


@pytest.mark.parametrize("metric", ["auc", "gauc"])
def test_one_class_gives_nan(metric):
    result = paired_bootstrap([np.array([0.1, 0.2])], [np.array([0.2, 0.1])], np.zeros(2), np.array([1, 2]), metric, 10)
    assert all(math.isnan(value) for value in result)


@pytest.mark.parametrize(
    ("a", "label"),
    [([], [1.0, 0.0]), ([np.zeros(3)], [1.0, 0.0]), ([np.zeros(0)], [])],
    ids=["no seed", "a longer prediction", "no row"],
)
def test_unusable_input_is_refused(a, label):
    with pytest.raises(DataError, match="as long as the label"):
        paired_bootstrap(a, a, np.array(label), np.zeros(len(label), dtype=np.int64), "auc")
