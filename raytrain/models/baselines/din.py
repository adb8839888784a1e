"""``din`` and ``single_domain``: target attention over the histories of both domains, or of the target domain alone.

Shapes: B rows, L events, D embedding size, F id features, C codes of a side information.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raytrain.config import DinModel, JobConfig
from raytrain.data.batch import Batch, Sequence
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded, history_feature
from raytrain.models.base import ModelOutput
from raytrain.models.baselines.declarations import din_histories
from raytrain.models.layers.feature_inputs import FeatureInputs
from raytrain.models.layers.mlp import mlp
from raytrain.models.layers.target_attention import TargetAttention


class DinNetwork(nn.Module):
    """Features, attention-pooled histories and each history's profile -> MLP -> click probability.

    The profile (share of every side code, log length) is ours: it tells the network a user's own rating habit, the bias that
    a plain DIN has to learn per user id.
    """

    def __init__(self, model: DinModel, job: JobConfig, contract: Contract) -> None:
        super().__init__()
        dim = job.tables.dim
        self.features = FeatureInputs(contract, model.skip_features, dim)
        self.item = contract.item
        self.user = contract.user if contract.user in self.features.table_of else None
        self.history_table: dict[str, str] = {}
        self.attention = nn.ModuleDict()
        num_inputs = self.features.num_inputs + (dim if self.user else 0)
        for name in din_histories(model, contract):
            history = contract.domains[name].history
            assert history is not None, name
            self.history_table[name] = history.table
            sizes = {side.name: side.num_values for side in history.side}
            attention = TargetAttention(dim, model.attention_units, model.num_heads, sizes)
            self.attention[name] = attention
            num_inputs += attention.num_outputs + sum(sizes.values()) + 1
        self.head = nn.Sequential(nn.Dropout(model.input_dropout), mlp(num_inputs, model.hidden_units, 1, model.dropout))

    def forward(self, embedded: Embedded, batch: Batch) -> ModelOutput:
        vectors = self.features.vectors(embedded, batch)
        query = vectors[self.item]  # [B, D]
        inputs = [*vectors.values(), *self.features.numbers(batch)]
        if self.user:
            inputs.append(query * vectors[self.user])
        for name, attention in self.attention.items():
            history = batch.histories[name]
            keys = embedded[self.history_table[name]].of(history_feature(name))  # [B, L, D]
            assert isinstance(attention, TargetAttention)
            inputs += [attention(query, keys, history), profile(history, attention.side_names, attention.side_sizes)]
        logit = self.head(torch.cat(inputs, dim=1))[:, 0]
        return ModelOutput(
            row_loss=binary_cross_entropy_with_logits(logit, batch.label, reduction="none"),
            predictions={"click": torch.sigmoid(logit)},
        )


def profile(history: Sequence, names: tuple[str, ...], sizes: tuple[int, ...]) -> Tensor:
    """[B, sum of C + 1]: share of every side code among the events, and the log of their number."""
    num_events = history.lengths.float()[:, None]
    parts = [torch.log1p(num_events)]
    for name, size in zip(names, sizes, strict=True):
        code = history.side[name]
        counts = torch.zeros(len(code), size, device=code.device)
        counts.scatter_add_(1, code, history.mask.float())
        parts.append(counts / num_events.clamp(min=1.0))
    return torch.cat(parts, dim=1)
