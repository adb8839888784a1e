"""Gain by tentative steps of the dense parameters: what the probe's loss would be after training on one slice.

Tables take no part: a fused update cannot be undone. Their vectors are those that the step has looked up.
Shapes: B rows of this rank, S slices.
"""

import torch
from torch import Tensor

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.backbone import BackboneInputs, LtvBackbone
from raytrain.models.adsnet.gain.functional import Parameters, backbone_row_loss, evaluating, mean_gradient, mean_loss, parameters_of
from raytrain.models.adsnet.gain.rows import JudgedRows, Reduce, RowGains
from raytrain.models.adsnet.pair import PseudoSiamese


class TentativeGain:
    """IG_s = L(reference; probe) - L(G'; probe), G' = G - step_size (grad L(G; internal) + grad L(G; slice s)).

    ``siamese``: the reference is V - step_size grad L(V; internal), the paper's comparison as we read it. ``lookahead``: it is
    G - step_size grad L(G; internal), so that the networks' drift from each other does not count.
    """

    is_scaled = False
    judges_rows = False

    def __init__(self, section: GainSection, num_slices: int) -> None:
        self._section = section
        self._tried = torch.zeros(num_slices, dtype=torch.int64)
        """[S], the number of the estimate that last tried the slice"""

    def wants_probe(self, step: int) -> bool:
        return True

    def estimate(self, pair: PseudoSiamese, rows: JudgedRows, probe: JudgedRows | None, reduce: Reduce) -> RowGains:
        assert probe is not None, "every tentative step is measured on the probe"
        gains = RowGains.unknown(rows)
        gain, evidence = gains.gain.clone(), gains.evidence.clone()
        with evaluating(pair):
            chosen = self._choose(rows, reduce)
            internal = _gradient(pair.gain, rows.gain_inputs, rows, rows.internal_weight, reduce)
            if self._section.estimator == "siamese":
                own = _gradient(pair.vanilla, rows.vanilla_inputs, rows, rows.internal_weight, reduce)
                reference = self._loss_after(pair.vanilla, probe.vanilla_inputs, [own], probe, reduce)
            else:
                reference = self._loss_after(pair.gain, probe.gain_inputs, [internal], probe, reduce)
            for number in chosen:
                inside = rows.is_external & (rows.slice == number)
                external = _gradient(pair.gain, rows.gain_inputs, rows, rows.weight * inside, reduce)
                after = self._loss_after(pair.gain, probe.gain_inputs, [internal, external], probe, reduce)
                gain = torch.where(inside, reference - after, gain)
                evidence = torch.where(inside, rows.weight, evidence)
        return RowGains(gain, evidence)

    def state_dict(self) -> dict[str, Tensor]:
        return {"tried": self._tried}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._tried = state["tried"].clone()

    def _choose(self, rows: JudgedRows, reduce: Reduce) -> list[int]:
        """Of the slices in the batch of all ranks those tried longest ago; every rank chooses the same. A host sync."""
        volume = torch.zeros(len(self._tried), dtype=torch.float64, device=rows.weight.device)
        volume = reduce(volume.index_add(0, rows.slice, (rows.weight * rows.is_external).to(volume.dtype)))
        present = (volume > 0).nonzero()[:, 0].cpu()
        order = torch.sort(self._tried[present], stable=True).indices
        chosen = present[order[: self._section.slices_per_step]]
        self._tried[chosen] = self._tried.max() + 1
        found: list[int] = chosen.tolist()
        return found

    @torch.no_grad()
    def _loss_after(
        self, backbone: LtvBackbone, inputs: BackboneInputs, gradients: list[Parameters], probe: JudgedRows, reduce: Reduce
    ) -> Tensor:
        moved = parameters_of(backbone)
        for gradient in gradients:
            moved = {name: value - self._section.step_size * gradient[name] for name, value in moved.items()}
        return mean_loss(backbone_row_loss(backbone, moved, inputs, probe.label), probe.internal_weight, reduce)


def _gradient(backbone: LtvBackbone, inputs: BackboneInputs, rows: JudgedRows, weight: Tensor, reduce: Reduce) -> Parameters:
    parameters = dict(backbone.named_parameters())
    # Only rows that count: a slice is a small part of a batch.
    index = (weight > 0).nonzero()[:, 0]
    with torch.enable_grad():
        row_loss = backbone.head.row_loss(backbone(inputs.rows(index)).hidden, rows.label[index])
        gradient = mean_gradient(row_loss, weight[index], list(parameters.values()), reduce)
    return dict(zip(parameters, gradient, strict=True))
