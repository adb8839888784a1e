"""``sim``: a search unit over the whole history, then multi-head attention to the events it found.

Pi et al., CIKM 2020, arXiv 2006.05639. The soft search is trained by a click loss of its own, on the sum of all events weighted by
their search scores; the hard search takes the newest events of the candidate's category.

Shapes: B rows, L events, K chosen events, D embedding size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.model_config import SimModel
from raytrain.models.layers.event_scores import pool_events, score_events
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.mlp import mlp
from raytrain.models.layers.sequence_network import HistoryShape, Interests, SequenceNetwork, Views
from raytrain.models.layers.side_attention import RecentAttention, SideAttention
from raytrain.models.layers.top_events import top_events


@dataclass(frozen=True)
class Found:
    """What a search hands on."""

    index: Tensor
    """int64 [B, K], places in the history"""
    mask: Tensor
    """bool [B, K], true on events that were found"""
    logit: Tensor | None = None
    """float [B], the soft search's own prediction while training"""


class SoftSearch(nn.Module):
    """Largest inner products of projected items: q^T W_a^T W_b k with one matrix in place of two, the identity to begin with."""

    def __init__(self, model: SimModel, dim: int) -> None:
        super().__init__()
        self.num_events = model.num_events
        self.projection = nn.Parameter(torch.eye(dim))
        self.auxiliary = mlp(2 * dim, model.auxiliary_units, 1)

    def forward(self, query: Tensor, view: HistoryView, batch: Batch) -> Found:
        scores = score_events(query @ self.projection, view.rows, view.bags)
        index = top_events(scores.detach().masked_fill(~view.mask, -torch.inf), self.num_events)
        logit = None
        if self.training:
            # The paper's sum of score x event, divided by the number of events: else its size would follow the history's.
            weights = scores.masked_fill(~view.mask, 0.0) / view.sequence.lengths.clamp(min=1)[:, None]
            interest = pool_events(weights, view.rows, view.bags)  # [B, D]
            logit = self.auxiliary(torch.cat([query, interest], dim=1))[:, 0]
        return Found(index, view.mask.gather(1, index), logit)


class HardSearch(nn.Module):
    """Newest events of the candidate's category; nothing where that is unknown (0)."""

    def __init__(self, model: SimModel) -> None:
        super().__init__()
        self.num_events, self.category = model.num_events, model.category

    def forward(self, query: Tensor, view: HistoryView, batch: Batch) -> Found:
        assert self.category is not None
        wanted = batch.ids[self.category][:, None]
        match = (view.sequence.side[self.category] == wanted) & (wanted > 0)  # 0 pads events, too
        index = top_events(match.to(query.dtype), self.num_events)
        return Found(index, match.gather(1, index))


class SimInterest(nn.Module):
    """Search and attention in every history, and the searches' losses."""

    def __init__(self, model: SimModel, shapes: dict[str, HistoryShape]) -> None:
        super().__init__()
        self.auxiliary_weight = model.auxiliary_weight
        self.search, self.attention, self.recent = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        self.num_outputs = 0
        for name, shape in shapes.items():
            sizes = (shape.dim, shape.side, model.side_dim, model.attention_dim, model.num_heads)
            attention, recent = SideAttention(*sizes), RecentAttention(*sizes, model.recent_events)
            self.search[name] = SoftSearch(model, shape.dim) if model.search == "soft" else HardSearch(model)
            self.attention[name], self.recent[name] = attention, recent
            self.num_outputs += attention.num_outputs + recent.num_outputs

    def forward(self, query: Tensor, views: Views, batch: Batch) -> Interests:
        outputs, losses = [], []
        for name, search in self.search.items():
            view = views[name]
            found: Found = search(query, view, batch)
            outputs += [self.attention[name](query, view, found.index, found.mask), self.recent[name](query, view)]
            if found.logit is not None:
                losses.append(binary_cross_entropy_with_logits(found.logit, batch.label, reduction="none"))
        if not losses:
            return Interests(torch.cat(outputs, dim=1))
        row_loss = torch.stack(losses).mean(0)  # [B]
        mean = (row_loss.detach() * batch.weight).sum() / batch.weight.sum().clamp(min=1.0)
        return Interests(torch.cat(outputs, dim=1), self.auxiliary_weight * row_loss, {"search_loss": mean})


def sim_network(model: SimModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: SimInterest(model, shapes))
