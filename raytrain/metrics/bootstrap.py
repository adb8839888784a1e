"""Is model A better than model B? A paired bootstrap over users (Efron and Tibshirani, 1993, chapters 8 and 13).

Rows of a user are not independent, so users are drawn, not rows; both models and all seeds see the same draws.
Rows are sorted once per prediction vector: a draw is a multiplicity for each user, used as a weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from raytrain.errors import DataError
from raytrain.metrics.auc import RankedRows
from raytrain.metrics.gauc import group_aucs
from raytrain.metrics.gini import GiniState
from raytrain.metrics.logloss import Array, row_losses
from raytrain.metrics.ranking import Ranking
from raytrain.metrics.spearman import SpearmanState

ClickMetric = Literal["auc", "gauc", "logloss"]
CLICK_METRICS: tuple[ClickMetric, ...] = get_args(ClickMetric)
RankedLtvMetric = Literal["norm_gini", "spearman", "pay_auc", "total_error"]
LtvMetric = RankedLtvMetric | Literal["total_ratio"]
Metric = ClickMetric | LtvMetric
"""``pay_auc`` is the AUC of a label above 0: its prediction vectors are those of paying, the others' those of the amount."""
ComparedMetric = ClickMetric | RankedLtvMetric
"""What one model can be better in than another: ``total_ratio`` is best at 1 and has no order."""
Multiplicity = npt.NDArray[np.float64]
Scorer = Callable[[Multiplicity], float]
"""How often each group was drawn -> the metric."""


