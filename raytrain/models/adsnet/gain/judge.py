"""The decision of a step: an estimator's gains go into the ledger, and a weight for every row comes out, before backward.

Shapes: B rows of this rank, S slices.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.gain.estimators import build_estimator
from raytrain.models.adsnet.gain.ledger import GainLedger, LedgerReport, acceptance, step_volume
from raytrain.models.adsnet.gain.purity import Purity
from raytrain.models.adsnet.gain.rows import JudgedRows, Reduce
from raytrain.models.adsnet.pair import PseudoSiamese


class GainJudge:
    """One estimator with its ledger. A second judge may watch the same steps beside the one that decides."""

    def __init__(
        self, section: GainSection, num_slices: int, device: torch.device | None = None, label_edges: Sequence[float] = (0.0,)
    ) -> None:
        """``num_slices``: codes of the slice column are 0..num_slices-1. ``label_edges``: see ``label_stats.class_edges``."""
        self._section = section
        self._estimator = build_estimator(section, num_slices)
        self._ledger = GainLedger(section, num_slices, self._estimator.is_scaled, device, label_edges)

    def wants_probe(self, step: int) -> bool:
        """Whether ``weigh`` needs the probe at this step; the same on every rank."""
        return self._estimator.wants_probe(step)

    @property
    def bars(self) -> bool:
        """Whether slices are kept out for their surprise."""
        return self._ledger.bars

    def weigh(self, pair: PseudoSiamese, rows: JudgedRows, probe: JudgedRows | None, reduce: Reduce) -> Tensor:
        """What each row counts in this step's loss, [B], 1 on internal rows; the ledger has taken the step's rows in. A collective."""
        gains = self._estimator.estimate(pair, rows, probe, reduce)
        sums = reduce(self._ledger.sums(gains, rows, probe))
        self._ledger.update(sums)
        ones = torch.ones_like(rows.weight)
        if not self._estimator.judges_rows:
            by_slice = self._ledger.weights()
            self._ledger.add_accepted(self._ledger.volume(sums) * by_slice)
            known = torch.where(rows.is_external, rows.slice, 0)
            return torch.where(rows.is_external, by_slice[known].to(ones.dtype), ones)
        if self._section.estimator == "none":
            accepted = ones
        else:
            # With all held-out rows: within a class of labels single rows differ by little but noise.
            compared = (gains.gain - self._ledger.reference()) / self._ledger.scale()
            own = acceptance(compared, self._section, self._ledger.first_threshold()).to(ones.dtype)
            accepted = torch.where(rows.is_external, own, ones)
        self._ledger.add_accepted(reduce(step_volume(rows, accepted, self._ledger.num_slices)))
        return accepted

    def report(self) -> LedgerReport:
        """Where rows are judged one by one, a slice's weight is the share of its rows let in so far: the ledger decides nothing."""
        report = self._ledger.report()
        if not self._estimator.judges_rows:
            return report
        first, tau = self._ledger.first_threshold(), self._section.threshold
        share = report.accepted / report.volume.clamp(min=1.0)
        return replace(report, weight=share, threshold=first, entry_threshold=first, harm_threshold=tau)

    def purity(self) -> Purity | None:
        """None where the estimator gives no gains of single rows."""
        return self._ledger.purity() if self._estimator.is_scaled else None

    def state_dict(self) -> dict[str, Tensor]:
        ledger, estimator = self._ledger.state_dict(), self._estimator.state_dict()
        return {f"ledger.{name}": value for name, value in ledger.items()} | {
            f"estimator.{name}": value for name, value in estimator.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """From ``state_dict`` of a judge of the same section and slices."""
        self._ledger.load_state_dict({name.removeprefix("ledger."): value for name, value in state.items() if name.startswith("ledger.")})
        self._estimator.load_state_dict(
            {name.removeprefix("estimator."): value for name, value in state.items() if name.startswith("estimator.")}
        )
