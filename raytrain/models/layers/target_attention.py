"""DIN's activation unit over a history, with side information, at a price that fits histories of hundreds of events.

Shapes: B rows, L events, U unique items, D embedding size, H hidden units, A heads, C codes of a side information.
"""

from collections.abc import Sequence as Units

import torch
from torch import Tensor, nn

from raytrain.data.batch import Sequence


class TargetAttention(nn.Module):
    """Pools a history for a candidate by an attention MLP on [q, k, q - k, q * k] (Zhou et al., KDD 2018, arXiv 1706.06978).

    The first layer is split by operand: W [q, k, q-k, q*k] = (W1+W3) q + (W2-W3 + W4 diag(q)) k, so the [B, L, 4D]
    concatenation is never built; each row multiplies its keys by one D x H matrix. Ours besides the paper: A heads, each with a
    softmax; a learned score per side code (rating, age) added to every head; and per head the attention's mass on every
    side code, which says how the user rated what resembles the candidate.
    """

    def __init__(self, dim: int, hidden_units: Units[int], num_heads: int, side_sizes: dict[str, int]) -> None:
        super().__init__()
        first, *rest = hidden_units
        self.query = nn.Linear(dim, first)
        self.key = nn.Parameter(torch.empty(dim, first))
        self.product = nn.Parameter(torch.empty(dim, first))
        nn.init.xavier_uniform_(self.key)
        nn.init.xavier_uniform_(self.product)
        layers: list[nn.Module] = []
        for units in rest:
            layers += [nn.ReLU(inplace=True), nn.Linear(first, units)]
            first = units
        self.score = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Linear(first, num_heads, bias=False))
        self.side_names = tuple(side_sizes)
        self.side_sizes = tuple(side_sizes.values())
        self.side_score = nn.ParameterList(nn.Parameter(torch.zeros(size, num_heads)) for size in self.side_sizes)
        self.num_heads = num_heads
        self.num_outputs = num_heads * (dim + sum(self.side_sizes))

    def forward(self, query: Tensor, keys: Tensor, history: Sequence) -> Tensor:
        """query [B, D], keys [B, L, D] -> [B, num_outputs]; zeros for an empty history."""
        weights = self.key + query[:, :, None] * self.product  # [B, D, H]
        hidden = torch.baddbmm(self.query(query)[:, None], keys, weights)  # [B, L, H]
        scores = self.score(hidden)  # [B, L, A]
        codes = [history.side[name] for name in self.side_names]
        for table, code in zip(self.side_score, codes, strict=True):
            # index_select, whose backward takes a fifth of the time of embedding()'s.
            scores = scores + table.index_select(0, code.reshape(-1)).view(*code.shape, self.num_heads)
        scores = scores.transpose(1, 2).masked_fill(~history.mask[:, None], -torch.inf)  # [B, A, L]
        # A row without events has only -inf: its softmax would be NaN, so it attends to nothing.
        attention = torch.softmax(scores, dim=2).nan_to_num(0.0)  # [B, A, L]
        pooled = [torch.bmm(attention, keys).flatten(1)]
        for code, size in zip(codes, self.side_sizes, strict=True):
            mass = attention.new_zeros(*attention.shape[:2], size)
            pooled.append(mass.scatter_add(2, code[:, None].expand_as(attention), attention).flatten(1))
        return torch.cat(pooled, dim=1)
