"""``minet``: a user's long-term interest and the short-term ones of every domain, mixed for each candidate.

Ouyang et al., CIKM 2020, arXiv 2008.02974: item-level attention, where a transfer matrix takes source events to the target's space;
interest-level attention, whose weights are exponentials that are not normalised; an auxiliary click loss of source rows. Ours: the
long-term interest is a projection of the profiles (shares of side codes, numbers of events), since a contract does not say which
features are the user's; the source network sees the candidate and that interest; events come with their side information.

Shapes: B rows, K newest events, D embedding size, V size of an event's vector, A hidden units, I interests.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.model_config import MinetModel
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.mlp import mlp
from raytrain.models.layers.multi_head_attention import masked_softmax
from raytrain.models.layers.sequence_network import HistoryShape, Interests, SequenceNetwork, Views, profile
from raytrain.models.layers.side_attention import EventVectors
from raytrain.models.layers.top_events import newest_events


class ItemAttention(nn.Module):
    """softmax of h^T ReLU(W [r ; q ; p ; M r * q] + b) over one history's newest events r, for candidate q and long-term interest p.

    M takes source events to the target's space; a target event is its item there. As in ``TargetAttention`` the first layer is split
    by operand, W_4 ((M r) * q) = (W_4 diag(q) M) r, so the concatenation is never built.
    """

    transfer: Tensor

    def __init__(self, model: MinetModel, shape: HistoryShape, is_source: bool) -> None:
        super().__init__()
        self.num_events = model.recent_events
        self.vectors = EventVectors(shape.dim, shape.side, model.side_dim)
        self.num_outputs = self.vectors.num_outputs
        self.event = nn.Parameter(torch.empty(self.num_outputs, model.attention_units))
        self.product = nn.Parameter(torch.empty(shape.dim, model.attention_units))
        nn.init.xavier_uniform_(self.event)
        nn.init.xavier_uniform_(self.product)
        self.candidate = nn.Linear(2 * shape.dim, model.attention_units)  # of [q ; p]
        self.score = nn.Linear(model.attention_units, 1, bias=False)
        same_space = torch.eye(self.num_outputs, shape.dim)
        if is_source:
            self.transfer = nn.Parameter(same_space)
        else:
            self.register_buffer("transfer", same_space, persistent=False)

    def forward(self, query: Tensor, long_term: Tensor, view: HistoryView) -> Tensor:
        """query and long_term [B, D] -> [B, V]; zeros for an empty history."""
        index, mask = newest_events(view.sequence.lengths, view.inverse.shape[1], self.num_events)
        events = self.vectors(view, index)  # [B, K, V]
        weights = self.event + self.transfer @ (query[:, :, None] * self.product)  # [B, V, A]
        base = self.candidate(torch.cat([query, long_term], dim=1))
        hidden = torch.relu(torch.baddbmm(base[:, None], events, weights))  # [B, K, A]
        attention = masked_softmax(self.score(hidden)[:, :, 0], mask)
        return torch.bmm(attention[:, None], events)[:, 0]


class MinetInterest(nn.Module):
    """exp(g_i^T ReLU(V_i [q ; all interests]) + b_i) x interest i, and the source domain's own prediction."""

    def __init__(self, model: MinetModel, shapes: dict[str, HistoryShape], target: str) -> None:
        super().__init__()
        self.source_weight = model.source_weight
        self.side = {name: shape.side for name, shape in shapes.items()}
        dim = next(iter(shapes.values())).dim
        self.long_term = nn.Linear(sum(1 + sum(side.values()) for side in self.side.values()), dim)
        items = {name: ItemAttention(model, shape, name != target) for name, shape in shapes.items()}
        self.items = nn.ModuleDict(items)
        self.num_outputs = dim + sum(attention.num_outputs for attention in items.values())
        self.weigh = nn.ModuleList(
            nn.Sequential(
                nn.Linear(dim + self.num_outputs, model.attention_units, bias=False), nn.ReLU(), nn.Linear(model.attention_units, 1)
            )
            for _ in range(1 + len(shapes))
        )
        self.source = mlp(2 * dim, model.source_units, 1)

    def forward(self, query: Tensor, views: Views, batch: Batch) -> Interests:
        profiles = [profile(views[name].sequence, side) for name, side in self.side.items()]
        long_term = self.long_term(torch.cat(profiles, dim=1).to(query.dtype))  # [B, D]
        interests = [long_term, *(attention(query, long_term, views[name]) for name, attention in self.items.items())]  # I of them
        seen = torch.cat([query, *interests], dim=1)
        mixed = [torch.exp(weigh(seen)) * interest for weigh, interest in zip(self.weigh, interests, strict=True)]
        outputs = torch.cat(mixed, dim=1)
        if not self.training:
            return Interests(outputs)
        is_source = (batch.domain != 0).to(query.dtype)
        logit = self.source(torch.cat([query, long_term], dim=1))[:, 0]
        row_loss = is_source * binary_cross_entropy_with_logits(logit, batch.label, reduction="none")
        mean = (row_loss.detach() * batch.weight).sum() / (is_source * batch.weight).sum().clamp(min=1.0)
        return Interests(outputs, self.source_weight * row_loss, {"source_loss": mean}, head_weight=1.0 - is_source)


def minet_network(model: MinetModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: MinetInterest(model, shapes, contract.target))
