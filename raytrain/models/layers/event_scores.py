"""Scores of all events of long histories, and weighted sums over them, without a tensor of size B x L x E.

Events repeat items, so what an event is scored by stands in one of U unique rows. Two ways, chosen by B x U against the number of
events: *all pairs*, every candidate against every unique row by one matrix product, then a look-up of B x L numbers; and *gathered*,
each event's own row (``EventBags``). All pairs cost B x U x E multiplications at the speed of a matrix product and B x U numbers of
memory; gathered cost B x L x E of scattered reads. Our choice.

Shapes: B rows, L events, U unique rows, E size of a scored vector.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raytrain.models.layers.event_bags import EventBags

ALL_PAIRS_PER_EVENT = 20
"""All pairs are faster up to about so many of them an event: `python -m tests.scale.event_scores` finds 20 for 1,024 rows of up to
200 events and for 256 of up to 2,000, one thread."""


def score_events(query: Tensor, keys: Tensor, bags: EventBags) -> Tensor:
    """Dot product of each row's query with each of its events.

    Args:
        query: float [B, E]. keys: float [U, E]. bags: the events' rows of ``keys``.

    Returns:
        float [B, L]; padding holds something finite: mask it.
    """
    if _takes_all_pairs(keys, bags):
        return (query @ keys.t()).gather(1, bags.inverse)
    return _GatheredScores.apply(query, keys, bags)  # type: ignore[no-any-return, no-untyped-call]


def pool_events(weights: Tensor, values: Tensor, bags: EventBags) -> Tensor:
    """Weighted sum of each row's events.

    Args:
        weights: float [B, L], 0 on padding. values: float [U, E]. bags: the events' rows of ``values``.

    Returns:
        float [B, E].
    """
    if _takes_all_pairs(values, bags):
        # Weights of an item that occurs twice add up.
        return weights.new_zeros(len(weights), len(values)).scatter_add(1, bags.inverse, weights) @ values
    return _GatheredSums.apply(weights, values, bags)  # type: ignore[no-any-return, no-untyped-call]


def _takes_all_pairs(rows: Tensor, bags: EventBags) -> bool:
    return len(bags.lengths) * len(rows) <= ALL_PAIRS_PER_EVENT * bags.num_events


class _GatheredScores(torch.autograd.Function):
    """Scores event by event; gathered keys are taken again in backward instead of being held."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, bags: EventBags) -> Tensor:
        ctx.save_for_backward(query, keys)
        ctx.bags = bags
        return bags.dot(query, keys)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        query, keys = ctx.saved_tensors
        return ctx.bags.pool(grad, keys), ctx.bags.spread(grad, query, len(keys)), None


class _GatheredSums(torch.autograd.Function):
    """Weighted sums event by event; gathered values are taken again in backward instead of being held."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, bags: EventBags) -> Tensor:
        ctx.save_for_backward(weights, values)
        ctx.bags = bags
        return bags.pool(weights, values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, values = ctx.saved_tensors
        return ctx.bags.dot(grad, values), ctx.bags.spread(weights, grad, len(values)), None
