"""Sums of the events that share a hash bucket with the candidate, for several hashes at once.

Shapes: B rows, L events, U unique rows, E size of a value, H hashes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from raytrain.models.layers.event_bags import chunks, gather_ahead

_NO_SIGNATURE = 255


def pool_buckets(values: Tensor, signatures: Tensor, wanted: Tensor, inverse: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Each hash's sum over a row's events whose signature is the wanted one; padding has none.

    Args:
        values: float [U, E]. signatures: uint8 [U, H], below 255. wanted: uint8 [B, H]. inverse: int64 [B, L]. lengths: int64 [B].

    Returns:
        sums: float [B, H, E], with gradients to ``values``.
        share: float [B, L], what an event is of its bucket, averaged over hashes; without gradient. A row's sum is the share of
            the hashes under which it has an event.
    """
    return _BucketSums.apply(values, signatures, wanted, inverse, lengths)  # type: ignore[no-any-return, no-untyped-call]


class _BucketSums(torch.autograd.Function):
    """In chunks that fit the cache. What matches is held for backward, a byte for an event and hash; gathered values are not."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, signatures: Tensor, wanted: Tensor, inverse: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        ctx.num_values, num_hashes = len(values), wanted.shape[1]
        ctx.chunks = []
        # Padding looks up one more row, which matches nothing: cheaper than a mask over hashes.
        signatures = torch.cat([signatures, signatures.new_full((1, num_hashes), _NO_SIGNATURE)])
        sums = values.new_zeros(*wanted.shape, values.shape[1])
        share = values.new_zeros(inverse.shape)
        for rows, places in chunks(inverse, lengths, values.shape[1]):
            is_event = torch.arange(places.shape[1], device=places.device) < lengths[rows, None]
            signed = places.masked_fill(~is_event, len(values)).reshape(-1)
            held = signatures.index_select(0, signed).view(*places.shape, -1) == wanted[rows, None]  # [b, l, H]
            ctx.chunks.append((rows, places, held))
            match = held.to(values.dtype)
            gathered = gather_ahead(values, places)  # [b, l, E]
            sums[rows] = torch.bmm(match.transpose(1, 2), gathered)
            of_bucket = 1.0 / (num_hashes * match.sum(1).clamp(min=1.0))  # [b, H]
            share[rows, : places.shape[1]] = torch.bmm(match, of_bucket[:, :, None])[:, :, 0]
        ctx.mark_non_differentiable(share)
        return sums, share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        grad_values = grad.new_zeros(ctx.num_values, grad.shape[2])
        for rows, places, held in ctx.chunks:
            grad_values.index_add_(0, places.reshape(-1), torch.bmm(held.to(grad.dtype), grad[rows]).flatten(0, 1))
        return grad_values, None, None, None, None
