"""Multi-head attention of one candidate over a few chosen events.

Shapes: B rows, K events, Q size of a query, D size of a key, A attention size, H heads.
"""

import math

import torch
from torch import Tensor, nn


class MultiHeadTargetAttention(nn.Module):
    """softmax(Q_h K_h^T / sqrt(A / H)) V_h for each head, concatenated and projected (Vaswani et al., arXiv 1706.03762, one query).

    Projections have no bias, as in FuxiCTR's target attention.
    """

    def __init__(self, query_dim: int, key_dim: int, attention_dim: int, num_heads: int, num_outputs: int) -> None:
        """Raises ValueError when the heads do not divide the attention size."""
        super().__init__()
        if attention_dim % num_heads:
            raise ValueError(
                f"num_heads has to divide the attention size. Received: num_heads={num_heads}, size={attention_dim}. Change one."
            )
        self.query = nn.Linear(query_dim, attention_dim, bias=False)
        self.key = nn.Linear(key_dim, attention_dim, bias=False)
        self.value = nn.Linear(key_dim, attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, num_outputs, bias=False)
        self.num_heads = num_heads
        self.num_outputs = num_outputs

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor, bias: Tensor | None = None) -> Tensor:
        """query [B, Q], keys [B, K, D], mask bool [B, K] (true attends), bias [B, K] added to every head's scores -> [B, num_outputs];
        zeros where nothing is to be attended to."""
        num_rows, num_events, _ = keys.shape
        heads = (num_rows, self.num_heads, -1)
        wanted = self.query(query).view(heads) / math.sqrt(self.query.out_features // self.num_heads)  # [B, H, A/H]
        offered = self.key(keys).view(num_rows, num_events, self.num_heads, -1)
        scores = torch.einsum("bha,bkha->bhk", wanted, offered)
        if bias is not None:
            scores = scores + bias[:, None]
        attention = masked_softmax(scores, mask[:, None])  # [B, H, K]
        values = self.value(keys).view(num_rows, num_events, self.num_heads, -1)
        pooled: Tensor = self.output(torch.einsum("bhk,bkha->bha", attention, values).flatten(1))
        return pooled


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where ``mask`` is true, 0 elsewhere and in rows without any."""
    # Filled with a finite number, since a row of -inf alone would be NaN, forward and backward.
    return torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1) * mask
