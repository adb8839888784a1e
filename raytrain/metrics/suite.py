"""All metrics of a split at once: ``update`` with each batch, ``reduce`` over the ranks at the end.

Shapes: B rows, R ranks.
"""

import numpy as np
from torch import Tensor

from raytrain.errors import ConfigError
from raytrain.metrics.auc import AucHistogram
from raytrain.metrics.calibration import CalibrationState
from raytrain.metrics.collectives import all_sum, gather, world_size
from raytrain.metrics.logloss import LogLossState
from raytrain.metrics.ne import normalised_entropy
from raytrain.metrics.over_ranks import reduce_auc, reduce_gauc
from raytrain.metrics.pending import PENDING_ROWS, PendingRows
from raytrain.metrics.rows import GroupSample, RankingState

NAN = float("nan")


class MetricSuite:
    """AUC, GAUC, log loss, PCOC and NE of the rows seen.

    Results agree to about 1e-12 for any order of the rows, any number of ranks and any split over them, as long as no
    rank holds more than its share ``exact_limit_rows / R``; above it AUC comes from a histogram with its error bound
    and GAUC from a sample of whole groups (see ``raytrain.metrics.rows``), so that memory stays bounded by the share.
    """

    def __init__(self, num_bins: int = 1 << 16, exact_limit_rows: int = 10_000_000) -> None:
        if num_bins < 1 or exact_limit_rows < 1:
            raise ConfigError(
                "num_bins and exact_limit_rows have to be at least 1. "
                f"Received: num_bins={num_bins}, exact_limit_rows={exact_limit_rows}. Raise them."
            )
        self._limit_rows = exact_limit_rows
        self._ranking = RankingState(num_bins, GroupSample.without_rows(("prediction", "label", "weight"), ("group",)))
        self._log_loss = LogLossState()
        self._calibration = CalibrationState()
        self._num_rows = 0
        self._num_positives = 0
        self._pending = PendingRows()

    def update(self, prediction: Tensor, label: Tensor, group: Tensor, weight: Tensor) -> None:
        """Takes B rows, on any device; they are copied, so the caller may reuse the tensors.

        prediction: float [B], a probability. label: float [B]. group: int64 [B]. weight: float [B]; a row of weight 0
        is padding and counts nowhere, whatever its other columns hold.

        Raises:
            DataError: the tensors are not vectors of one length.
        """
        self._pending.add({"prediction": prediction, "label": label, "group": group, "weight": weight})
        if self._pending.num_rows >= min(PENDING_ROWS, self._capacity()):
            self._settle()

    def merge(self, other: "MetricSuite") -> None:
        """Adds the rows of another suite of this process."""
        self._settle()
        other._settle()
        self._ranking = self._ranking.merge(other._ranking, self._capacity())
        self._log_loss = self._log_loss.merge(other._log_loss)
        self._calibration = self._calibration.merge(other._calibration)
        self._num_rows += other._num_rows
        self._num_positives += other._num_positives

    def reduce(self) -> dict[str, float]:
        """The metrics over all ranks, the same on each; a collective. Rows stay, so it may be called again after more updates.

        Keys: auc, gauc, logloss (nats), pcoc, ne; num_rows, num_positives (rows of weight other than 0, label above 0);
        auc_error_bound (0 when exact), gauc_num_groups (groups with both classes), gauc_group_share (share of the
        groups that GAUC was computed on, 1 when exact). What is undefined, such as AUC of one class, is NaN.
        """
        self._settle()
        sums = [self._num_rows, self._num_positives, *self._log_loss, *self._calibration]
        every = gather(np.array([*sums, self._ranking.sample.level], dtype=np.float64))
        num_rows, num_positives, loss, weight, predicted, observed = every[:, :-1].sum(axis=0).tolist()
        # All ranks must agree on the level: it decides which collectives follow.
        ranking = self._ranking.at_level(int(every[:, -1].max()))
        area, error_bound = _reduce_auc(ranking)
        grouped = reduce_gauc(ranking.sample.rows)
        # A NaN among rows reaches their sums, and a ranking of NaN means nothing.
        ranked = not (np.isnan(predicted) or np.isnan(observed))
        log_loss, calibration = LogLossState(loss, weight), CalibrationState(predicted, observed)
        return {
            "auc": area if ranked else NAN,
            "gauc": grouped.value() if ranked else NAN,
            "logloss": log_loss.value(),
            "pcoc": calibration.value(),
            "ne": normalised_entropy(log_loss, calibration),
            "num_rows": num_rows,
            "num_positives": num_positives,
            "auc_error_bound": error_bound if ranked else NAN,
            "gauc_num_groups": grouped.num_groups,
            "gauc_group_share": ranking.sample.share,
        }

    def _capacity(self) -> int:
        return -(-self._limit_rows // world_size())

    def _settle(self) -> None:
        """Moves pending rows to the host (a host sync) and into the states."""
        rows = self._pending.take()
        if rows is None:
            return
        label, predicted = rows["label"], (rows["prediction"], rows["label"], rows["weight"])
        self._num_rows += len(label)
        self._num_positives += int(np.count_nonzero(label > 0))
        self._log_loss = self._log_loss.merge(LogLossState.of(*predicted))
        self._calibration = self._calibration.merge(CalibrationState.of(*predicted))
        self._ranking = self._ranking.merge(RankingState(self._ranking.num_bins, GroupSample((rows,))), self._capacity())


def _reduce_auc(ranking: RankingState) -> tuple[float, float]:
    """(AUC, error bound) over all ranks, which are at one level."""
    if ranking.histogram is not None:
        positive, negative = all_sum(np.stack([ranking.histogram.positive, ranking.histogram.negative]))
        histogram = AucHistogram(positive, negative)
        return histogram.value(), histogram.error_bound()
    rows = ranking.sample.rows
    area = reduce_auc(rows["prediction"], rows["label"], rows["weight"])
    return area, NAN if np.isnan(area) else 0.0
