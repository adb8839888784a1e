"""How an external row's gain is estimated: one interface, and what each estimator needs.

The paper (arXiv 2406.10517) compares both networks' performance on internal samples and does not say when or on what; ``siamese``
is our reading of it. The others are our choice. All losses are without bridges, which would favour rows like the teacher's.

Shapes: B rows of this rank, N external and M internal ones among them.
"""

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.gain.functional import directional_derivatives, evaluating, mean_gradient
from raytrain.models.adsnet.gain.rows import JudgedRows, Reduce, RowGains
from raytrain.models.adsnet.gain.tentative import TentativeGain
from raytrain.models.adsnet.pair import PseudoSiamese


class GainEstimator(Protocol):
    """Says what rows are worth to the gain network."""

    is_scaled: bool
    """Whether gains are of no natural unit and are judged as shares of what internal rows gain."""
    judges_rows: bool
    """Whether a row is judged by its own gain; else by its slice's mean."""

    def wants_probe(self, step: int) -> bool:
        """Whether ``estimate`` needs the probe at this step; the same on every rank."""
        ...

    def estimate(self, pair: PseudoSiamese, rows: JudgedRows, probe: JudgedRows | None, reduce: Reduce) -> RowGains:
        """Before backward; neither parameters nor gradients change. A collective."""
        ...

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class FirstOrderGain:
    """IG_j = <v, grad l_j> / |v| over the tower parameters, v the probe's gradient: what a step along row j takes off the probe's loss.

    ``ledger`` averages it by slice, ``grad`` judges each row by its own. Held-out internal rows have a gain along the same v: what an
    external row is compared with.

    With probe=internal v is the running mean of the steps' internal gradients. Where internal and accepted rows together have
    converged their gradients cancel, so v is the very force that holds against what the accepted rows do, harm above all. The
    gradient of held-out rows is there mostly their own noise, the same for every slice, and a harmful slice may come back until it
    has hurt.
    """

    is_scaled = True

    def __init__(self, section: GainSection) -> None:
        self.judges_rows = section.estimator == "grad"
        self._section = section
        self._gradient: dict[str, Tensor] = {}

    def wants_probe(self, step: int) -> bool:
        wanted = "held_out" in (self._section.probe, self._section.reference)
        return wanted and (not self._gradient or step % self._section.refresh_steps == 0)

    def estimate(self, pair: PseudoSiamese, rows: JudgedRows, probe: JudgedRows | None, reduce: Reduce) -> RowGains:
        head = pair.gain.head
        with evaluating(head):
            if self._section.probe == "internal":
                found, kept = _tower_gradient(pair, rows, reduce), self._section.probe_decay
                self._gradient = {name: kept * self._gradient.get(name, 0.0) + (1 - kept) * part for name, part in found.items()}
            elif probe is not None:
                self._gradient = _tower_gradient(pair, probe, reduce)
            assert self._gradient, "the first step needs a probe"
            along = partial(directional_derivatives, head, direction=_unit(self._gradient), derivative=self._section.derivative)
            loss, gain = along(rows.tower_inputs, rows.label)
            probe_loss = probe_gain = None
            if probe is not None and self._section.reference == "held_out":
                probe_loss, probe_gain = along(probe.tower_inputs, probe.label)
        return RowGains(gain, rows.weight, probe_gain, loss, probe_loss)

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._gradient)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._gradient = {name: value.clone() for name, value in state.items()}


def _tower_gradient(pair: PseudoSiamese, rows: JudgedRows, reduce: Reduce) -> dict[str, Tensor]:
    """Of the mean loss of all ranks' internal rows."""
    head, index = pair.gain.head, (rows.internal_weight > 0).nonzero()[:, 0]
    parameters = dict(head.named_parameters())
    with torch.enable_grad():
        row_loss = head(rows.tower_inputs[index], rows.label[index])
        gradient = mean_gradient(row_loss, rows.internal_weight[index], list(parameters.values()), reduce)
    return dict(zip(parameters, gradient, strict=True))


def _unit(gradient: dict[str, Tensor]) -> dict[str, Tensor]:
    length = torch.stack([part.square().sum() for part in gradient.values()]).sum().sqrt().clamp(min=1e-30)
    return {name: part / length for name, part in gradient.items()}


class PairedGain:
    """IG_j = l(V; x_i) - l(G; x_i) of an internal row i of the same slice: the literal reading of "for each external sample".

    It says something only where such rows resemble each other. Pairs are made among a rank's own rows.
    """

    is_scaled = False
    judges_rows = True

    def wants_probe(self, step: int) -> bool:
        return False

    @torch.no_grad()
    def estimate(self, pair: PseudoSiamese, rows: JudgedRows, probe: JudgedRows | None, reduce: Reduce) -> RowGains:
        internal = (rows.internal_weight > 0).nonzero()[:, 0]
        external = rows.is_external.nonzero()[:, 0]
        if not len(internal):
            return RowGains.unknown(rows)
        with evaluating(pair):
            label = rows.label[internal]
            vanilla = pair.vanilla.head.row_loss(pair.vanilla(rows.vanilla_inputs.rows(internal)).hidden, label)
            gain = pair.gain.head.row_loss(pair.gain(rows.gain_inputs.rows(internal)).hidden, label)
        partner = matched_rows(rows.slice[external], rows.slice[internal])
        unknown = RowGains.unknown(rows)
        return RowGains(
            unknown.gain.index_put((external,), (vanilla - gain)[partner]),
            unknown.evidence.index_put((external,), rows.weight[external]),
        )

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


class NoGain:
    """Says nothing: everything is mixed in."""

    is_scaled = False
    judges_rows = True

    def wants_probe(self, step: int) -> bool:
        return False

    def estimate(self, pair: PseudoSiamese, rows: JudgedRows, probe: JudgedRows | None, reduce: Reduce) -> RowGains:
        return RowGains.unknown(rows)

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass


def matched_rows(external: Tensor, internal: Tensor) -> Tensor:
    """The k-th external row of a slice -> the k-th internal row of it, in turn; where it has none, the k-th of all.

    Args:
        external: int64 [N], slices. internal: int64 [M], slices, M of 1 or more.

    Returns:
        int64 [N], places in ``internal``.
    """
    in_order, places = torch.sort(internal, stable=True)
    first = torch.searchsorted(in_order, external)
    count = torch.searchsorted(in_order, external, right=True) - first
    sorted_external, external_places = torch.sort(external, stable=True)
    rank_in_order = torch.arange(len(external), device=external.device) - torch.searchsorted(sorted_external, sorted_external)
    rank = torch.empty_like(external).index_put((external_places,), rank_in_order)
    partner = places[(first + rank % count.clamp(min=1)).clamp(max=len(internal) - 1)]
    return torch.where(count > 0, partner, rank % len(internal))


def build_estimator(section: GainSection, num_slices: int) -> GainEstimator:
    """The estimator that ``section.estimator`` names."""
    builders: dict[str, Any] = {
        "ledger": lambda: FirstOrderGain(section),
        "grad": lambda: FirstOrderGain(section),
        "siamese": lambda: TentativeGain(section, num_slices),
        "lookahead": lambda: TentativeGain(section, num_slices),
        "paired": PairedGain,
        "none": NoGain,
    }
    estimator: GainEstimator = builders[section.estimator]()
    return estimator
