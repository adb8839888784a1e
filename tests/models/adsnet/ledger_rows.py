"""Rows by hand for the ledger: of a step, and of looks at held-out ones."""

import torch

from raytrain.models.adsnet.backbone import BackboneInputs
from raytrain.models.adsnet.gain.ledger import GainLedger
from raytrain.models.adsnet.gain.rows import JudgedRows, RowGains


def rows_of(slices: list[int], num_internal: int = 0, weight: list[float] | None = None, label: list[float] | None = None) -> JudgedRows:
    """Internal rows first, then one external row for each slice named."""
    num_rows = num_internal + len(slices)
    unused = BackboneInputs(torch.empty(num_rows, 0, 0), torch.empty(num_rows, 0))
    return JudgedRows(
        label=torch.zeros(num_rows) if label is None else torch.tensor(label),
        weight=torch.ones(num_rows) if weight is None else torch.tensor(weight),
        is_external=torch.arange(num_rows) >= num_internal,
        slice=torch.tensor([0] * num_internal + slices, dtype=torch.int64),
        fold=torch.arange(num_rows) % 2,
        vanilla_inputs=unused,
        gain_inputs=unused,
        tower_inputs=torch.empty(num_rows, 0, 0),
    )


def put(ledger: GainLedger, rows: JudgedRows, gain: list[float], loss: list[float] | None = None) -> None:
    losses = None if loss is None else torch.tensor(loss)
    ledger.update(ledger.sums(RowGains(torch.tensor(gain), rows.weight, loss=losses), rows))


def look(ledger: GainLedger, gain: list[float], label: list[float] | None = None, loss: list[float] | None = None) -> None:
    """A step of held-out rows alone."""
    losses = None if loss is None else torch.tensor(loss)
    none = RowGains(torch.empty(0), torch.empty(0), probe_gain=torch.tensor(gain), probe_loss=losses)
    ledger.update(ledger.sums(none, rows_of([]), rows_of([], num_internal=len(gain), label=label)))
