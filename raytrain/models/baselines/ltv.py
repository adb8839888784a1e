"""``ltv``: one backbone of ADSNet's pair with one set of tables: what its peers on amounts are.

Which rows count, and until when, is the transfer's (``raytrain/training/domain_transfer.py``). Shapes: B rows.
"""

from torch import nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded
from raytrain.ltv_config import LtvModel
from raytrain.models.adsnet.backbone import BackboneInputs, LtvBackbone
from raytrain.models.adsnet.label_stats import LabelStats
from raytrain.models.base import ModelOutput
from raytrain.models.layers.feature_inputs import FeatureInputs


class LtvNetwork(nn.Module):
    """Encoder -> experts -> towers, the same for rows of every domain."""

    def __init__(self, model: LtvModel, job: JobConfig, contract: Contract, stats: LabelStats | None) -> None:
        """``stats`` are of the internal training labels; None for a click head."""
        super().__init__()
        self.features = FeatureInputs(contract, model.skip_features, job.tables.dim)
        num_fields, num_dense = len(self.features.table_of), len(self.features.dense)
        self.backbone = LtvBackbone(model.backbone, model.head, num_fields, job.tables.dim, num_dense, stats)

    def forward(self, embedded: Embedded, batch: Batch) -> ModelOutput:
        hidden = self.backbone(BackboneInputs.of(self.features, embedded, batch)).hidden
        head = self.backbone.head
        return ModelOutput(head.row_loss(hidden, batch.label), {} if self.training else head.predict(hidden))
