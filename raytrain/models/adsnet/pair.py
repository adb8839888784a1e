"""The pseudo-siamese pair: one shape, two sets of weights and tables (ADSNet, arXiv 2406.10517).

The vanilla network computes its loss on the internal rows alone, as if the external ones were not in the batch: they reach neither
its parameters nor its tables. The gain network sees all rows; which external ones count is a weight that is set before backward.

Shapes: B rows, F fields, D embedding size, N dense features, T tasks, E size of a tower input.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from raytrain.adsnet_config import AdsnetModel, BridgeSection
from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded
from raytrain.models.adsnet.adapters import ResidualAdapter
from raytrain.models.adsnet.backbone import BackboneInputs, BackboneRun, LtvBackbone
from raytrain.models.adsnet.declarations import GAIN, VANILLA
from raytrain.models.adsnet.label_stats import LabelStats, class_edges
from raytrain.models.layers.feature_inputs import FeatureInputs

Stage = Literal["warmup", "joint"]
Direction = Literal["g2v", "v2g", "average"]


@dataclass(frozen=True)
class PairOutput:
    """What the pair makes of B rows; losses are unweighted."""

    vanilla_loss: Tensor
    """[B]; 0 on external rows"""
    gain_loss: Tensor
    """[B]; 0 in warmup"""
    embedding_distance: Tensor
    """[B], of the adapted encoded rows; 0 where it is not measured"""
    tower_distance: Tensor
    """[B], of the adapted last hidden layers; 0 where it is not measured"""
    vanilla_inputs: BackboneInputs
    """Of all B rows, detached"""
    gain_inputs: BackboneInputs
    """Of all B rows, detached"""
    tower_inputs: Tensor
    """[B, T, E] of the gain network, detached; in warmup of no rows"""
    predictions: dict[str, Tensor]
    """name -> [B], in evaluation mode alone: the served network's by plain name, the vanilla network's as "vanilla/<name>" """


class PseudoSiamese(nn.Module):
    """V and G, and the adapters between them. ``stage`` is the loop's to set, from the step's number."""

    def __init__(self, model: AdsnetModel, job: JobConfig, contract: Contract, stats: LabelStats | None) -> None:
        """``stats`` are of the internal training labels; None for a click head."""
        super().__init__()
        self.stage: Stage = "joint"
        self.label_edges = class_edges(stats)
        self.bridge = model.bridge
        self.features = FeatureInputs(contract, model.skip_features, job.tables.dim)
        num_fields, num_dense = len(self.features.table_of), len(self.features.dense)
        self.vanilla, self.gain = (LtvBackbone(model.backbone, model.head, num_fields, job.tables.dim, num_dense, stats) for _ in range(2))
        self.gain.load_state_dict(self.vanilla.state_dict())
        num_hidden = self.vanilla.head.num_tasks * self.vanilla.head.num_hidden
        self.embedding_adapter = _adapter(self.vanilla.num_encoded, model.bridge.embedding_weight, model.bridge)
        self.tower_adapter = _adapter(num_hidden, model.bridge.tower_weight, model.bridge)

    def forward(self, embedded: Embedded, batch: Batch) -> PairOutput:
        """Rows of domain 0 are internal, all others external.

        Raises:
            KeyError: ``embedded`` lacks a table of ``adsnet_tables``.
        """
        vanilla_inputs = self.inputs(VANILLA, embedded, batch)
        gain_inputs = self.inputs(GAIN, embedded, batch)
        # By index, not by mask: the vanilla network's sums are then of the same numbers in the same order, external rows or none.
        internal = (batch.domain == 0).nonzero()[:, 0]
        vanilla = self.vanilla(vanilla_inputs.rows(internal))
        loss = self.vanilla.head.row_loss(vanilla.hidden, batch.label[internal])
        zeros = loss.new_zeros(batch.num_rows)
        output = {"vanilla_loss": zeros.index_put((internal,), loss), "gain_loss": zeros}
        distances = {"embedding_distance": zeros, "tower_distance": zeros}
        tower_inputs = vanilla.tower_inputs.new_zeros(0, *vanilla.tower_inputs.shape[1:])
        gain = None
        if self.stage == "joint":
            gain = self.gain(gain_inputs)
            output["gain_loss"] = self.gain.head.row_loss(gain.hidden, batch.label)
            tower_inputs = gain.tower_inputs.detach()
            distances = self._distances(internal, vanilla, vanilla_inputs, gain, zeros)
        elif self.training:
            # DDP waits for a gradient of every parameter; these are zeros.
            idle = [*self.gain.parameters(), *_parameters(self.embedding_adapter), *_parameters(self.tower_adapter)]
            output["vanilla_loss"] = output["vanilla_loss"] + 0.0 * torch.stack([value.sum() for value in idle]).sum()
        predictions = {} if self.training else self._predictions(vanilla_inputs, gain)
        return PairOutput(
            **output,
            **distances,
            vanilla_inputs=vanilla_inputs.detach(),
            gain_inputs=gain_inputs.detach(),
            tower_inputs=tower_inputs,
            predictions=predictions,
        )

    @torch.no_grad()
    def align(self, direction: Direction, share: float = 1.0) -> None:
        """Brings the two backbones together; tables and optimizers are the caller's.

        ``share`` 1 copies; less moves the receiver that far, which at every step makes it a moving average.
        """
        for vanilla, gain in zip(self.vanilla.parameters(), self.gain.parameters(), strict=True):
            if direction == "average":
                middle = 0.5 * (vanilla + gain)
                vanilla.lerp_(middle, share)
                gain.lerp_(middle, share)
            else:
                receiver, giver = (vanilla, gain) if direction == "g2v" else (gain, vanilla)
                receiver.lerp_(giver, share)

    @torch.no_grad()
    def drift(self) -> Tensor:
        """Euclidean distance of the two backbones' parameters, a scalar."""
        pairs = zip(self.vanilla.parameters(), self.gain.parameters(), strict=True)
        return torch.stack([(gain - vanilla).square().sum() for vanilla, gain in pairs]).sum().sqrt()

    def pull(self) -> Tensor:
        """|G - V|^2 / 2 of the two backbones' parameters, a scalar by which the gain network alone is moved."""
        pairs = zip(self.vanilla.parameters(), self.gain.parameters(), strict=True)
        return 0.5 * torch.stack([(gain - vanilla.detach()).square().sum() for vanilla, gain in pairs]).sum()

    def inputs(self, prefix: str, embedded: Embedded, batch: Batch) -> BackboneInputs:
        """What the network of tables ``prefix`` (VANILLA or GAIN) sees of a batch."""
        own = {table: embedded[prefix + table] for table in self.features.table_of.values()}
        return BackboneInputs.of(self.features, own, batch)

    def _distances(
        self, internal: Tensor, vanilla: BackboneRun, vanilla_inputs: BackboneInputs, gain: BackboneRun, zeros: Tensor
    ) -> dict[str, Tensor]:
        """Of the rows that ``bridge.measured_on`` names; the vanilla network looks at external ones without gradient."""
        parts = [(internal, vanilla)] if self.bridge.measured_on != "external" else []
        if self.bridge.measured_on != "internal" and (self.embedding_adapter or self.tower_adapter):
            is_external = torch.ones_like(zeros, dtype=torch.bool).index_fill(0, internal, False)
            external = is_external.nonzero()[:, 0]
            with torch.no_grad():
                parts.append((external, self.vanilla(vanilla_inputs.rows(external))))
        found = {"embedding_distance": zeros, "tower_distance": zeros}
        for rows, teacher in parts:
            if self.embedding_adapter is not None:
                distance = self.embedding_adapter.distance(gain.encoded[rows], teacher.encoded)
                found["embedding_distance"] = found["embedding_distance"].index_put((rows,), distance)
            if self.tower_adapter is not None:
                distance = self.tower_adapter.distance(gain.hidden[rows].flatten(1), teacher.hidden.flatten(1))
                found["tower_distance"] = found["tower_distance"].index_put((rows,), distance)
        return found

    def _predictions(self, vanilla_inputs: BackboneInputs, gain: BackboneRun | None) -> dict[str, Tensor]:
        vanilla = self.vanilla.head.predict(self.vanilla(vanilla_inputs).hidden)
        served = vanilla if self.stage == "warmup" or gain is None else self.gain.head.predict(gain.hidden)
        return served | {f"vanilla/{name}": value for name, value in vanilla.items()}


