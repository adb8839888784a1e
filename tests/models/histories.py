"""Histories by reference whose rows, codes and lengths a test chooses."""

import torch

from raytrain.data.batch import Batch, Sequence
from raytrain.models.layers.history_view import HistoryView

NUM_ROWS = 30


def view_of(rows: torch.Tensor, inverse: list[list[int]], side: dict[str, list[list[int]]] | None = None) -> HistoryView:
    """A view whose events are exactly ``inverse`` (places in ``rows``), one list a row of the batch, oldest first; ids are the places."""
    lengths = torch.tensor([len(events) for events in inverse])
    items = _padded(inverse)
    return HistoryView(rows, items, Sequence(items, lengths, {name: _padded(codes) for name, codes in (side or {}).items()}))


def drawn_view(rows: torch.Tensor, lengths: list[int], side: dict[str, int], seed: int = 0) -> HistoryView:
    """Random events of ``rows`` and random codes from 1 on."""
    draw = torch.Generator().manual_seed(seed)
    events = [torch.randint(1, len(rows), (length,), generator=draw).tolist() for length in lengths]
    codes = {name: [torch.randint(1, size, (length,), generator=draw).tolist() for length in lengths] for name, size in side.items()}
    return view_of(rows, events, codes)


def widened(view: HistoryView, columns: int) -> HistoryView:
    """The same events with more padding."""

    def wide(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.pad(values, (0, columns))

    sequence = view.sequence
    side = {name: wide(codes) for name, codes in sequence.side.items()}
    return HistoryView(view.rows, wide(view.inverse), Sequence(wide(sequence.items), sequence.lengths, side))


def with_rows(view: HistoryView, rows: torch.Tensor) -> HistoryView:
    return HistoryView(rows, view.inverse, view.sequence)


def batch_of(label: torch.Tensor, ids: dict[str, torch.Tensor] | None = None, domain: torch.Tensor | None = None) -> Batch:
    """A batch without features: what modules over histories look at besides them."""
    zeros = torch.zeros(len(label), dtype=torch.int64)
    return Batch(ids or {}, {}, {}, label, torch.ones_like(label), zeros, zeros, zeros if domain is None else domain)


def _padded(lists: list[list[int]]) -> torch.Tensor:
    width = max(1, *(len(values) for values in lists))
    return torch.tensor([values + [0] * (width - len(values)) for values in lists])
