"""What gain evaluation looks at in a step, and what it says of each row.

Shapes: B rows of this rank, T tasks, E size of a tower input.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain.data.batch import Batch
from raytrain.models.adsnet.backbone import BackboneInputs
from raytrain.models.adsnet.pair import PairOutput

Reduce = Callable[[Tensor], Tensor]
"""A tensor -> its sum over ranks; a collective, so every rank calls it equally often."""


def one_rank(value: Tensor) -> Tensor:
    """The ``Reduce`` of a single process."""
    return value


@dataclass(frozen=True)
class JudgedRows:
    """Rows and their cached activations, detached; of a step, or of the held-out internal probe."""

    label: Tensor
    """float [B]"""
    weight: Tensor
    """float [B]; 0 on padding"""
    is_external: Tensor
    """bool [B]"""
    slice: Tensor
    """int64 [B], 0..num_slices-1; of internal rows only the ``paired`` estimator reads it"""
    fold: Tensor
    """int64 [B], 0 or 1, the same whenever the row comes by: halves of the data, for the test of purity"""
    vanilla_inputs: BackboneInputs
    gain_inputs: BackboneInputs
    tower_inputs: Tensor
    """[B, T, E] of the gain network"""

    @classmethod
    def of(cls, output: PairOutput, batch: Batch, slices: Tensor) -> "JudgedRows":
        """Rows as the pair has just seen them in its joint stage; ``slices`` int64 [B]."""
        return cls(
            label=batch.label,
            weight=batch.weight,
            is_external=batch.domain != 0,
            slice=slices,
            fold=fold_of(batch),
            vanilla_inputs=output.vanilla_inputs,
            gain_inputs=output.gain_inputs,
            tower_inputs=output.tower_inputs,
        )

    @property
    def internal_weight(self) -> Tensor:
        """``weight`` of internal rows, 0 on external ones, [B]."""
        return self.weight * ~self.is_external


def fold_of(batch: Batch) -> Tensor:
    """0 or 1 of each row, int64 [B]: a function of its time and ids alone."""
    key = batch.time
    for ids in batch.ids.values():
        key = key * 31 + ids.reshape(batch.num_rows, -1).sum(1)
    # The high bits of a product by an odd constant: parity alone would follow a feature of even codes.
    return (key * 0x9E3779B97F4A7C1 >> 40) & 1


@dataclass(frozen=True)
class RowGains:
    """What training on each row is worth on the probe."""

    gain: Tensor
    """float [B]"""
    evidence: Tensor
    """float [B], what the row's gain weighs; 0 where the estimator says nothing of it"""
    probe_gain: Tensor | None = None
    """float, of each of this rank's held-out internal rows; None at a step that looks at none"""
    loss: Tensor | None = None
    """float [B], of each row as the gain network is now; None where the estimator knows it not"""
    probe_loss: Tensor | None = None
    """float, of the rows that ``probe_gain`` is of"""

    @classmethod
    def unknown(cls, rows: JudgedRows) -> "RowGains":
        zeros = torch.zeros_like(rows.weight)
        return cls(zeros, zeros)