def domain_weights(batch: Batch) -> Tensor:
    """This rank's weight of internal and of external rows, [2]; the loop sums it over ranks before ``pair_loss``."""
    internal = batch.domain == 0
    return torch.stack([(batch.weight * internal).sum(), (batch.weight * ~internal).sum()])


def pair_loss(output: PairOutput, batch: Batch, accepted: Tensor, totals: Tensor, bridge: BridgeSection, external_weight: float) -> Tensor:
    """This rank's share of the step's loss, a scalar.

    L_V(internal) + L_G(internal) + external_weight (accepted / external) L_G(accepted) + bridges, each a mean over its rows of all
    ranks. Rejected rows have weight 0 in every term.

    Args:
        accepted: [B], the weight of external rows; of internal ones it is not read. totals: [2], ``domain_weights`` of all ranks.
    """
    internal = (batch.domain == 0).to(batch.weight.dtype)
    internal_weight, accepted_weight = batch.weight * internal, batch.weight * (1.0 - internal) * accepted.detach()
    num_internal, num_external = totals.clamp(min=1.0).unbind()
    loss = (internal_weight * (output.vanilla_loss + output.gain_loss)).sum() / num_internal
    loss = loss + external_weight * (accepted_weight * output.gain_loss).sum() / num_external
    measured = {"internal": totals[0], "external": totals[1], "both": totals.sum()}[bridge.measured_on].clamp(min=1.0)
    distance = bridge.embedding_weight * output.embedding_distance + bridge.tower_weight * output.tower_distance
    return loss + ((internal_weight + accepted_weight) * distance).sum() / measured


def _adapter(dim: int, weight: float, section: BridgeSection) -> ResidualAdapter | None:
    return ResidualAdapter(dim, section.units) if weight else None


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())
