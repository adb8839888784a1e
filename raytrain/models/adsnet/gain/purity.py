"""Whether slices are pure enough for their gains to mean anything.

A slice's mean gain can tell it from others only where harm sits in some slices more than in others. The statistic (ours) asks what
of the average harm the better half of the slices still carries: well below a half where they are pure, 1 where all hold one mixture.

    harm          = - mean gain of external rows
    residual harm = - mean gain of the better half / harm

It is cross-fitted: which half is better is told by one fold of the rows, its gain by the other, and the two ways are averaged. Folds
are of different rows, for a slice of a few hundred rows that come by in every epoch differs from the next for good, by luck. A
share of the harm needs no tuning to the noise of labels, as a variance would. Gains are compared by class of label, so what a mix of
labels does is not in it.

Shapes: S slices.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_RESIDUAL_HARM = 0.6
MIN_HARM = 0.05
"""In units of the ledger; below it there is nothing to separate."""


@dataclass(frozen=True)
class Purity:
    """The verdict on a slice column."""

    harm: float
    """What an external row takes from the probe on average, in units of the ledger; below 0 it gives"""
    residual_harm: float
    """Share of the harm in the better half of the slices; 0 where there is no harm to speak of"""
    agreement: float
    """Correlation over slices of the two folds' mean gains; 0 where slices do not differ"""

    @property
    def is_impure(self) -> bool:
        """Whether there is harm that the slices do not separate: then their gains decide nothing."""
        return self.residual_harm > MAX_RESIDUAL_HARM


def purity_of(gain: Tensor, rows: Tensor) -> Purity:
    """gain, rows [2, S]: sums of gain and of weight of each slice's rows, by fold; slices without rows in both are left out."""
    seen = (rows > 0).all(0)
    gain, rows = gain[:, seen], rows[:, seen]
    if gain.shape[1] < 2:
        return Purity(0.0, 0.0, 0.0)
    harm = float(-gain.sum() / rows.sum())
    mean = gain / rows
    agreement = torch.corrcoef(mean)[0, 1].nan_to_num()
    residual = 0.0
    if harm > MIN_HARM:
        better = (_better_half(mean[0], gain[1], rows) + _better_half(mean[1], gain[0], rows.flip(0))) / 2
        residual = float(-better) / harm
    return Purity(harm, residual, float(agreement))


def _better_half(mean: Tensor, gain: Tensor, rows: Tensor) -> Tensor:
    """Mean ``gain`` [S] over ``rows[1]`` of the slices that are best by ``mean`` [S] and hold half of ``rows[0]``, [2, S]."""
    order = torch.argsort(mean, descending=True)
    before = rows[0][order].cumsum(0) - rows[0][order]
    # The slice that completes the half counts as far as it is needed for it.
    share = ((0.5 * rows[0].sum() - before) / rows[0][order]).clamp(0.0, 1.0)
    return (gain[order] * share).sum() / (rows[1][order] * share).sum()
