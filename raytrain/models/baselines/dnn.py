"""``dnn``: the features' embeddings side by side -> MLP -> click. No histories, no crosses: the plainest neural baseline.

The deep half of Wide & Deep (Cheng et al., DLRS 2016, arXiv 1606.07792). Shapes: B rows.
"""

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded
from raytrain.model_config import DnnModel
from raytrain.models.base import ModelOutput
from raytrain.models.layers.feature_inputs import FeatureInputs
from raytrain.models.layers.mlp import mlp


class DnnNetwork(nn.Module):
    """Concatenated features -> MLP -> click probability."""

    def __init__(self, model: DnnModel, job: JobConfig, contract: Contract) -> None:
        super().__init__()
        self.features = FeatureInputs(contract, model.skip_features, job.tables.dim)
        self.head = mlp(self.features.num_inputs, model.hidden_units, 1, model.dropout)

    def forward(self, embedded: Embedded, batch: Batch) -> ModelOutput:
        inputs = [*self.features.vectors(embedded, batch).values(), *self.features.numbers(batch)]
        logit = self.head(torch.cat(inputs, dim=1))[:, 0]
        return ModelOutput(
            row_loss=binary_cross_entropy_with_logits(logit, batch.label, reduction="none"),
            predictions={"click": torch.sigmoid(logit)},
        )
