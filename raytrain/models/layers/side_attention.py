"""Attention to chosen events with their side information: the second stage of models that search a history first.

Shapes: B rows, L events, K chosen events, D embedding size, V size of an event's vector, C codes of a side information.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from raytrain.embeddings.tables import gathered
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.multi_head_attention import MultiHeadTargetAttention
from raytrain.models.layers.top_events import newest_events


class EventVectors(nn.Module):
    """[item ; embedding of each side code], V numbers an event."""

    def __init__(self, dim: int, side: Mapping[str, int], side_dim: int) -> None:
        """``side``: side information -> number of its codes."""
        super().__init__()
        self.side = tuple(side)
        self.side_rows = nn.ParameterList(nn.Parameter(0.1 * torch.randn(size, side_dim)) for size in side.values())
        self.num_outputs = dim + len(side) * side_dim

    def forward(self, view: HistoryView, index: Tensor) -> Tensor:
        """index int64 [B, K] -> [B, K, V]."""
        side = [gathered(rows, view.side_at(name, index)) for name, rows in zip(self.side, self.side_rows, strict=True)]
        return torch.cat([view.events_at(index), *side], dim=2)


class SideAttention(nn.Module):
    """Multi-head target attention whose keys and values are events with their side information."""

    def __init__(self, dim: int, side: Mapping[str, int], side_dim: int, attention_dim: int, num_heads: int) -> None:
        super().__init__()
        self.vectors = EventVectors(dim, side, side_dim)
        self.attention = MultiHeadTargetAttention(dim, self.vectors.num_outputs, attention_dim, num_heads, attention_dim)
        self.num_outputs = attention_dim

    def forward(self, query: Tensor, view: HistoryView, index: Tensor, mask: Tensor) -> Tensor:
        """query [B, D], index int64 [B, K] of places, mask bool [B, K] -> [B, ``num_outputs``]; zeros where none is to be seen."""
        found: Tensor = self.attention(query, self.vectors(view, index), mask)
        return found


class RecentAttention(nn.Module):
    """The same over the newest events: the short-term half of the models that search (0 events: no output)."""

    def __init__(self, dim: int, side: Mapping[str, int], side_dim: int, attention_dim: int, num_heads: int, num_events: int) -> None:
        super().__init__()
        self.num_events = num_events
        self.attention = SideAttention(dim, side, side_dim, attention_dim, num_heads) if num_events else None
        self.num_outputs = attention_dim if num_events else 0

    def forward(self, query: Tensor, view: HistoryView) -> Tensor:
        """query [B, D] -> [B, ``num_outputs``]."""
        if self.attention is None:
            return query.new_zeros(len(query), 0)
        found: Tensor = self.attention(query, view, *newest_events(view.sequence.lengths, view.inverse.shape[1], self.num_events))
        return found


def code_mass(attention: Tensor, code: Tensor, num_codes: int) -> Tensor:
    """attention [B, L], code int64 [B, L] -> [B, C]: the attention that falls on every code."""
    return attention.new_zeros(len(attention), num_codes).scatter_add(1, code, attention)
