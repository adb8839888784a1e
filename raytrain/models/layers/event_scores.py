"""Scores of all events of long histories, and weighted sums over them, without a tensor of size B x L x E.

Events repeat items, so what an event is scored by stands in one of U unique rows. Two ways, chosen by B x U against the number of events:
*all pairs*, every candidate against every unique row by one matrix product, then a look-up of B x L numbers; and *gathered*,
each event's own row, in chunks that fit the cache. All pairs cost B x U x E multiplications at the speed of a matrix product
and B x U numbers of memory; gathered cost B x L x E of scattered reads. Our choice.

Shapes: B rows, L events, U unique rows, E size of a scored vector.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

ALL_PAIRS_PER_EVENT = 25
"""All pairs are faster up to about so many of them an event: `python -m tests.scale.event_scores` finds 25 for 1,024 rows of up to
200 events and for 256 of up to 2,000, one thread."""
_CHUNK_BYTES = 1 << 20
"""Of gathered vectors at a time; they should stay in the second-level cache."""


def score_events(query: Tensor, keys: Tensor, inverse: Tensor, lengths: Tensor) -> Tensor:
    """Dot product of each row's query with each of its events.

    Args:
        query: float [B, E]. keys: float [U, E]. inverse: int64 [B, L], an event's row of ``keys``. lengths: int64 [B].

    Returns:
        float [B, L]; padding holds something finite: mask it.
    """
    if _takes_all_pairs(keys, lengths):
        return (query @ keys.t()).gather(1, inverse)
    return _GatheredScores.apply(query, keys, inverse, lengths)  # type: ignore[no-any-return, no-untyped-call]


def pool_events(weights: Tensor, values: Tensor, inverse: Tensor, lengths: Tensor) -> Tensor:
    """Weighted sum of each row's events.

    Args:
        weights: float [B, L], 0 on padding. values: float [U, E]. inverse: int64 [B, L]. lengths: int64 [B].

    Returns:
        float [B, E].
    """
    if _takes_all_pairs(values, lengths):
        # Weights of an item that occurs twice add up.
        return weights.new_zeros(len(weights), len(values)).scatter_add(1, inverse, weights) @ values
    return _GatheredSums.apply(weights, values, inverse, lengths)  # type: ignore[no-any-return, no-untyped-call]


def _takes_all_pairs(rows: Tensor, lengths: Tensor) -> bool:
    return len(lengths) * len(rows) <= ALL_PAIRS_PER_EVENT * int(lengths.sum())


def chunks(inverse: Tensor, lengths: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows [b] of the batch, their inverse [b, longest of them]), longest first, so that little of a chunk is padding; ``size`` is
    that of the vectors which are gathered."""
    order = torch.argsort(lengths, descending=True)
    begin = 0
    while begin < len(order):
        longest = max(1, int(lengths[order[begin]]))
        rows = order[begin : begin + max(1, _CHUNK_BYTES // (4 * size * longest))]
        yield rows, inverse[rows, :longest]
        begin += len(rows)


class _GatheredScores(torch.autograd.Function):
    """Scores event by event; gathered keys are taken again in backward instead of being held."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, inverse: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(query, keys, inverse, lengths)
        scores = query.new_zeros(inverse.shape)
        for rows, places in chunks(inverse, lengths, keys.shape[1]):
            gathered = keys.index_select(0, places.reshape(-1)).view(*places.shape, -1)  # [b, l, E]
            scores[rows, : places.shape[1]] = torch.bmm(gathered, query[rows, :, None])[:, :, 0]
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        query, keys, inverse, lengths = ctx.saved_tensors
        grad_query, grad_keys = torch.zeros_like(query), torch.zeros_like(keys)
        for rows, places in chunks(inverse, lengths, keys.shape[1]):
            flat, part = places.reshape(-1), grad[rows, : places.shape[1]]  # [b, l]
            gathered = keys.index_select(0, flat).view(*places.shape, -1)
            grad_query[rows] = torch.bmm(part[:, None], gathered)[:, 0]
            grad_keys.index_add_(0, flat, (part[:, :, None] * query[rows, None]).view(len(flat), -1))
        return grad_query, grad_keys, None, None


class _GatheredSums(torch.autograd.Function):
    """Weighted sums event by event; gathered values are taken again in backward instead of being held."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, inverse: Tensor, lengths: Tensor) -> Tensor:
        ctx.save_for_backward(weights, values, inverse, lengths)
        sums = weights.new_zeros(len(weights), values.shape[1])
        for rows, places in chunks(inverse, lengths, values.shape[1]):
            gathered = values.index_select(0, places.reshape(-1)).view(*places.shape, -1)
            sums[rows] = torch.bmm(weights[rows, None, : places.shape[1]], gathered)[:, 0]
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        weights, values, inverse, lengths = ctx.saved_tensors
        grad_weights, grad_values = torch.zeros_like(weights), torch.zeros_like(values)
        for rows, places in chunks(inverse, lengths, values.shape[1]):
            flat, width = places.reshape(-1), places.shape[1]
            gathered = values.index_select(0, flat).view(*places.shape, -1)
            grad_weights[rows, :width] = torch.bmm(gathered, grad[rows, :, None])[:, :, 0]
            grad_values.index_add_(0, flat, (weights[rows, :width, None] * grad[rows, None]).view(len(flat), -1))
        return grad_weights, grad_values, None, None
