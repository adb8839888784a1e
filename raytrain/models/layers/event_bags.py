"""Events of a batch as bags of unique rows: gathers, weighted sums and their transposes at the speed of embedding-bag kernels.

FBGEMM's CPU kernels behind ``embedding_bag`` fetch rows ahead of their use, which ``index_select`` does not: gathers and weighted sums
are several times faster where the rows do not fit a cache. Sums by unique row take one sort, shared by all that a step does with a
history. Our choice; ``python -m tests.scale.event_scores`` times what stands on it.

Shapes: B rows, L events, N events of all rows without padding, U unique rows, E size of a vector.
"""

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_CHUNK_BYTES = 1 << 22
"""Of gathered vectors at a time; they should stay in a cache."""


class EventBags:
    """Where the events of a batch stand among unique rows. Nothing here has a gradient."""

    def __init__(self, inverse: Tensor, lengths: Tensor) -> None:
        """inverse int64 [B, L], an event's unique row, padded at the end; lengths int64 [B]."""
        self.inverse, self.lengths = inverse, lengths
        self._unique_begins: Tensor | None = None

    @cached_property
    def num_events(self) -> int:
        """N."""
        return int(self.lengths.sum())

    @cached_property
    def _kept(self) -> Tensor | None:
        """int64 [N], places of the events among all B x L; None where no row has padding."""
        if self.num_events == self.inverse.numel():
            return None
        mask = torch.arange(self.inverse.shape[1], device=self.inverse.device) < self.lengths[:, None]
        return mask.reshape(-1).nonzero()[:, 0]

    def flat(self, values: Tensor) -> Tensor:
        """[B, L] -> [N], row after row."""
        every = values.reshape(-1)
        return every if self._kept is None else every.index_select(0, self._kept)

    @cached_property
    def places(self) -> Tensor:
        """int64 [N], each event's unique row."""
        return self.flat(self.inverse)

    @cached_property
    def offsets(self) -> Tensor:
        """int64 [B + 1], where each row's events begin."""
        return torch.cat([self.lengths.new_zeros(1), self.lengths.cumsum(0)])

    @cached_property
    def by_place(self) -> tuple[Tensor, Tensor]:
        """(int64 [N] the events ordered by unique row, int64 [N] the batch row of each), for sums over what shares a row."""
        # 32 bits sort in half the time of 64. Stable, so that sums have one order.
        order = torch.argsort(self.places.to(torch.int32), stable=True)
        rows = torch.arange(len(self.lengths), device=self.lengths.device).repeat_interleave(self.lengths, output_size=self.num_events)
        return order, rows.index_select(0, order)

    def _begins(self, num_unique: int) -> Tensor:
        """int64 [U + 1], where the events of each unique row begin in ``by_place``."""
        if self._unique_begins is None or len(self._unique_begins) != num_unique + 1:
            counts = torch.bincount(self.places, minlength=num_unique)
            self._unique_begins = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return self._unique_begins

    def pool(self, weights: Tensor, values: Tensor) -> Tensor:
        """Weighted sums of each row's events: weights [B, L], values [U, E] -> [B, E]."""
        return embedding_bag(self.places, values, self.offsets, mode="sum", per_sample_weights=self.flat(weights), include_last_offset=True)

    def spread(self, weights: Tensor, vectors: Tensor, num_unique: int) -> Tensor:
        """The transpose of ``pool``: every event adds weight x its row's vector to its unique row; [B, L], [B, E] -> [U, E]."""
        order, rows = self.by_place
        ordered = self.flat(weights).index_select(0, order)
        offsets = self._begins(num_unique)
        return embedding_bag(rows, vectors, offsets, mode="sum", per_sample_weights=ordered, include_last_offset=True)

    def dot(self, query: Tensor, keys: Tensor) -> Tensor:
        """Dot products of each row's query with its events: query [B, E], keys [U, E] -> [B, L]; what stands on padding means nothing."""
        scores = query.new_zeros(self.inverse.shape)
        for rows, places in chunks(self.inverse, self.lengths, keys.shape[1]):
            gathered = gather_ahead(keys, places)  # [b, l, E]
            # In this order: the other one takes three times as long.
            scores[rows, : places.shape[1]] = torch.bmm(query[rows, None], gathered.transpose(1, 2))[:, 0]
        return scores


def gather_ahead(values: Tensor, places: Tensor) -> Tensor:
    """values float [U, E], places int64 of any shape S -> [S, E], without gradient."""
    flat = places.reshape(-1)
    if not values.is_floating_point() or values.device.type != "cpu":
        return values.index_select(0, flat).view(*places.shape, values.shape[1])
    each = torch.arange(len(flat) + 1)
    return embedding_bag(flat, values, each, mode="sum", include_last_offset=True).view(*places.shape, values.shape[1])


def chunks(inverse: Tensor, lengths: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(rows [b] of the batch, their inverse [b, longest of them]), longest first, so that little of a chunk is padding; ``size`` is
    that of the vectors which are gathered."""
    order = torch.argsort(lengths, descending=True, stable=True)
    longest_first = lengths[order].tolist()
    begin = 0
    while begin < len(order):
        longest = max(1, longest_first[begin])
        rows = order[begin : begin + max(1, _CHUNK_BYTES // (4 * size * longest))]
        yield rows, inverse[rows, :longest]
        begin += len(rows)