def paired_bootstrap(
    predictions_a: Sequence[Array],
    predictions_b: Sequence[Array],
    label: Array,
    group: Array,
    metric: Metric,
    num_resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """(difference, low, high): metric of A less metric of B, each a mean over seeds, with its 95 % percentile interval.

    predictions_a, predictions_b: one [N] vector a seed, NaN-free. label: [N]. group: int64 [N].
    Resamples without both classes, or with equal amounts alone (a few users), are left out of the interval; where no value
    is defined it is NaN.

    Raises:
        DataError: no seed, no row, or vectors of different lengths.
    """
    lengths = [len(vector) for vector in (*predictions_a, *predictions_b, group)]
    if not predictions_a or not predictions_b or len(label) == 0 or any(length != len(label) for length in lengths):
        raise DataError(
            "A bootstrap has to have rows and, for each model, a prediction vector as long as the label. "
            f"Received: {len(predictions_a)} and {len(predictions_b)} vectors, label={len(label)} rows, "
            f"predictions and group={sorted(set(lengths))} rows. Predict the same rows with every model and seed."
        )
    groups, user = np.unique(group, return_inverse=True)
    scorers_a = [scorer(metric, prediction, label, user) for prediction in predictions_a]
    scorers_b = [scorer(metric, prediction, label, user) for prediction in predictions_b]

    def difference(multiplicity: Multiplicity) -> float:
        return _mean(scorers_a, multiplicity) - _mean(scorers_b, multiplicity)

    return interval(difference, len(groups), num_resamples, seed)


def interval(statistic: Scorer, num_groups: int, num_resamples: int = 1000, seed: int = 0) -> tuple[float, float, float]:
    """(value over every group once, low, high): a statistic of groups with its 95 % percentile interval.

    Resamples where it is NaN are left out of the interval, which is NaN where no value is defined.
    """
    generator = np.random.default_rng(seed)
    draws = np.empty(num_resamples)
    for k in range(num_resamples):
        drawn = generator.integers(num_groups, size=num_groups)
        draws[k] = statistic(np.bincount(drawn, minlength=num_groups).astype(np.float64))
    defined = draws[~np.isnan(draws)]
    low, high = np.percentile(defined, [2.5, 97.5]) if len(defined) else (np.nan, np.nan)
    return statistic(np.ones(num_groups)), float(low), float(high)


def scorer(metric: Metric, prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    """The metric of [N] rows as a function of how often each group was drawn; user: [N], index of each row's group."""
    return _SCORERS[metric](np.asarray(prediction), np.asarray(label), user)


def prediction_column(metric: Metric) -> str:
    """The column of a predictions file that a metric scores: prediction (a click's), ltv (an amount) or pay (a score of paying)."""
    if metric in CLICK_METRICS:
        return "prediction"
    return "pay" if metric == "pay_auc" else "ltv"


def metric_of(prediction: Array, label: Array, group: Array, metric: Metric) -> float:
    """The metric of one [N] prediction vector over every group once, as ``paired_bootstrap`` scores it; NaN where undefined."""
    groups, user = np.unique(group, return_inverse=True)
    return scorer(metric, prediction, label, user)(np.ones(len(groups)))


def _mean(scorers: Sequence[Scorer], multiplicity: Multiplicity) -> float:
    return sum(score(multiplicity) for score in scorers) / len(scorers)


def _auc_scorer(prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    ranked = RankedRows.of(prediction, label)
    # Pointing rows at their users lets a multiplicity [users] stand where row weights would.
    return replace(ranked, positives=user[ranked.positives], negatives=user[ranked.negatives]).auc


def _gauc_scorer(prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    _, areas, impressions = group_aucs(prediction, label, user, np.ones(len(label)))
    weights = np.where(np.isnan(areas), 0.0, impressions)
    return _ratio_scorer(np.nan_to_num(areas) * weights, weights)


def _logloss_scorer(prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    losses = np.bincount(user, row_losses(prediction, label)).astype(np.float64)
    return _ratio_scorer(losses, np.bincount(user).astype(np.float64))


def _gini_scorer(prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    # Rows of no value add nothing to the sums, and are most rows: they are ranked, but their ranks are never read.
    valued = np.flatnonzero(label)
    amount, owner = label[valued].astype(np.float64), user[valued]
    by_prediction, by_label = _ranking_of_users(prediction, user, valued), _ranking_of_users(label, user, valued)

    def score(multiplicity: Multiplicity) -> float:
        ranks = by_prediction.centred(multiplicity), by_label.centred(multiplicity)
        return GiniState.summed(amount, multiplicity[owner], *ranks).value()

    return score


def _spearman_scorer(prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    # By ascending prediction half of the look-ups walk memory in order.
    rows = np.argsort(prediction)
    owner = user[rows]
    by_prediction, by_label = _ranking_of_users(prediction, user, rows), _ranking_of_users(label, user, rows)

    def score(multiplicity: Multiplicity) -> float:
        ranks = by_prediction.centred(multiplicity), by_label.centred(multiplicity)
        return SpearmanState.summed(multiplicity[owner], *ranks).value()

    return score


def _ranking_of_users(score: Array, user: npt.NDArray[np.intp], rows: npt.NDArray[np.intp]) -> Ranking:
    """Centred ranks of some rows among all, where a multiplicity [users] stands for row weights."""
    ranking = Ranking.of(score)
    return Ranking(user[ranking.order], ranking.num_below[rows], ranking.num_through[rows])


def _total_ratio_scorer(prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    predicted, observed = np.bincount(user, prediction), np.bincount(user, label)
    return _ratio_scorer(predicted.astype(np.float64), observed.astype(np.float64))


def _total_error_scorer(prediction: Array, label: Array, user: npt.NDArray[np.intp]) -> Scorer:
    ratio = _total_ratio_scorer(prediction, label, user)
    return lambda multiplicity: abs(ratio(multiplicity) - 1)


def _ratio_scorer(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> Scorer:
    def score(multiplicity: Multiplicity) -> float:
        total = float(multiplicity @ denominator)
        return float(multiplicity @ numerator) / total if total else float("nan")

    return score


_SCORERS: dict[Metric, Callable[[Array, Array, npt.NDArray[np.intp]], Scorer]] = {
    "auc": _auc_scorer,
    "gauc": _gauc_scorer,
    "logloss": _logloss_scorer,
    "norm_gini": _gini_scorer,
    "spearman": _spearman_scorer,
    "pay_auc": _auc_scorer,
    "total_ratio": _total_ratio_scorer,
    "total_error": _total_error_scorer,
}
