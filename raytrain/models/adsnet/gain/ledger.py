"""The ledger: what each slice of the external rows has been worth, and whether it is let in.

Its update is a sum over rows, so R ranks that add up their sums keep one ledger. A slice's mean decays with its own visits: a rare
slice keeps what is known of it. Dividing by the decayed weight corrects the bias of a young mean.

Shapes: B rows of this rank, S slices.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.gain.purity import Purity, purity_of
from raytrain.models.adsnet.gain.rows import JudgedRows, RowGains

YARDSTICK_DECAY = 0.997
REFERENCE_DECAY = 0.9
"""Of held-out rows' gain, at each look at them: it moves with what is let in, and has to be as young as the slices' own means."""
PURITY_DECAY = 0.999
"""Longer than that of decisions: purity is a property of the data, and needs many rows."""


@dataclass(frozen=True)
class LedgerReport:
    """The state of every slice, [S] each, float64."""

    gain: Tensor
    """Decayed mean; NaN where nothing is known"""
    volume: Tensor
    """Weight of the rows that came by, since the start"""
    accepted: Tensor
    """Weight of those let in, since the start"""
    weight: Tensor
    """What the slice's rows count from now on"""
    threshold: float
    """Gain from which they count"""


class GainLedger:
    """Decayed sums of gain and weight for every slice, and of internal rows' gains."""

    def __init__(self, section: GainSection, num_slices: int, is_scaled: bool, device: torch.device | None = None) -> None:
        self._section, self._is_scaled = section, is_scaled
        self._compares = is_scaled and section.reference == "held_out"
        zeros = torch.zeros(num_slices, dtype=torch.float64, device=device)
        self._state = {name: zeros.clone() for name in ("gain", "rows", "volume", "accepted")}
        for name in ("fold_gain", "fold_rows"):
            self._state[name] = torch.zeros(2, num_slices, dtype=torch.float64, device=device)
        self._state["internal"] = torch.zeros(3, dtype=torch.float64, device=device)
        """Decayed sums of the gain of internal rows, of its size, and of their weight"""
        self._state["reference"] = torch.zeros(2, dtype=torch.float64, device=device)
        """Decayed sums of the gain of held-out internal rows, and of their weight"""
        self._state["num_updates"] = torch.zeros((), dtype=torch.float64)
        self._state["decided_by"] = torch.zeros((), dtype=torch.float64, device=device)
        """The threshold that the latest step's slices were let in by: what they are changes it for the next"""
        self._state["let_in"] = zeros.clone()
        """[S], what the slices' rows counted at the latest step"""

    @property
    def num_slices(self) -> int:
        return len(self._state["gain"])

    def sums(self, gains: RowGains, rows: JudgedRows) -> Tensor:
        """What this rank's rows add: float64 [5 S + 5], to be summed over ranks and handed to ``update``."""
        gain, evidence = gains.gain.double(), gains.evidence.double()
        external = rows.is_external.double()
        seen = evidence * external
        # A row without evidence may hold any number: its product with 0 has to be 0.
        gain = torch.where(evidence > 0, gain, 0.0)
        by_slice = torch.zeros(5, self.num_slices, dtype=torch.float64, device=gain.device)
        first, second = seen * (rows.fold == 0), seen * (rows.fold != 0)
        columns = torch.stack([gain * first, gain * second, first, second, rows.weight.double() * external])
        by_slice = by_slice.index_add(1, torch.where(rows.is_external, rows.slice, 0), columns)
        inside = evidence * (1.0 - external)
        internal = torch.stack([(gain * inside).sum(), (gain.abs() * inside).sum(), inside.sum()])
        reference = torch.zeros_like(self._state["reference"]) if gains.reference is None else gains.reference.double()
        return torch.cat([by_slice.reshape(-1), internal, reference])

    def volume(self, sums: Tensor) -> Tensor:
        """[S], weight of all ranks' external rows of the step that ``sums`` are of."""
        return self._by_slice(sums)[4]

    def _by_slice(self, sums: Tensor) -> Tensor:
        return sums[: 5 * self.num_slices].view(5, -1)

    def update(self, sums: Tensor) -> None:
        """``sums`` of all ranks' rows of one step."""
        state = self._state
        state["num_updates"] = state["num_updates"] + 1
        by_slice, internal, reference = self._by_slice(sums), sums[-5:-2], sums[-2:]
        state["internal"] = YARDSTICK_DECAY * state["internal"] + internal
        state["reference"] = torch.where(reference[1] > 0, REFERENCE_DECAY, 1.0) * state["reference"] + reference
        rows = by_slice[2:4]  # [2, S], by fold
        gain = (by_slice[:2] - self.reference() * rows) / self.scale()
        visited = rows.sum(0) > 0
        kept, kept_long = torch.where(visited, self._section.decay, 1.0), torch.where(visited, PURITY_DECAY, 1.0)
        state["gain"] = kept * state["gain"] + gain.sum(0)
        state["rows"] = kept * state["rows"] + rows.sum(0)
        state["fold_gain"] = kept_long * state["fold_gain"] + gain
        state["fold_rows"] = kept_long * state["fold_rows"] + rows
        state["volume"] = state["volume"] + by_slice[4]
        state["decided_by"] = self.threshold()
        state["let_in"] = self._decide(state["decided_by"])

    def scale(self) -> Tensor:
        """What an internal row's gain is divided by, a scalar above 0: the mean size of internal rows' gains; 1 if gains are losses.

        The size, not the gain: near convergence the mean gain of fitted rows is 0 and changes its sign.
        """
        _, size, weight = self._state["internal"].unbind()
        return torch.where((size > 0) & self._is_scaled, size / torch.where(weight > 0, weight, 1.0), 1.0)

    def reference(self) -> Tensor:
        """What gains are compared with before they are scaled, a scalar: the mean gain of held-out internal rows; 0 without any."""
        gain, weight = self._state["reference"].unbind()
        return gain / torch.where(weight > 0, weight, 1.0)

    def gains(self) -> Tensor:
        """Each slice's decayed mean gain, [S]; NaN where nothing is known."""
        return self._state["gain"] / self._state["rows"]

    def weights(self) -> Tensor:
        """What a row of each slice counts, [S]: 0 before ``min_rows`` rows came by, then by the rule of ``acceptance``."""
        return self._state["let_in"].clone()

    def threshold(self) -> Tensor:
        """Lowest gain to be accepted beside what is let in now, a scalar.

        tau below 0, or below the mean of what is let in where that gains more: a few hundred held-out rows may lie off by luck, but
        slices that are alike lie together.
        """
        state = self._state
        first = self._section.threshold_at(float(state["num_updates"]) - 1.0)
        if not self._compares:
            return torch.full_like(state["reference"][0], first)
        gain, rows = ((state[name] * state["let_in"]).sum() for name in ("gain", "rows"))
        lift = torch.where(rows > 0, gain / rows.clamp(min=1e-30), 0.0).clamp(min=0.0)
        return (self._section.threshold + lift).clamp(min=first)

    def _decide(self, threshold: Tensor) -> Tensor:
        judged = (self._state["volume"] >= self._section.min_rows) & (self._state["rows"] > 0)
        return torch.where(judged, acceptance(self.gains(), self._section, threshold), 0.0)

    def add_accepted(self, accepted: Tensor) -> None:
        """``accepted`` [S]: weight of all ranks' rows let in at this step."""
        self._state["accepted"] = self._state["accepted"] + accepted

    def purity(self) -> Purity:
        """Whether slices tell good rows from bad at all; means something of gains of single rows alone."""
        return purity_of(self._state["fold_gain"], self._state["fold_rows"])

    def report(self) -> LedgerReport:
        state = self._state
        return LedgerReport(self.gains(), state["volume"].clone(), state["accepted"].clone(), self.weights(), float(state["decided_by"]))

    def state_dict(self) -> dict[str, Tensor]:
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._state = {name: state[name].clone() for name in self._state}


def acceptance(gain: Tensor, section: GainSection, threshold: Tensor) -> Tensor:
    """What a row of that gain counts: 1 from the threshold on, or more and more around it."""
    if section.weights == "soft":
        return torch.sigmoid((gain - threshold) / section.temperature)
    return (gain >= threshold).to(gain.dtype)


def step_volume(rows: JudgedRows, counted: Tensor, num_slices: int) -> Tensor:
    """Weight of this rank's external rows by slice, each times ``counted`` [B]: float64 [S]."""
    weight = (rows.weight * rows.is_external * counted).double()
    return torch.zeros(num_slices, dtype=torch.float64, device=weight.device).index_add(
        0, torch.where(rows.is_external, rows.slice, 0), weight
    )
