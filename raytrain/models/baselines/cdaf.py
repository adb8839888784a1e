"""``cdaf``: pre-train on the external domain, then learn both with encodings drawn together and a predictor for each domain.

CDAF: Su et al., Cross-Domain Adaptative Learning for Online Advertisement Customer Lifetime Value Prediction, AAAI 2023. This is our
reading of its abstract, not of its code: "learns a LTV prediction model from a different but related platform", "minimizing the
Wasserstein discrepancy between the encoded user representations of two domains", "a dual-predictor schema". Ours: the encoder is
ADSNet's backbone below its towers, so that the two differ in how they transfer alone; the encodings that are compared are the tower
inputs, which are all that a predictor sees; a predictor is a set of towers; the internal one pre-trains on external rows, is served,
and hands the external one its weights when both begin.

The discrepancy is the sliced one (``layers/sliced_wasserstein.py``). Shapes: B rows, T tasks, E size of a tower input.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded
from raytrain.ltv_config import CdafModel
from raytrain.models.adsnet.backbone import BackboneInputs, Body
from raytrain.models.adsnet.heads import HEAD_TASKS, build_head
from raytrain.models.adsnet.label_stats import LabelStats
from raytrain.models.layers.feature_inputs import FeatureInputs


@dataclass(frozen=True)
class CdafOutput:
    """Of B rows; losses are unweighted."""

    row_loss: Tensor
    """[B], of each row's own domain's predictor"""
    encoded: Tensor
    """[B, T E], what the domains are compared by"""
    predictions: dict[str, Tensor]
    """name -> [B] of the internal predictor, in evaluation mode alone"""


class CdafNetwork(nn.Module):
    """One body, two sets of towers. ``is_dual`` is the loop's to set, from the step's number."""

    def __init__(self, model: CdafModel, job: JobConfig, contract: Contract, stats: LabelStats | None) -> None:
        """``stats`` are of the internal training labels, for both predictors; None for a click head."""
        super().__init__()
        self.is_dual = True
        self.features = FeatureInputs(contract, model.skip_features, job.tables.dim)
        num_fields, num_dense = len(self.features.table_of), len(self.features.dense)
        self.body = Body(model.backbone, HEAD_TASKS[model.head.kind], num_fields, job.tables.dim, num_dense)
        self.internal, self.external = (build_head(model.backbone, model.head, model.backbone.expert_units[-1], stats) for _ in range(2))

    def forward(self, embedded: Embedded, batch: Batch) -> CdafOutput:
        """Rows of domain 0 are internal, all others external; until there are two predictors, all are the internal one's."""
        inputs = BackboneInputs.of(self.features, embedded, batch)
        _, tower_inputs = self.body(inputs.vectors, inputs.dense)
        row_loss = tower_inputs.new_zeros(batch.num_rows)
        apart = (batch.domain != 0) & self.is_dual
        for head, chosen in ((self.internal, ~apart), (self.external, apart)):
            # Without a row of its domain a predictor still gets a gradient, of zeros, which DDP waits for.
            rows = chosen.nonzero()[:, 0]
            row_loss = row_loss.index_put((rows,), head(tower_inputs[rows], batch.label[rows]))
        predictions = {} if self.training else self.internal.predict(self.internal.hidden(tower_inputs))
        return CdafOutput(row_loss, tower_inputs.flatten(1), predictions)
