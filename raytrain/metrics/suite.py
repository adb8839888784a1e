"""All metrics of a split at once: ``update`` with each batch, ``reduce`` over the ranks at the end.

Shapes: B rows, R ranks.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from raytrain.errors import ConfigError, DataError
from raytrain.metrics.auc import AucHistogram, RankedRows
from raytrain.metrics.calibration import CalibrationState
from raytrain.metrics.collectives import all_sum, exchange, gather, world_size
from raytrain.metrics.gauc import GaucState
from raytrain.metrics.logloss import LogLossState
from raytrain.metrics.ne import normalised_entropy
from raytrain.metrics.rows import RankingState, Rows, hash_groups

NAN = float("nan")

_PENDING_ROWS = 1 << 18
"""Rows left on their device before they are copied to the host: one host sync for so many rows."""
_NUM_SPLITTER_SAMPLES = 1024


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
        self._ranking = RankingState(num_bins)
        self._log_loss = LogLossState()
        self._calibration = CalibrationState()
        self._num_rows = 0
        self._num_positives = 0
        self._pending: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._num_pending = 0

    def update(self, prediction: Tensor, label: Tensor, group: Tensor, weight: Tensor) -> None:
        """Takes B rows, on any device; they are copied, so the caller may reuse the tensors.

        prediction: float [B], a probability. label: float [B]. group: int64 [B]. weight: float [B]; a row of weight 0
        is padding and counts nowhere, whatever its other columns hold.

        Raises:
            DataError: the tensors are not vectors of one length.
        """
        if prediction.ndim != 1 or not prediction.shape == label.shape == group.shape == weight.shape:
            raise DataError(
                "prediction, label, group and weight have to be vectors of one length. "
                f"Received: shapes {tuple(prediction.shape)}, {tuple(label.shape)}, {tuple(group.shape)}, {tuple(weight.shape)}. "
                "Squeeze the prediction or pass the batch's own columns."
            )
        # A copy, because a view would keep alive the whole block that a batch was cut from.
        self._pending.append(
            (
                prediction.detach().to(torch.float32, copy=True),
                label.detach().to(torch.float32, copy=True),
                weight.detach().to(torch.float32, copy=True),
                group.detach().to(torch.int64, copy=True),
            )
        )
        self._num_pending += len(label)
        if self._num_pending >= min(_PENDING_ROWS, self._capacity()):
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
        own = np.array([self._num_rows, self._num_positives, *self._log_loss, *self._calibration, self._ranking.level], dtype=np.float64)
        every = gather(own)
        num_rows, num_positives, loss, weight, predicted, observed = every[:, :-1].sum(axis=0).tolist()
        # All ranks must agree on the level: it decides which collectives follow.
        ranking = self._ranking.at_level(int(every[:, -1].max()))
        area, error_bound = _reduce_auc(ranking)
        grouped = _reduce_gauc(ranking.rows)
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
            "gauc_group_share": 2.0**-ranking.level,
        }

    def _capacity(self) -> int:
        return -(-self._limit_rows // world_size())

    def _settle(self) -> None:
        """Moves pending rows to the host (a host sync) and into the states."""
        if not self._pending:
            return
        prediction, label, weight, group = (torch.cat(column).cpu().numpy() for column in zip(*self._pending, strict=True))
        self._pending, self._num_pending = [], 0
        rows = Rows(prediction, label, weight, group).where(weight != 0)
        self._num_rows += rows.num_rows
        self._num_positives += int(np.count_nonzero(rows.label > 0))
        self._log_loss = self._log_loss.merge(LogLossState.of(rows.prediction, rows.label, rows.weight))
        self._calibration = self._calibration.merge(CalibrationState.of(rows.prediction, rows.label, rows.weight))
        self._ranking = self._ranking.merge(RankingState(self._ranking.num_bins, (rows,)), self._capacity())


def _reduce_auc(ranking: RankingState) -> tuple[float, float]:
    """(AUC, error bound) over all ranks, which are at one level."""
    if ranking.histogram is not None:
        positive, negative = all_sum(np.stack([ranking.histogram.positive, ranking.histogram.negative]))
        histogram = AucHistogram(positive, negative)
        return histogram.value(), histogram.error_bound()
    rows = ranking.rows
    prediction, label, weight = exchange([rows.prediction, rows.label, rows.weight], _range_owner(rows.prediction))
    own = RankedRows.of(prediction, label).pairs(weight.astype(np.float64))
    ordered, positive, negative = gather(np.array(own)).T
    # Rank r holds higher predictions than the ranks before it: its positives beat all of their negatives.
    beaten = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return (float((ordered + positive * beaten).sum() / pairs), 0.0) if pairs else (NAN, NAN)


def _range_owner(prediction: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """Parts the predictions into R ranges of about equally many rows: the rank of each row, [B]; equal ones go together."""
    sample = np.full(_NUM_SPLITTER_SAMPLES, np.nan)
    taken = prediction[:: max(1, -(-len(prediction) // _NUM_SPLITTER_SAMPLES))]
    sample[: len(taken)] = taken
    known = gather(sample).ravel()
    known = np.sort(known[~np.isnan(known)])
    cuts = np.arange(1, world_size()) * len(known) // world_size()
    splitters = known[cuts] if len(known) else np.zeros(len(cuts))
    return np.searchsorted(splitters, prediction, side="right")


def _reduce_gauc(rows: Rows) -> GaucState:
    """GAUC over all ranks: a group's rows meet on the rank its hash names."""
    owner = (hash_groups(rows.group) % np.uint64(world_size())).astype(np.intp)
    prediction, label, group, weight = exchange([rows.prediction, rows.label, rows.group, rows.weight], owner)
    own = GaucState.of(prediction, label, group, weight)
    return GaucState(*gather(np.array(own, dtype=np.float64)).sum(axis=0).tolist())
