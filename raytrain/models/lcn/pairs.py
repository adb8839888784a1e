"""Which items of the two domains belong together: events of one user, a source event shortly before a target event.

The paper says only that positives are items one user interacts with in both domains; times and draws are our choice (section
3.4 of our notes). Shapes: B rows, L events, T target events a row, W newest of them to draw from, P source events each.
"""

import torch
from torch import Tensor

from raytrain.data.batch import Sequence

_NEVER_S = 1 << 62


def draw_events(
    history: Sequence, num_events: int, num_recent: int, side: dict[str, tuple[int, ...]], randomly: bool
) -> tuple[Tensor, Tensor]:
    """Some of each row's newest events.

    Args:
        side: only events whose code of a side information is one of these. randomly: draws without replacement; else the newest.

    Returns:
        places: int64 [B, T] in the history. valid: bool [B, T]; false where a row has too few such events.
    """
    width = min(num_recent, history.items.shape[1])
    newest_first = torch.arange(width, device=history.items.device)
    places = (history.lengths[:, None] - 1 - newest_first).clamp(min=0)  # [B, W]
    valid = (newest_first < history.lengths[:, None]) & has_side(history, places, side)
    return _chosen(places, valid, num_events, randomly)


def draw_before(
    history: Sequence,
    age_s: Tensor,
    num_events: int,
    num_recent: int,
    window_s: int | None,
    side: dict[str, tuple[int, ...]],
    randomly: bool,
) -> tuple[Tensor, Tensor]:
    """Some of the newest events strictly before each of T moments of a row.

    Args:
        history: carries ``age_s``. age_s: int64 [B, T], seconds from each moment to the row. num_recent: newest events before a
            moment that are drawn from. window_s: longest time between event and moment.

    Returns:
        places: int64 [B, T, P] in the history. valid: bool [B, T, P].
    """
    assert history.age_s is not None, "training_specs asks for ages where a model declares that it reads them"
    # Events are in time order, so ages fall; padding counts as later than everything.
    ascending = (-history.age_s).masked_fill(~history.mask, _NEVER_S)
    num_before = torch.searchsorted(ascending, -age_s.contiguous())  # [B, T]
    back = torch.arange(1, num_recent + 1, device=age_s.device)
    places = num_before[:, :, None] - back  # [B, T, num_recent]
    valid, flat = places >= 0, places.clamp(min=0).flatten(1)
    valid = valid & has_side(history, flat, side).view(valid.shape)
    if window_s is not None:
        valid = valid & (history.age_s.gather(1, flat).view(valid.shape) - age_s[:, :, None] <= window_s)
    return _chosen(flat.view(valid.shape), valid, num_events, randomly)


def has_side(history: Sequence, places: Tensor, side: dict[str, tuple[int, ...]]) -> Tensor:
    """bool [B, W]: whether the events at int64 ``places`` [B, W] have one of the codes of every side information named."""
    found = torch.ones_like(places, dtype=torch.bool)
    for name, wanted in side.items():
        code = history.side[name].gather(1, places)
        # Not isin(), which sorts.
        found = found & torch.stack([code == value for value in wanted]).any(0)
    return found


def _chosen(places: Tensor, valid: Tensor, num_events: int, randomly: bool) -> tuple[Tensor, Tensor]:
    """``num_events`` valid places of [..., W], which come newest first."""
    width = places.shape[-1]
    order = (
        torch.rand(places.shape, device=places.device)
        if randomly
        else -torch.arange(float(width), device=places.device).expand(places.shape)
    )
    best = order.masked_fill(~valid, -torch.inf).topk(min(num_events, width), dim=-1).indices
    return places.gather(-1, best), valid.gather(-1, best)
