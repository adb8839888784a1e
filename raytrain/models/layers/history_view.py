"""One domain's history of a batch beside the unique rows its events are found in: a module gathers what it needs and no more.

Shapes: B rows, L events, K chosen events, U unique rows of the table in this step, D embedding size.
"""

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from raytrain.data.batch import Sequence
from raytrain.embeddings.tables import gathered
from raytrain.models.layers.event_bags import EventBags


@dataclass(frozen=True)
class HistoryView:
    """Events by reference; nothing of size B x L x D is held."""

    rows: Tensor
    """float32 [U, D], the unique rows of the table that holds the events"""
    inverse: Tensor
    """int64 [B, L], each event's row among ``rows``"""
    sequence: Sequence
    """Ids, lengths and side codes, oldest event first, padded at the end"""

    @property
    def mask(self) -> Tensor:
        """bool [B, L], true on events."""
        return self.sequence.mask

    @cached_property
    def bags(self) -> EventBags:
        """The same events as bags of unique rows, made once for all who score or sum them."""
        return EventBags(self.inverse, self.sequence.lengths)

    def events(self) -> Tensor:
        """float32 [B, L, D]: every event's vector; padding gets the row of id 0."""
        return gathered(self.rows, self.inverse)

    def events_at(self, index: Tensor) -> Tensor:
        """index int64 [B, K] of places in the history -> float32 [B, K, D]."""
        return gathered(self.rows, self.inverse.gather(1, index))

    def side_at(self, name: str, index: Tensor) -> Tensor:
        """index int64 [B, K] -> int64 [B, K] codes of a side information."""
        return self.sequence.side[name].gather(1, index)
