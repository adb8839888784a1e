"""The ledger: what each slice of the external rows has been worth, and whether it is let in.

Beside gain it keeps each slice's *surprise*, what its rows cost the network beyond held-out internal rows of their class of label. A
gain is measured along a direction that swings once a network has converged, and harm then looks good for a few dozen steps; surprise
does not swing. It says little of rows that have been trained on, so it is taken of slices that are left out, and only keeps them out;
one that was let in and dropped is judged by what it cost before, and by rows that are being forgotten.

Its update is a sum over rows, so R ranks that add up their sums keep one ledger. A slice's mean decays with its own visits: a rare
slice keeps what is known of it. Dividing by the decayed weight corrects the bias of a young mean.

Shapes: B rows of this rank, S slices.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.gain.purity import Purity, purity_of
from raytrain.models.adsnet.gain.reference import Reference
from raytrain.models.adsnet.gain.rows import JudgedRows, RowGains

YARDSTICK_DECAY = 0.997
PURITY_DECAY = 0.999
"""Longer than that of decisions: purity is a property of the data, and needs many rows."""
SPREAD = 0.075
"""How far below the mean of what is let in good slices lie by luck: a tau that asks for more leaves room for that much."""
LOSS_LOOKS = 10.0
"""Looks at held-out rows after which their losses fade to 1 / e: a network learns, which a longer memory would take for surprise."""
LUCK = 2.0
"""By how much a single row's loss lies off by luck, in mean distances of held-out ones: one and a half standard deviations."""
MIX_DOUBT = 3.0
"""Standard deviations of luck that a slice's mix of labels has to pass before it counts. Rows that come by again are no new evidence and
are counted as such, so this is less than it looks."""


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
    """Gain down to which a slice that was let in stays"""
    entry_threshold: float
    """Gain from which a slice that was left out is let in"""
    harm_threshold: float
    """Gain below which a slice hurts: the threshold, but for the first steps' higher one"""
    surprise: Tensor
    """What a row cost beyond held-out rows of its class of label while the slice was left out; NaN where nothing is known"""
    barred: Tensor
    """bool, whether that keeps the slice out"""


