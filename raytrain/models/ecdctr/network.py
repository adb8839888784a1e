"""``tpm`` and ``ecdctr``: the monthly model, and the network that the weekly and the daily one share (arXiv 2408.16238).

Shapes: B rows, T months, d_T size of a monthly vector, N outputs.
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
from raytrain.models.ecdctr.declarations import entities, month_table, skipped_features
from raytrain.models.ecdctr.fusion import MonthFusion, known_months
from raytrain.models.layers.sequence_network import PerHistory, SequenceNetwork


class HistoricalEmbeddings(nn.Module):
    """The user's and the item's monthly vectors, each fused, with the bits of the months that know them."""

    def __init__(self, model: EcdctrModel, contract: Contract) -> None:
        super().__init__()
        self._tables = {name: [month_table(month, name) for month in range(model.months)] for name in entities(contract)}
        self.fusion = nn.ModuleDict({name: MonthFusion(model.fusion, model.months, model.month_dim) for name in self._tables})
        self.num_outputs = len(self._tables) * (model.fusion.num_outputs + model.months)

    def forward(self, embedded: Embedded, batch: Batch) -> Tensor:
        """[B, N]"""
        parts = []
        for name, tables in self._tables.items():
            months = torch.stack([embedded[table].of(name) for table in tables], dim=1)  # [B, T, d_T]
            parts += [self.fusion[name](months), known_months(months)[:, :, 0]]
        return torch.cat(parts, dim=1)


def ecdctr_network(model: EcdctrModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    unit = DinModel(attention_units=model.attention_units, num_heads=model.num_heads)
    return SequenceNetwork(
        model,
        job,
        contract,
        lambda shapes: PerHistory(shapes, lambda shape: DinInterest(unit, shape)),
        more=HistoricalEmbeddings(model, contract) if model.months else None,
        head=(lambda num_inputs: BatchNormHead(num_inputs, model.hidden_units, model.input_dropout, model.dropout))
        if model.batch_norm
        else None,
    )


def tpm_network(model: TpmModel, job: JobConfig, contract: Contract) -> DnnNetwork:
    skipped = skipped_features(model, contract)
    return DnnNetwork(DnnModel(skip_features=skipped, hidden_units=model.hidden_units, dropout=model.dropout), job, contract)
