"""Which items of the two domains belong together: pairs for the contrastive loss, drawn from a batch's own histories.

Everything here is our choice; the paper says only that positives are items one user interacts with in both domains.
Shapes: B rows, L events, P pairs a row, W newest events that pairs are drawn from.
"""

import torch
from torch import Tensor

from raytrain.data.batch import Sequence


def draw_events(
    history: Sequence,
    num_pairs: int,
    num_recent: int,
    side: dict[str, tuple[int, ...]],
    max_age_code: int | None,
    randomly: bool,
) -> tuple[Tensor, Tensor]:
    """Events a row is paired with, among its newest: all of them lie before the row, as its whole history does.

    Args:
        side: only events whose code of a side information is one of these. max_age_code: the largest code of side "age".
        randomly: uniform draws without replacement; else the newest.

    Returns:
        places: int64 [B, P] in the history. valid: bool [B, P]; false where a row has too few such events.
    """
    width = min(num_recent, history.items.shape[1])
    newest_first = torch.arange(width, device=history.items.device)
    places = (history.lengths[:, None] - 1 - newest_first).clamp(min=0)  # [B, W]
    valid = newest_first < history.lengths[:, None]
    for name, wanted in side.items():
        code = history.side[name].gather(1, places)
        # Not isin(), which sorts.
        valid = valid & torch.stack([code == value for value in wanted]).any(0)
    if max_age_code is not None:
        valid = valid & (history.side["age"].gather(1, places) <= max_age_code)
    order = torch.rand(places.shape, device=places.device) if randomly else -newest_first.float().expand_as(places)
    chosen = order.masked_fill(~valid, -torch.inf).topk(min(num_pairs, width), dim=1).indices
    return places.gather(1, chosen), valid.gather(1, chosen)
