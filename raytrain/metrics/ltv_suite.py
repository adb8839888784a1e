"""All lifetime-value metrics of a split at once: ``update`` with each batch, ``reduce`` over the ranks at the end.

Shapes: B rows, R ranks.
"""

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from raytrain.errors import ConfigError
from raytrain.metrics.calibration import CalibrationState
from raytrain.metrics.collectives import gather, world_size
from raytrain.metrics.gini_by_size import SizeIntervals
from raytrain.metrics.nmae import AbsoluteErrorState
from raytrain.metrics.nrmse import SquaredErrorState
from raytrain.metrics.over_ranks import reduce_auc, reduce_deciles, reduce_gini
from raytrain.metrics.pending import PENDING_ROWS, PendingRows
from raytrain.metrics.rows import Columns, GroupSample, where
from raytrain.metrics.total_error import relative_total_error

NAN = float("nan")

_WITHOUT_SIZES = SizeIntervals.of({}, ())


class LtvSuite:
    """Gini, Spearman, AUC of paying, decile calibration, NRMSE, NMAE and totals of the rows seen; Gini by size of the slice.

    Results agree to about 1e-12 for any order of the rows, any number of ranks and any split over them, as long as no
    rank holds more than its share ``exact_limit_rows / R``; above it what ranks rows is computed on a sample of whole
    groups (see ``raytrain.metrics.rows``) and the sums stay exact, so that memory is bounded by the share.
    """

    def __init__(self, sizes: SizeIntervals | None = None, exact_limit_rows: int = 10_000_000) -> None:
        """sizes: internal training rows of each slice, the same on every rank; None: no Gini by size.

        Raises:
            ConfigError: the limit is below one row.
        """
        if exact_limit_rows < 1:
            raise ConfigError(f"exact_limit_rows has to be at least 1. Received: exact_limit_rows={exact_limit_rows}. Raise it.")
        self._sizes = sizes
        self._limit_rows = exact_limit_rows
        self._sample = GroupSample.without_rows(("ltv", "pay", "label", "weight"), ("group", "interval"))
        self._squared_error = SquaredErrorState()
        self._absolute_error = AbsoluteErrorState()
        self._totals = CalibrationState()
        self._payers = CalibrationState()
        self._num_payers = 0
        self._num_by_size = np.zeros(len((sizes or _WITHOUT_SIZES).names), np.int64)
        self._pending = PendingRows()

    def update(self, prediction: Mapping[str, Tensor], label: Tensor, group: Tensor, weight: Tensor, slices: Tensor) -> None:
        """Takes B rows, on any device; they are copied, so the caller may reuse the tensors.

        prediction: ``ltv`` float [B], an amount, and ``pay`` float [B], any score of label > 0. label: float [B] >= 0.
        group, slices: int64 [B]. weight: float [B]; a row of weight 0 is padding and counts nowhere, whatever its other
        columns hold.

        Raises:
            DataError: the tensors are not vectors of one length.
        """
        columns = {"ltv": prediction["ltv"], "pay": prediction["pay"], "label": label, "group": group, "weight": weight}
        self._pending.add({**columns, "slice": slices})
        if self._pending.num_rows >= min(PENDING_ROWS, self._capacity()):
            self._settle()

    def merge(self, other: "LtvSuite") -> None:
        """Adds the rows of another suite of this process, which has the same sizes."""
        self._settle()
        other._settle()
        self._sample = self._sample.merge(other._sample, self._capacity())
        self._squared_error = self._squared_error.merge(other._squared_error)
        self._absolute_error = self._absolute_error.merge(other._absolute_error)
        self._totals = self._totals.merge(other._totals)
        self._payers = self._payers.merge(other._payers)
        self._num_payers += other._num_payers
        self._num_by_size += other._num_by_size

    def reduce(self) -> dict[str, float]:
        """The metrics over all ranks, the same on each; a collective. Rows stay, so it may be called again after more updates.

        Keys: norm_gini, spearman, pay_auc (of label > 0 by the ``pay`` column), decile_mape, nrmse, nmae, total_ratio (predicted
        over true), total_error (its distance from 1); num_rows, num_payers (rows of weight other than 0, label above 0);
        decile_K_predicted and decile_K_observed, the mean of each tenth of the rows by ascending prediction, K in 1..10;
        with sizes, norm_gini_slice_I and num_rows_slice_I for each interval I of internal training rows of the slice, such
        as 1_to_9; ranked_group_share, of the groups that what ranks rows was computed on, 1 when exact. What is undefined,
        such as a Gini of equal labels, is NaN.
        """
        self._settle()
        sums = [*self._squared_error, *self._absolute_error, *self._totals, *self._payers, self._num_payers, *self._num_by_size]
        every = gather(np.array([*sums, self._sample.level], dtype=np.float64))
        totals = iter(every[:, :-1].sum(axis=0).tolist())
        squared = SquaredErrorState(*(next(totals) for _ in self._squared_error))
        absolute = AbsoluteErrorState(*(next(totals) for _ in self._absolute_error))
        amounts = CalibrationState(next(totals), next(totals))
        payers = CalibrationState(next(totals), next(totals))
        num_payers, num_by_size = next(totals), list(totals)
        # All ranks must agree on the level: it decides which rows count.
        sample = self._sample.at_level(int(every[:, -1].max()))
        rows = sample.rows
        # A NaN among rows reaches their sums, and a ranking of NaN means nothing.
        is_known = not (np.isnan(amounts.prediction) or np.isnan(amounts.label))
        pay_auc = reduce_auc(rows["pay"], rows["label"], rows["weight"])
        return {
            **_ranked(rows, is_known),
            "pay_auc": pay_auc if not np.isnan(payers.prediction + amounts.label) else NAN,
            "nrmse": squared.value(),
            "nmae": absolute.value(),
            "total_ratio": amounts.value(),
            "total_error": relative_total_error(amounts),
            "num_rows": sum(num_by_size),
            "num_payers": num_payers,
            **(_by_size(rows, self._sizes, num_by_size, is_known) if self._sizes else {}),
            "ranked_group_share": sample.share,
        }

    def _capacity(self) -> int:
        return -(-self._limit_rows // world_size())

    def _settle(self) -> None:
        """Moves pending rows to the host (a host sync) and into the states."""
        rows = self._pending.take()
        if rows is None:
            return
        rows["interval"] = (self._sizes or _WITHOUT_SIZES).interval(rows.pop("slice"))
        ltv, label, weight = rows["ltv"], rows["label"], rows["weight"]
        self._squared_error = self._squared_error.merge(SquaredErrorState.of(ltv, label, weight))
        self._absolute_error = self._absolute_error.merge(AbsoluteErrorState.of(ltv, label, weight))
        self._totals = self._totals.merge(CalibrationState.of(ltv, label, weight))
        self._payers = self._payers.merge(CalibrationState.of(rows["pay"], label > 0, weight))
        self._num_payers += int(np.count_nonzero(label > 0))
        self._num_by_size += np.bincount(rows["interval"], minlength=len(self._num_by_size))
        self._sample = self._sample.merge(GroupSample((rows,)), self._capacity())


def _ranked(rows: Columns, is_known: bool) -> dict[str, float]:
    """Gini, Spearman and the decile table over all ranks."""
    gini, spearman = reduce_gini(rows["ltv"], rows["label"], rows["weight"])
    deciles = reduce_deciles(rows["ltv"], rows["label"], rows["weight"])
    found = {"norm_gini": gini.value(), "spearman": spearman.value(), "decile_mape": deciles.mape()}
    for number, (predicted, observed) in enumerate(zip(*deciles.means(), strict=True), start=1):
        found |= {f"decile_{number}_predicted": float(predicted), f"decile_{number}_observed": float(observed)}
    return found if is_known else dict.fromkeys(found, NAN)


def _by_size(rows: Columns, sizes: SizeIntervals, num_rows: list[float], is_known: bool) -> dict[str, float]:
    """Gini by interval over all ranks; all ranks take the intervals in one order."""
    found = {}
    for number, name in enumerate(sizes.names):
        own = where(rows, rows["interval"] == number)
        gini, _ = reduce_gini(own["ltv"], own["label"], own["weight"])
        found[f"norm_gini_slice_{name}"] = gini.value() if is_known else NAN
        found[f"num_rows_slice_{name}"] = num_rows[number]
    return found
