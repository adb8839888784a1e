"""Which events of a history a model goes on with. Shapes: B rows, L events, K chosen events."""

import torch
from torch import Tensor


def top_events(scores: Tensor, num_events: int) -> Tensor:
    """Places of each row's highest scores, oldest first: int64 [B, K], K = min(num_events, L).

    Equal scores go to the newer event, so that neither the width of the padding nor the number of ranks, which changes it,
    decides what is chosen; ``topk`` leaves that open. A row with fewer events gets padding besides: mask it.

    Args:
        scores: float [B, L], -inf on padding; NaN counts as -inf.
    """
    num_rows, length = scores.shape
    if num_events >= length:
        return torch.arange(length, device=scores.device).expand(num_rows, length)
    # Padding gets finite scores of its own below all others, so that it never ties.
    padding = torch.linspace(-3e38, -2e38, length, dtype=scores.dtype, device=scores.device)
    scores = torch.where(scores.detach() > -torch.inf, scores.detach(), padding)
    lowest = scores.topk(num_events, dim=1, sorted=False).values.amin(1, keepdim=True)  # [B, 1]
    chosen = scores >= lowest
    # Ties at the border are rare, and cost as much again.
    if int(chosen.sum()) > num_rows * num_events:
        equal = scores == lowest
        num_surplus = chosen.sum(1, keepdim=True) - num_events
        # The oldest of the equal ones give way.
        chosen &= ~(equal & (equal.cumsum(1) <= num_surplus))
    return chosen.nonzero()[:, 1].view(num_rows, num_events)


def newest_events(lengths: Tensor, width: int, num_events: int) -> tuple[Tensor, Tensor]:
    """Places of each row's newest events, newest first: int64 [B, K], K = min(num_events, width), and bool [B, K], true on events.

    Args:
        lengths: int64 [B]. width: L, of the padded histories.
    """
    newest_first = torch.arange(min(num_events, width), device=lengths.device)
    return (lengths[:, None] - 1 - newest_first).clamp(min=0), newest_first < lengths[:, None]
