"""``counter``: no model but a proof. Every row of a table counts how often its sample was trained.

The samples carry an id that is unique to them; the loss of a row is minus its table entry, and SGD of rate 1 adds one a
visit. Tables are saved and restored with every checkpoint, so at the end of a run, however often it was killed and
resized, each entry has to equal the number of epochs. It asks no cursor, plan or stream: an independent oracle.

Shapes: B rows, D embedding size.
"""

import torch
from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded
from raytrain.model_config import CounterModel
from raytrain.models.base import ModelOutput
from raytrain.models.baselines.declarations import COUNTS


class CounterNetwork(nn.Module):
    """Row loss whose gradient is minus one after the loop has divided it by the weight of the global batch."""

    def __init__(self, model: CounterModel, job: JobConfig, contract: Contract) -> None:
        super().__init__()
        self._feature = model.feature
        # DDP refuses a network without a parameter; this one's gradient is zero.
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, embedded: Embedded, batch: Batch) -> ModelOutput:
        count: Tensor = embedded[COUNTS].of(self._feature)[:, 0]  # [B]
        scale = torch.ones(()) if batch.total_weight is None else batch.total_weight
        return ModelOutput(row_loss=-count * scale + 0.0 * self.unused, predictions={"click": torch.sigmoid(0.0 * count)})
