"""Multi-head attention of one candidate over chosen events.

Shapes: B rows, K events, Q size of a query, D size of a key, V size of a value, A attention size, H heads.
"""

import math

import torch
from torch import Tensor, nn


class MultiHeadTargetAttention(nn.Module):
    """softmax(Q_h K_h^T / sqrt(A / H)) V_h for each head, concatenated and projected (Vaswani et al., arXiv 1706.03762, one query).

    Projections have no bias, as in FuxiCTR's target attention. There is one query a row, so keys and values are never projected:
    q^T (W_k k) is (W_k^T q)^T k, and a weighted sum of W_v v is W_v times the weighted sum (our choice; an eighth of the work).
    """

    def __init__(
        self, query_dim: int, key_dim: int, attention_dim: int, num_heads: int, num_outputs: int, value_dim: int | None = None
    ) -> None:
        """``value_dim`` None: values are the keys. Raises ValueError when the heads do not divide the attention size."""
        super().__init__()
        if attention_dim % num_heads:
            raise ValueError(
                f"num_heads has to divide the attention size. Received: num_heads={num_heads}, size={attention_dim}. Change one."
            )
        self.query = nn.Linear(query_dim, attention_dim, bias=False)
        self.key = nn.Linear(key_dim, attention_dim, bias=False)
        self.value = nn.Linear(value_dim or key_dim, attention_dim, bias=False)
        self.output = nn.Linear(attention_dim, num_outputs, bias=False)
        self.num_heads = num_heads
        self.num_outputs = num_outputs

    def forward(self, query: Tensor, keys: Tensor, mask: Tensor, bias: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """query [B, Q], keys [B, K, D], mask bool [B, K] (true attends), bias [B, K] added to every head's scores, values [B, K, V]
        if they are not the keys -> [B, num_outputs]; zeros where nothing is to be attended to."""
        scores = torch.bmm(self.head_queries(query), keys.transpose(1, 2))  # [B, H, K]
        if bias is not None:
            scores = scores + bias[:, None]
        attention = masked_softmax(scores, mask[:, None])
        pooled = torch.bmm(attention, keys if values is None else values)  # [B, H, V]
        heads = torch.einsum("bhv,hav->bha", pooled, self.value.weight.view(self.num_heads, -1, pooled.shape[2]))
        attended: Tensor = self.output(heads.flatten(1))
        return attended

    def head_queries(self, query: Tensor) -> Tensor:
        """[B, Q] -> [B, H, D]: each head's score of a key is its dot product with this."""
        wanted = self.query(query).view(len(query), self.num_heads, -1)  # [B, H, A / H]
        weight = self.key.weight.view(self.num_heads, -1, self.key.in_features)
        return torch.einsum("bha,had->bhd", wanted / math.sqrt(wanted.shape[2]), weight)


def masked_softmax(scores: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the last dimension where ``mask`` is true, 0 elsewhere and in rows without any."""
    # Filled with a finite number, since a row of -inf alone would be NaN, forward and backward.
    return torch.softmax(scores.masked_fill(~mask, torch.finfo(scores.dtype).min), dim=-1) * mask
