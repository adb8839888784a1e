"""Ranking metrics of rows that lie on several ranks: rows travel to where their neighbours are, sums come back.

Every function is a collective and gives the same on every rank. Shapes: B rows of this rank, weights not 0; R ranks.
"""

import numpy as np
import numpy.typing as npt

from raytrain.metrics.auc import RankedRows
from raytrain.metrics.collectives import exchange, gather, own_rank, world_size
from raytrain.metrics.deciles import DecileState
from raytrain.metrics.gauc import GaucState
from raytrain.metrics.gini import GiniState
from raytrain.metrics.logloss import Array
from raytrain.metrics.ranking import Ranking
from raytrain.metrics.rows import Columns, hash_groups
from raytrain.metrics.spearman import SpearmanState

_NUM_SPLITTER_SAMPLES = 1024


def reduce_auc(prediction: Array, label: Array, weight: Array) -> float:
    """Exact AUC of all ranks' rows; NaN when a class is missing."""
    prediction, label, weight = exchange([prediction, label, weight], _range_owner(prediction))
    own = RankedRows.of(prediction, label).pairs(weight.astype(np.float64))
    ordered, positive, negative = gather(np.array(own)).T
    # Rank r holds higher predictions than the ranks before it: its positives beat all of their negatives.
    beaten = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float((ordered + positive * beaten).sum() / pairs) if pairs else float("nan")


def reduce_gauc(rows: Columns) -> GaucState:
    """GAUC over all ranks: a group's rows meet on the rank its hash names. Columns: prediction, label, group, weight."""
    owner = (hash_groups(rows["group"]) % np.uint64(world_size())).astype(np.intp)
    prediction, label, group, weight = exchange([rows[name] for name in ("prediction", "label", "group", "weight")], owner)
    return GaucState(*_sum_over_ranks(np.array(GaucState.of(prediction, label, group, weight))).tolist())


def reduce_gini(prediction: Array, label: Array, weight: Array) -> tuple[GiniState, SpearmanState]:
    """Gini and Spearman of all ranks' rows, from the same centred ranks: rows travel twice, by prediction and by label."""
    prediction, label, weight = exchange([prediction, label, weight], _range_owner(prediction))
    by_prediction = _centred(prediction, weight)
    label, weight, by_prediction = exchange([label, weight, by_prediction], _range_owner(label))
    by_label, own = _centred(label, weight), weight.astype(np.float64)
    gini = GiniState.summed(label, own, by_prediction, by_label)
    spearman = SpearmanState.summed(own, by_prediction, by_label)
    sums = _sum_over_ranks(np.array([*gini, *spearman])).tolist()
    return GiniState(*sums[: len(gini)]), SpearmanState(*sums[len(gini) :])


def reduce_deciles(prediction: Array, label: Array, weight: Array) -> DecileState:
    """The decile table of all ranks' rows."""
    prediction, label, weight = exchange([prediction, label, weight], _range_owner(prediction))
    own = weight.astype(np.float64)
    totals = gather(np.array([own.sum()]))[:, 0]
    state = DecileState.of(prediction, label, own, float(totals[: own_rank()].sum()), float(totals.sum()))
    return DecileState(*_sum_over_ranks(np.stack([state.prediction, state.label, state.weight])))


def _sum_over_ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Adds the ranks up in their order, so that all get the same bits."""
    summed: npt.NDArray[np.float64] = np.sum(gather(values), axis=0)
    return summed


def _centred(score: Array, weight: Array) -> npt.NDArray[np.float64]:
    """Centred ranks, [B], among all rows; this rank holds all rows of a range of scores."""
    own = weight.astype(np.float64)
    totals = gather(np.array([own.sum()]))[:, 0]
    rank = own_rank()
    return Ranking.of(score).centred(own) + float(totals[:rank].sum() - totals[rank + 1 :].sum())


def _range_owner(score: Array) -> npt.NDArray[np.intp]:
    """Parts the scores into R ranges of about equally many rows: the rank of each row, [B]; equal ones go together."""
    sample = np.full(_NUM_SPLITTER_SAMPLES, np.nan)
    taken = score[:: max(1, -(-len(score) // _NUM_SPLITTER_SAMPLES))]
    sample[: len(taken)] = taken
    known = gather(sample).ravel()
    known = np.sort(known[~np.isnan(known)])
    cuts = np.arange(1, world_size()) * len(known) // world_size()
    splitters = known[cuts] if len(known) else np.zeros(len(cuts))
    return np.searchsorted(splitters, score, side="right")
