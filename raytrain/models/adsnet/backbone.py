"""One network of the pair: encoder -> experts -> towers (ADSNet, arXiv 2406.10517, its order; sizes are our choice).

Shapes: B rows, F fields, D embedding size, N dense features, I encoded size, T tasks, E size of a tower input, H hidden units.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raytrain.adsnet_config import BackboneSection, HeadSection
from raytrain.data.batch import Batch
from raytrain.embeddings.tables import Embedded
from raytrain.models.adsnet.encoder import FwfmEncoder
from raytrain.models.adsnet.heads import HEAD_TASKS, build_head
from raytrain.models.adsnet.label_stats import LabelStats
from raytrain.models.adsnet.ple import Ple
from raytrain.models.layers.feature_inputs import FeatureInputs


@dataclass(frozen=True)
class BackboneInputs:
    """What a network sees of B rows."""

    vectors: Tensor
    """[B, F, D], looked up in the network's own tables"""
    dense: Tensor
    """[B, N]"""

    @classmethod
    def of(cls, features: FeatureInputs, embedded: Embedded, batch: Batch) -> "BackboneInputs":
        """``embedded``: by the names of the id spaces."""
        vectors = torch.stack(list(features.vectors(embedded, batch).values()), dim=1)
        numbers = features.numbers(batch)
        return cls(vectors, torch.cat(numbers, dim=1) if numbers else vectors.new_zeros(len(vectors), 0))

    def rows(self, index: Tensor) -> "BackboneInputs":
        """``index`` int64 [b] or bool [B] -> b rows of it."""
        return BackboneInputs(self.vectors[index], self.dense[index])

    def detach(self) -> "BackboneInputs":
        return BackboneInputs(self.vectors.detach(), self.dense.detach())


@dataclass(frozen=True)
class BackboneRun:
    """What a network made of B rows."""

    encoded: Tensor
    """[B, I]"""
    tower_inputs: Tensor
    """[B, T, E]"""
    hidden: Tensor
    """[B, T, H]"""


class Body(nn.Module):
    """Encoder and experts: everything below the towers."""

    def __init__(self, section: BackboneSection, num_tasks: int, num_fields: int, dim: int, num_dense: int) -> None:
        super().__init__()
        self.encoder = FwfmEncoder(num_fields, dim, num_dense, section.encoder)
        self.experts = Ple(self.encoder.num_outputs, num_tasks, section)

    def forward(self, vectors: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """vectors [B, F, D], dense [B, N] -> encoded [B, I], tower inputs [B, T, E]."""
        encoded = self.encoder(vectors, dense)
        return encoded, self.experts(encoded)


class LtvBackbone(nn.Module):
    """Encoder -> PLE -> towers; it holds no table."""

    def __init__(
        self, section: BackboneSection, head: HeadSection, num_fields: int, dim: int, num_dense: int = 0, stats: LabelStats | None = None
    ) -> None:
        """``stats`` are of the internal training labels; a click head needs none."""
        super().__init__()
        self.body = Body(section, HEAD_TASKS[head.kind], num_fields, dim, num_dense)
        self.head = build_head(section, head, section.expert_units[-1], stats)

    @property
    def num_encoded(self) -> int:
        return self.body.encoder.num_outputs

    def forward(self, inputs: BackboneInputs) -> BackboneRun:
        encoded, tower_inputs = self.body(inputs.vectors, inputs.dense)
        return BackboneRun(encoded, tower_inputs, self.head.hidden(tower_inputs))
