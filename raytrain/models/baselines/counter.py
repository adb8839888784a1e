"""``counter``: no model but a proof. Every row of a table counts how often its sample was trained.

The samples carry an id that is unique to them; the loss of a row is minus its table entry, and SGD of rate 1 adds one a
visit. Tables are saved and restored with every checkpoint, so at the end of a run, however often it was killed and
resized, each entry has to equal the number of epochs. It asks no cursor, plan or stream: an independent oracle.

Shapes: B rows, D embedding size.
"""

import torch
from torch import Tensor, nn

from raytrain.config import CounterModel, JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded, TableConfig
from raytrain.errors import ConfigError
from raytrain.models.base import ModelOutput
from raytrain.settings import nearest

COUNTS = "counts"


def no_histories(model: CounterModel, contract: Contract) -> tuple[str, ...]:
    """It reads none."""
    return ()


def counter_tables(model: CounterModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    """One table of zeros.

    Raises:
        ConfigError: the feature is missing, or the optimizer would not add one a visit.
    """
    features = {feature.name: feature for feature in contract.features if feature.kind == "id"}
    if model.feature not in features:
        raise ConfigError(
            f"model.feature has to name an id that is unique to each sample. Received: {model.feature}. {nearest(model.feature, features)}"
        )
    if (job.tables.optimizer, job.tables.lr, job.optimizer.schedule, job.optimizer.warmup_steps) != ("sgd", 1.0, "constant", 0):
        raise ConfigError(
            "The counter has to add one a visit. "
            f"Received: tables.optimizer={job.tables.optimizer}, tables.lr={job.tables.lr}, optimizer.schedule={job.optimizer.schedule}, "
            f"optimizer.warmup_steps={job.optimizer.warmup_steps}. Set tables.optimizer=sgd, tables.lr=1, optimizer.schedule=constant."
        )
    num_rows = contract.table_of(features[model.feature]).num_rows
    return (TableConfig(name=COUNTS, num_rows=num_rows, dim=job.tables.dim, features=(model.feature,), init_std=0.0),)


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
