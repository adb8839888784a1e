"""``tpm`` and ``ecdctr``: the monthly model, and the network that the weekly and the daily one share (arXiv 2408.16238).

Shapes: B rows, S snapshots, T months that a row sees, d_T size of a monthly vector, N outputs.
"""

import torch
from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.ecdctr_config import EcdctrModel, TpmModel
from raytrain.embeddings.tables import Embedded
from raytrain.model_config import DinModel, DnnModel
from raytrain.models.baselines.din import DinInterest
from raytrain.models.baselines.dnn import DnnNetwork
from raytrain.models.ecdctr.batch_norm import BatchNormHead
from raytrain.models.ecdctr.declarations import entities, month_table, num_snapshots, skipped_features
from raytrain.models.ecdctr.fusion import MonthFusion, known_months
from raytrain.models.layers.sequence_network import PerHistory, SequenceNetwork

NEVER = torch.iinfo(torch.int64).max
"""Seconds: when a snapshot that is not given may be seen."""


class HistoricalEmbeddings(nn.Module):
    """The user's and the item's monthly vectors, each fused, with the bits of the months that know them.

    A row sees the snapshots that end before it alone: the vectors of one that was trained on the row know its label.
    """

    seen_from: Tensor
    """int64 [S], seconds: when each snapshot may be seen, ascending. Not part of a checkpoint: it goes with the snapshots"""

    def __init__(self, model: EcdctrModel, job: JobConfig, contract: Contract) -> None:
        super().__init__()
        count = num_snapshots(model, job)
        self._months = model.months
        self._tables = {name: [month_table(month, name) for month in range(count)] for name in entities(contract)}
        self.register_buffer("seen_from", torch.full((count,), NEVER), persistent=False)
        self.fusion = nn.ModuleDict({name: MonthFusion(model.fusion, model.months, model.month_dim) for name in self._tables})
        self.num_outputs = len(self._tables) * (model.fusion.num_outputs + model.months)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        """[B, N]"""
        parts = []
        # The number of snapshots that a row may see, less T, counts from its oldest one.
        oldest = (batch.time[:, None] >= self.seen_from).sum(1, keepdim=True) - self._months
        place = oldest + torch.arange(self._months, device=oldest.device)  # [B, T]
        is_there = (place >= 0)[:, :, None]
        for name, tables in self._tables.items():
            snapshots = torch.stack([embedded[table].of(name) for table in tables], dim=1)  # [B, S, d_T]
            index = place.clamp(min=0)[:, :, None].expand(-1, -1, snapshots.shape[2])
            months = snapshots.gather(1, index) * is_there  # [B, T, d_T]
            parts += [self.fusion[name](months), known_months(months)[:, :, 0]]
        return torch.cat(parts, dim=1)


def ecdctr_network(model: EcdctrModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    unit = DinModel(attention_units=model.attention_units, num_heads=model.num_heads)
    return SequenceNetwork(
        model,
        job,
        contract,
        lambda shapes: PerHistory(shapes, lambda shape: DinInterest(unit, shape)),
        more=HistoricalEmbeddings(model, job, contract) if model.months else None,
        head=(lambda num_inputs: BatchNormHead(num_inputs, model.hidden_units, model.input_dropout, model.dropout))
        if model.batch_norm
        else None,
    )


def tpm_network(model: TpmModel, job: JobConfig, contract: Contract) -> DnnNetwork:
    skipped = skipped_features(model, contract)
    return DnnNetwork(DnnModel(skip_features=skipped, hidden_units=model.hidden_units, dropout=model.dropout), job, contract)
