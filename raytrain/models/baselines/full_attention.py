"""``full_attention``: multi-head target attention over every event, with side information; the bound that models which search first
are measured against.

Shapes: B rows, L events, D embedding size.
"""

import torch
from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.model_config import FullAttentionModel
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.sequence_network import HistoryShape, PerHistory, SequenceNetwork
from raytrain.models.layers.side_attention import SideAttention


class FullInterest(nn.Module):
    """Attends to the whole of one history."""

    def __init__(self, model: FullAttentionModel, shape: HistoryShape) -> None:
        super().__init__()
        self.attention = SideAttention(shape.dim, shape.side, model.side_dim, model.attention_dim, model.num_heads)
        self.num_outputs = self.attention.num_outputs

    def forward(self, query: Tensor, view: HistoryView) -> Tensor:
        """query [B, D] -> [B, ``num_outputs``]."""
        num_rows, length = view.inverse.shape
        every = torch.arange(length, device=view.inverse.device).expand(num_rows, length)
        found: Tensor = self.attention(query, view, every, view.mask)
        return found


def full_attention_network(model: FullAttentionModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: PerHistory(shapes, lambda shape: FullInterest(model, shape)))
