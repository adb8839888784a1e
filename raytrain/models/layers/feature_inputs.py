"""The contract's features as a network takes them: a vector an id feature, a number a dense one.

Shapes: B rows, M values of a multi-valued feature, D embedding size, F id features, N dense features.
"""

from collections.abc import Collection

from torch import Tensor

from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded


class FeatureInputs:
    """Gathers the vectors of every feature that is not skipped; it holds no parameter."""

    def __init__(self, contract: Contract, skipped: Collection[str], dim: int) -> None:
        features = [feature for feature in contract.features if feature.name not in skipped]
        self.table_of = {feature.name: feature.table for feature in features if feature.table}
        self.dense = tuple(feature.name for feature in features if feature.kind == "dense")
        self.num_inputs = len(self.table_of) * dim + len(self.dense)
        self._multi = {feature.name for feature in features if feature.kind == "multi"}

    def vectors(self, embedded: Embedded, batch: Batch) -> dict[str, Tensor]:
        """Id feature -> [B, D]; a multi-valued one is the mean of its values, zeros where it has none."""
        return {name: self._vector(embedded[table].of(name), batch, name) for name, table in self.table_of.items()}

    def numbers(self, batch: Batch) -> list[Tensor]:
        """N tensors [B, 1]."""
        return [batch.dense[name][:, None] for name in self.dense]

    def _vector(self, vectors: Tensor, batch: Batch, name: str) -> Tensor:
        if name not in self._multi:
            return vectors
        present = (batch.ids[name] > 0).float()[:, :, None]  # [B, M, 1]
        return (vectors * present).sum(1) / present.sum(1).clamp(min=1.0)
