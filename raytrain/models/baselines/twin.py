"""``twin``: a search by the very scores of the attention that follows it, cheap enough for every event.

Chang et al., KDD 2023, arXiv 2302.02352: keys are items alone ("inherent features"), projected once an item; side information
("cross features") adds one learned number a code. With several heads the search has the sum of their scores (our choice).

Shapes: B rows, L events, K chosen events, D embedding size, C codes of a side information, H heads.
"""

import torch
from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.model_config import TwinModel
from raytrain.models.layers.event_scores import score_events
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.multi_head_attention import MultiHeadTargetAttention
from raytrain.models.layers.sequence_network import HistoryShape, PerHistory, SequenceNetwork
from raytrain.models.layers.side_attention import EventVectors, RecentAttention
from raytrain.models.layers.top_events import top_events


class TwinInterest(nn.Module):
    """Consistent search and attention in one history."""

    def __init__(self, model: TwinModel, shape: HistoryShape) -> None:
        super().__init__()
        self.num_events, self.dim = model.num_events, shape.dim
        self.side = tuple(shape.side)
        self.side_score = nn.ParameterList(nn.Parameter(torch.zeros(size)) for size in shape.side.values())
        self.vectors = EventVectors(shape.dim, shape.side, model.side_dim)
        self.attention = MultiHeadTargetAttention(
            shape.dim, shape.dim, model.attention_dim, model.num_heads, model.attention_dim, self.vectors.num_outputs
        )
        self.recent = RecentAttention(shape.dim, shape.side, model.side_dim, model.attention_dim, model.num_heads, model.recent_events)
        self.num_outputs = self.attention.num_outputs + self.recent.num_outputs

    def forward(self, query: Tensor, view: HistoryView) -> Tensor:
        """query [B, D] -> [B, ``num_outputs``]."""
        index = top_events(self.search_scores(query, view), self.num_events)
        values = self.vectors(view, index)
        bias = self._bias([view.side_at(name, index) for name in self.side])
        found = self.attention(query, values[:, :, : self.dim], view.mask.gather(1, index), bias, values)
        return torch.cat([found, self.recent(query, view)], dim=1)

    @torch.no_grad()
    def search_scores(self, query: Tensor, view: HistoryView) -> Tensor:
        """float [B, L]: the sum of all heads' attention scores; -inf on padding."""
        wanted = self.attention.head_queries(query).sum(1)  # [B, D]
        scores = score_events(wanted, view.rows, view.bags)
        bias = self._bias([view.sequence.side[name] for name in self.side])
        if bias is not None:
            scores = scores + self.attention.num_heads * bias
        return scores.masked_fill(~view.mask, -torch.inf)

    def _bias(self, codes: list[Tensor]) -> Tensor | None:
        """int64 [B, K] each -> [B, K]; None without side information."""
        found = [score.index_select(0, code.reshape(-1)).view(code.shape) for score, code in zip(self.side_score, codes, strict=True)]
        return torch.stack(found).sum(0) if found else None


def twin_network(model: TwinModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: PerHistory(shapes, lambda shape: TwinInterest(model, shape)))
