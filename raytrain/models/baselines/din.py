"""``din`` and ``single_domain``: target attention over the histories of both domains, or of the target domain alone.

Shapes: B rows, D embedding size.
"""

from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.model_config import DinModel
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.sequence_network import HistoryShape, PerHistory, SequenceNetwork
from raytrain.models.layers.target_attention import TargetAttention


class DinInterest(nn.Module):
    """DIN's activation unit over every event of one history."""

    def __init__(self, model: DinModel, shape: HistoryShape) -> None:
        super().__init__()
        self.attention = TargetAttention(shape.dim, model.attention_units, model.num_heads, shape.side)
        self.num_outputs = self.attention.num_outputs

    def forward(self, query: Tensor, view: HistoryView) -> Tensor:
        """query [B, D] -> [B, ``num_outputs``]."""
        pooled: Tensor = self.attention(query, view.events(), view.sequence)
        return pooled


def din_network(model: DinModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: PerHistory(shapes, lambda shape: DinInterest(model, shape)))
