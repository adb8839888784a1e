"""Historical-embedding fusion: an id's vectors of T consecutive months -> one vector.

The paper compresses three months by self-attention; the equations are our reading (methods: H = months + position, A = softmax(H Wq
(H Wk)^T / sqrt(d_a)) H Wv, r = W_o flatten(A)), the other aggregators what it is compared with. A month that did not see the id is a
zero vector and a missing bit. r depends on the id alone, so it can be computed once for every id.

Shapes: B ids, T months, d_T size of a monthly vector, d_a attention size, d_r outputs.
"""

import torch
from torch import Tensor, nn

from raytrain.ecdctr_config import FusionSection


class MonthFusion(nn.Module):
    """Of one kind of id; users and items have weights of their own."""

    def __init__(self, section: FusionSection, num_months: int, month_dim: int) -> None:
        super().__init__()
        self._aggregator = section.aggregator
        self._scale = section.attention_dim**-0.5
        with_bit = month_dim + 1
        attention_dim = section.attention_dim
        sizes = {"self_attention": num_months * attention_dim, "concat": num_months * with_bit}
        if section.aggregator in ("self_attention", "additive"):
            self.position = nn.Parameter(torch.zeros(num_months, with_bit))
            nn.init.normal_(self.position, std=0.02)
        if section.aggregator == "self_attention":
            self.query, self.key, self.value = (nn.Linear(with_bit, attention_dim, bias=False) for _ in range(3))
        if section.aggregator == "additive":
            self.hidden, self.score = nn.Linear(with_bit, attention_dim), nn.Linear(attention_dim, 1, bias=False)
        self.output = nn.Linear(sizes.get(section.aggregator, with_bit), section.num_outputs)

    def forward(self, months: Tensor) -> Tensor:
        """months float32 [B, T, d_T], oldest first -> [B, d_r]."""
        known = known_months(months)  # [B, T, 1]
        inputs = torch.cat([months, 1.0 - known], dim=2)
        outputs: Tensor = self.output(self._pooled(inputs, known))
        return outputs

    def _pooled(self, inputs: Tensor, known: Tensor) -> Tensor:
        if self._aggregator == "self_attention":
            placed = inputs + self.position
            scores = self.query(placed) @ self.key(placed).transpose(1, 2) * self._scale  # [B, T, T]
            attended: Tensor = torch.softmax(scores, dim=2) @ self.value(placed)
            return attended.flatten(1)
        if self._aggregator == "additive":
            score = self.score(torch.tanh(self.hidden(inputs + self.position)))
            return (torch.softmax(score, dim=1) * inputs).sum(1)
        if self._aggregator == "mean":
            return (inputs * known).sum(1) / known.sum(1).clamp(min=1.0)
        if self._aggregator == "max":
            highest = inputs.masked_fill(known == 0, -torch.inf).amax(1)
            return torch.where(torch.isfinite(highest), highest, 0.0)
        return inputs[:, -1] if self._aggregator == "last" else inputs.flatten(1)


def known_months(months: Tensor) -> Tensor:
    """[B, T, d_T] -> [B, T, 1]: 1 where the month saw the id. A vector that was trained is never all zeros."""
    return (months != 0).any(2, keepdim=True).to(months.dtype)