class GainLedger:
    """Decayed sums of gain and weight for every slice, and of internal rows' gains."""

    def __init__(
        self,
        section: GainSection,
        num_slices: int,
        is_scaled: bool,
        device: torch.device | None = None,
        label_edges: Sequence[float] = (0.0,),
    ) -> None:
        """``label_edges``: of the classes of labels in which gains are compared with held-out rows'."""
        self._section, self._is_scaled = section, is_scaled
        self._compares = is_scaled and section.reference == "held_out"
        self.bars = self._compares and section.estimator == "ledger" and section.max_surprise is not None
        """Whether slices are kept out for their surprise"""
        # As old as the slices' own means: both move with what is let in.
        decays = {"gain": section.decay**section.refresh_steps, "loss": math.exp(-1 / LOSS_LOOKS)}
        self._references = {name: Reference(label_edges, decay, device) for name, decay in decays.items()}
        self._margins = torch.tensor([0.0, section.margin], dtype=torch.float64, device=device)
        zeros = torch.zeros(num_slices, dtype=torch.float64, device=device)
        self._state = {name: zeros.clone() for name in ("gain", "rows", "mix", "excess", "excess_rows", "volume", "accepted")}
        for name in ("fold_gain", "fold_rows"):
            self._state[name] = torch.zeros(2, num_slices, dtype=torch.float64, device=device)
        self._state["internal"] = torch.zeros(3, dtype=torch.float64, device=device)
        """Decayed sums of the gain of internal rows, of its size, and of their weight"""
        self._state["num_updates"] = torch.zeros((), dtype=torch.float64)
        self._state["decided_by"] = torch.zeros(3, dtype=torch.float64, device=device)
        """The thresholds that the latest step's slices were let in by: what they are changes them for the next"""
        self._state["let_in"] = zeros.clone()
        """[S], what the slices' rows counted at the latest step"""

    @property
    def num_slices(self) -> int:
        return len(self._state["gain"])

    def sums(self, gains: RowGains, rows: JudgedRows, probe: JudgedRows | None = None) -> Tensor:
        """What this rank's rows add: float64 [7 S + 3 + 4 (C + 1)], to be summed over ranks and handed to ``update``.

        Args:
            probe: the rows that ``gains.probe_gain`` and ``gains.probe_loss`` are of.
        """
        gain, evidence = gains.gain.double(), gains.evidence.double()
        external = rows.is_external.double()
        # A row without evidence may hold any number: its product with 0 has to be 0.
        gain = torch.where(evidence > 0, gain, 0.0)
        # Compared with what was known before this step, which is the same on every rank. Before the first look nothing is.
        of_gain, of_loss = self._references.values()
        expected = of_gain.expected(rows.label) if self._compares else torch.zeros_like(gain)
        seen = evidence * external * (of_gain.is_known() if self._compares else 1.0)
        by_slice = torch.zeros(7, self.num_slices, dtype=torch.float64, device=gain.device)
        first, second = seen * (rows.fold == 0), seen * (rows.fold != 0)
        better, mix = gain - expected, (expected - of_gain.mean()) * seen
        excess = torch.zeros_like(gain)
        if self._compares and gains.loss is not None:
            excess = torch.where(seen > 0, (gains.loss.double() - of_loss.expected(rows.label)) * seen, 0.0)
        columns = torch.stack([better * first, better * second, first, second, rows.weight.double() * external, mix, excess])
        by_slice = by_slice.index_add(1, torch.where(rows.is_external, rows.slice, 0), columns)
        inside = evidence * (1.0 - external)
        internal = torch.stack([(gain * inside).sum(), (gain.abs() * inside).sum(), inside.sum()])
        found = {"gain": gains.probe_gain, "loss": gains.probe_loss}
        looked = [
            torch.zeros_like(reference.sums)
            if (figure := found[name]) is None or probe is None
            else reference.sums_of(figure, probe.label, probe.weight)
            for name, reference in self._references.items()
        ]
        return torch.cat([by_slice.reshape(-1), internal, *(sums.reshape(-1) for sums in looked)])

    def volume(self, sums: Tensor) -> Tensor:
        """[S], weight of all ranks' external rows of the step that ``sums`` are of."""
        return self._by_slice(sums)[4]

    def _by_slice(self, sums: Tensor) -> Tensor:
        return sums[: 7 * self.num_slices].view(7, -1)

    def update(self, sums: Tensor) -> None:
        """``sums`` of all ranks' rows of one step."""
        state = self._state
        state["num_updates"] = state["num_updates"] + 1
        by_slice, others = self._by_slice(sums), sums[7 * self.num_slices :]
        state["internal"] = YARDSTICK_DECAY * state["internal"] + others[:3]
        for reference, looked in zip(self._references.values(), others[3:].view(2, 2, -1), strict=True):
            reference.add(looked)
        gain, rows, mix = by_slice[:2] / self.scale(), by_slice[2:4], by_slice[5] / self.scale()  # by fold, [2, S]; [S]
        visited = rows.sum(0) > 0
        kept, kept_long = torch.where(visited, self._section.decay, 1.0), torch.where(visited, PURITY_DECAY, 1.0)
        state["gain"] = kept * state["gain"] + gain.sum(0)
        state["rows"] = kept * state["rows"] + rows.sum(0)
        state["mix"] = kept * state["mix"] + mix
        self._add_surprise(by_slice[6], rows.sum(0))
        state["fold_gain"] = kept_long * state["fold_gain"] + gain
        state["fold_rows"] = kept_long * state["fold_rows"] + rows
        state["volume"] = state["volume"] + by_slice[4]
        state["decided_by"] = self.thresholds()
        state["let_in"] = self._decide(state["decided_by"])

    def scale(self) -> Tensor:
        """What an internal row's gain is divided by, a scalar above 0: the mean size of internal rows' gains; 1 if gains are losses.

        The size, not the gain: near convergence the mean gain of fitted rows is 0 and changes its sign.
        """
        _, size, weight = self._state["internal"].unbind()
        return torch.where((size > 0) & self._is_scaled, size / torch.where(weight > 0, weight, 1.0), 1.0)

    def reference(self) -> Tensor:
        """The mean gain of held-out internal rows, a scalar, not scaled; 0 without any."""
        return self._references["gain"].mean()

    def gains(self) -> Tensor:
        """Each slice's decayed mean gain, [S]; NaN where nothing is known.

        Against held-out rows it has two parts: what its rows gain beside those of their class of label, and what its mix of labels
        makes of it, as far as that is more than luck.
        """
        state = self._state
        gain, mix = state["gain"] / state["rows"], state["mix"] / state["rows"]
        luck = MIX_DOUBT**2 * self._references["gain"].variance() / self.scale().square() / state["rows"]
        return gain + torch.where(mix.square() > luck, mix - luck / mix, 0.0)

    def _add_surprise(self, excess: Tensor, rows: Tensor) -> None:
        """What rows cost, and how many there were, [S] each, as far as the step before left their slice out: others are trained on."""
        state = self._state
        # In units of the moment, as gains are. No spread is known before the second look.
        spread = self._references["loss"].spread()
        left_out = torch.where((rows > 0) & (spread > 0) & self.bars, 1.0 - state["let_in"], 0.0)
        # Evidence fades as far as more comes: a slice that counts nearly whole keeps what was known of it.
        kept = 1.0 - (1.0 - self._section.decay) * left_out
        state["excess"] = kept * state["excess"] + torch.where(left_out > 0, left_out * excess / spread, 0.0)
        state["excess_rows"] = kept * state["excess_rows"] + left_out * rows

    def surprise(self) -> Tensor:
        """What a row of each slice cost beyond held-out rows of its class of label while the slice was left out, [S], in mean distances
        of those rows' losses from their class's mean: a unit that every head's loss has. NaN where nothing is known, which is always
        where nothing is judged by it."""
        return self._state["excess"] / self._state["excess_rows"]

    def _barred(self) -> Tensor:
        """bool [S]: left out, and surprising by more than the limit and luck."""
        rows = self._state["excess_rows"]
        limit = (self._section.max_surprise or 0.0) + LUCK / rows.clamp(min=1.0).sqrt()
        return (self._state["let_in"] < 0.5) & (rows >= self._section.min_rows) & (self.surprise() > limit)

    def weights(self) -> Tensor:
        """What a row of each slice counts, [S]: 0 before ``min_rows`` rows came by, then by the rule of ``acceptance``."""
        return self._state["let_in"].clone()

    def thresholds(self) -> Tensor:
        """Lowest gain to stay let in, lowest to be let in, and what harm lies below, [3], beside what is let in now.

        tau below 0, or below the mean of what is let in: a few hundred held-out rows may lie off by luck, but slices that are alike lie
        together. A mean below 0 counts down to tau, so to 2 tau at the most: harm that is let in cannot ask for more and more. A slice
        that is left out needs ``margin`` more.
        """
        state, tau = self._state, self._section.threshold
        lift = torch.zeros_like(state["num_updates"], device=state["gain"].device)
        if self._compares:
            rows = state["rows"] * state["let_in"]
            mean = (torch.where(rows > 0, self.gains(), 0.0) * rows).sum() / rows.sum().clamp(min=1e-30)
            room = max(0.0, SPREAD + tau)
            lift = torch.where(mean > 0, (mean - room).clamp(min=0.0), mean.clamp(min=min(0.0, tau)))
        harm = (tau + lift)[None]
        return torch.cat([torch.maximum(harm + self._margins, self.first_threshold() + lift.clamp(max=0.0)), harm])

    def first_threshold(self) -> float:
        """What a gain has to be at the latest step before anything is let in: it falls to tau."""
        return self._section.threshold_at(float(self._state["num_updates"]) - 1.0)

    def _decide(self, thresholds: Tensor) -> Tensor:
        state = self._state
        judged = (state["volume"] >= self._section.min_rows) & (state["rows"] > 0)
        if self.bars:
            judged &= (state["excess_rows"] > 0) & (state["excess_rows"] >= self._section.min_rows) & ~self._barred()
        stays, enters, _ = thresholds
        return torch.where(judged, acceptance(self.gains(), self._section, enters + (stays - enters) * state["let_in"]), 0.0)

    def add_accepted(self, accepted: Tensor) -> None:
        """``accepted`` [S]: weight of all ranks' rows let in at this step."""
        self._state["accepted"] = self._state["accepted"] + accepted

    def purity(self) -> Purity:
        """Whether slices tell good rows from bad at all; means something of gains of single rows alone."""
        return purity_of(self._state["fold_gain"], self._state["fold_rows"])

    def report(self) -> LedgerReport:
        state = self._state
        stays, enters, harm = state["decided_by"].tolist()
        return LedgerReport(
            gain=self.gains(),
            volume=state["volume"].clone(),
            accepted=state["accepted"].clone(),
            weight=self.weights(),
            threshold=stays,
            entry_threshold=enters,
            harm_threshold=harm,
            surprise=self.surprise(),
            barred=self._barred(),
        )

    def state_dict(self) -> dict[str, Tensor]:
        return self._state | {f"reference.{name}": reference.sums for name, reference in self._references.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        # Where it was: a checkpoint is read onto the device, and the step's number is looked at by the host at every step.
        self._state = {name: state[name].to(value.device, copy=True) for name, value in self._state.items()}
        for name, reference in self._references.items():
            reference.sums = state[f"reference.{name}"].clone()


def acceptance(gain: Tensor, section: GainSection, threshold: Tensor | float) -> Tensor:
    """What a row of that gain counts: 1 from the threshold on, or more and more around it. ``threshold``: one of all, or one a row."""
    if section.weights == "soft":
        return torch.sigmoid((gain - threshold) / section.temperature)
    return (gain >= threshold).to(gain.dtype)


def step_volume(rows: JudgedRows, counted: Tensor, num_slices: int) -> Tensor:
    """Weight of this rank's external rows by slice, each times ``counted`` [B]: float64 [S]."""
    weight = (rows.weight * rows.is_external * counted).double()
    return torch.zeros(num_slices, dtype=torch.float64, device=weight.device).index_add(
        0, torch.where(rows.is_external, rows.slice, 0), weight
    )
