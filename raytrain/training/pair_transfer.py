"""ADSNet's part in the loop: stages, the judged loss, alignment of networks and tables, and the gain ledger in the open.

Everything it does is a function of the step's number and of what a checkpoint holds, so a run that goes on repeats it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from raytrain.adsnet_config import AdsnetModel
from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.vocabulary import slice_names
from raytrain.embeddings.tables import Tables
from raytrain.models.adsnet.declarations import adsnet_tables, table_pairs
from raytrain.models.adsnet.gain.functional import evaluating
from raytrain.models.adsnet.gain.judge import GainJudge
from raytrain.models.adsnet.gain.ledger import LedgerReport
from raytrain.models.adsnet.gain.rows import JudgedRows
from raytrain.models.adsnet.pair import Direction, PairOutput, PseudoSiamese, domain_weights, pair_loss
from raytrain.training.optimizers import copy_state
from raytrain.training.parallel import World, unwrapped

MAX_LOGGED_SLICES = 200
MAX_NAMED_SLICES = 10


class PairTransfer:
    """``Transfer`` of the pseudo-siamese pair."""

    networks: tuple[str, ...] = ("", "vanilla/")

    def __init__(
        self,
        job: JobConfig,
        contract: Contract,
        tables: Tables,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        world: World,
        probe: Sequence[Batch] = (),
    ) -> None:
        """``probe``: this rank's held-out internal rows, as many batches on every rank; a step takes the next of them."""
        pair = unwrapped(network)
        assert isinstance(pair, PseudoSiamese)
        assert isinstance(job.model, AdsnetModel)
        self._pair, self._model, self._tables, self._optimizer, self._world = pair, job.model, tables, optimizer, world
        self._contract, self._data_path = contract, job.data.path
        self._table_pairs = table_pairs(adsnet_tables(job.model, job, contract))
        self._judge = GainJudge(job.model.gain, contract.num_slices, world.device, pair.label_edges)
        watcher = job.model.gain.watcher
        # Without held-out rows there is nothing for siamese to be measured on.
        self._watcher = GainJudge(watcher, contract.num_slices, world.device, pair.label_edges) if watcher is not None and probe else None
        self._has_external, self._probe, self._step = bool(job.data.source_batch_size), probe, 0

    def before_step(self, step: int) -> None:
        """Sets the stage. The first joint step makes the gain network the vanilla one's copy; every N-th after it aligns them."""
        self._step, num_joint = step, step - self._model.warmup_steps
        self._pair.stage = "warmup" if num_joint < 0 else "joint"
        if num_joint == 0:
            self._start()
        elif num_joint > 0 and num_joint % self._model.align.every_steps == 0 and self._model.align.direction != "none":
            self._align(self._model.align.direction)

    def loss(self, output: PairOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        accepted = torch.ones_like(batch.weight)
        if self._pair.stage == "joint" and self._has_external:
            assert batch.slice is not None, "the model's declaration asks for slices"
            rows = JudgedRows.of(output, batch, batch.slice)
            gain = self._model.gain
            probe = self._probe_rows(gain.look_steps) if self._judge.wants_probe(self._step) else None
            accepted = self._judge.weigh(self._pair, rows, probe, self._world.sum)
            if self._watcher is not None and self._step % gain.watch_every_steps == 0:
                self._watcher.weigh(self._pair, rows, probe or self._probe_rows(gain.watch_every_steps), self._world.sum)
        totals = self._world.sum(domain_weights(batch))
        loss = pair_loss(output, batch, accepted, totals, self._model.bridge, self._model.external_weight)
        if self._model.align.l2_sp_weight and self._pair.stage == "joint":
            # Losses of ranks are summed, and this one is of no rows.
            loss = loss + self._model.align.l2_sp_weight * self._pair.pull() / self._world.size
        return loss, self._logs(output, batch, accepted, totals)

    def counts(self, step: int) -> bool:
        """Neither the vanilla network's warmup nor a ledger that has let in next to nothing yet, unless there is nothing to let in."""
        return step > self._model.preparation_steps or not self._has_external

    def clipped(self) -> list[list[nn.Parameter]]:
        """One norm over both networks would let external rows shorten the vanilla network's step."""
        vanilla = list(self._pair.vanilla.parameters())
        own = {id(parameter) for parameter in vanilla}
        return [vanilla, [parameter for parameter in self._pair.parameters() if id(parameter) not in own]]

    def state_dict(self) -> dict[str, Tensor]:
        """The stage, by which a saved network is scored, and the ledger."""
        judges = {f"{prefix}.{name}": value for prefix, judge in self._judges().items() for name, value in judge.state_dict().items()}
        return {"is_joint": torch.tensor(self._pair.stage == "joint"), **judges}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._pair.stage = "joint" if state["is_joint"] else "warmup"
        for prefix, judge in self._judges().items():
            own = f"{prefix}."
            judge.load_state_dict({name.removeprefix(own): value for name, value in state.items() if name.startswith(own)})

    def _judges(self) -> dict[str, GainJudge]:
        return {"judge": self._judge} | ({} if self._watcher is None else {"watcher": self._watcher})

    def records(self, step: int) -> list[dict[str, Any]]:
        """The ledger as columns, an entry a slice that external rows came from, the largest MAX_LOGGED_SLICES; volumes since the start.
        A host sync."""
        if self._pair.stage == "warmup" or not self._has_external:
            return []
        report = self._judge.report()
        seen = (report.volume > 0).nonzero()[:, 0]
        largest = seen[torch.argsort(report.volume[seen], descending=True, stable=True)][:MAX_LOGGED_SLICES].sort().values
        record: dict[str, Any] = {
            "kind": "gain",
            "step": step,
            "accepted_share": float(report.accepted.sum() / report.volume.sum().clamp(min=1.0)),
            "threshold": report.threshold,
            "entry_threshold": report.entry_threshold,
            "harm_threshold": report.harm_threshold,
            "num_slices": len(seen),
            "num_accepted": int((report.weight[seen] >= 0.5).sum()),
            "num_hurting": int(self._hurting(report).sum()),
            "num_barred": int(report.barred.sum()),
            "slice": largest.tolist(),
            "gain": _known(report.gain[largest]),
            "surprise": _known(report.surprise[largest]),
            "barred": report.barred[largest].tolist(),
            "volume": report.volume[largest].tolist(),
            "accepted": report.accepted[largest].tolist(),
            "weight": report.weight[largest].tolist(),
        }
        if self._judge.bars:
            record["max_surprise"] = self._model.gain.max_surprise
        if self._watcher is not None and self._model.gain.watcher is not None:
            seen_beside = self._watcher.report()
            record |= {"watcher": self._model.gain.watcher.estimator, "watcher_gain": _known(seen_beside.gain[largest])}
        purity = self._judge.purity()
        if purity is not None:
            record |= {"harm": purity.harm, "residual_harm": purity.residual_harm, "fold_agreement": purity.agreement}
        return [record]

    def warnings(self) -> list[str]:
        if not self._has_external:
            return []
        report = self._judge.report()
        found, num_slices = [], int((report.volume > 0).sum())
        if (hurting := self._hurting(report)).any():
            found.append(
                f"{int(hurting.sum())} of {num_slices} slices of external rows hurt, by their gain below {report.harm_threshold:.3g}: "
                f"{self._named(hurting, report.gain)}. {self._what_follows()}"
            )
        if num_barred := int(report.barred.sum()):
            found.append(
                f"{num_barred} of {num_slices} slices of external rows are left out whatever their gain, since the network predicts them "
                f"worse than unseen internal rows with such labels, by over {self._model.gain.max_surprise:g} of what those differ by: "
                f"{self._named(report.barred, -report.surprise, -1)}. If that is only because their ids are new to internal rows, raise "
                "model.gain.max_surprise; else they are another world, or harm."
            )
        purity = self._judge.purity()
        if purity is not None and purity.is_impure:
            found.append(
                f"Slices are too impure for their gain to mean anything: the better half of them carries {purity.residual_harm:.0%} of the "
                "average harm. Name another slice column in the data set, or train without external rows."
            )
        return found

    def _named(self, chosen: Tensor, order: Tensor, sign: int = 1) -> str:
        """The chosen slices, bool [S], with the least of ``order`` [S] first: name and ``sign`` times that."""
        numbers = chosen.nonzero()[:, 0]
        worst = numbers[torch.argsort(order[numbers])][:MAX_NAMED_SLICES].tolist()
        names = slice_names(self._contract, self._data_path, worst)
        more = f" and {len(numbers) - len(worst)} more" if len(numbers) > len(worst) else ""
        return ", ".join(f"{names.get(number, number)} ({sign * order[number]:+.2f})" for number in worst) + more

    def _what_follows(self) -> str:
        """Of rows whose slice hurts."""
        if self._model.gain.estimator == "grad":
            return "Each of their rows is let in or left out by its own gain."
        soft = self._model.gain.weights == "soft"
        return "Their rows count less in the gain network." if soft else "Their rows are left out of the gain network."

    def _hurting(self, report: LedgerReport) -> Tensor:
        """bool [S]: slices seen often enough whose gain is below what harm lies below, those aside that surprise."""
        return (report.volume >= self._model.gain.min_rows) & (report.gain < report.harm_threshold) & ~report.barred

    @torch.no_grad()
    def _start(self) -> None:
        """The gain network, its tables and their optimizers' states become copies of the vanilla ones; adapters start afresh."""
        pair = self._pair
        pair.align("v2g")
        self._tables.blend([(gain, vanilla) for vanilla, gain in self._table_pairs], 1.0, with_state=True)
        copy_state(self._optimizer, pair.vanilla, pair.gain)
        for parameter in (*_parameters(pair.embedding_adapter), *_parameters(pair.tower_adapter)):
            self._optimizer.state.pop(parameter, None)

    def _align(self, direction: Direction) -> None:
        """Weights alone: each optimizer goes on with what it has seen of its own gradients."""
        share = self._model.align.share
        self._pair.align(direction, share)
        to_vanilla, to_gain = self._table_pairs, [(gain, vanilla) for vanilla, gain in self._table_pairs]
        if direction == "average":
            self._tables.blend(to_vanilla, 0.5)
        self._tables.blend(to_vanilla if direction == "g2v" else to_gain, share)

    @torch.no_grad()
    def _probe_rows(self, every_steps: int) -> JudgedRows:
        """The next held-out rows of one who looks every so many steps, as both networks see them now."""
        batch = self._probe[self._step // every_steps % len(self._probe)].to(self._world.device)
        assert batch.slice is not None
        with evaluating(self._pair):
            output = self._pair(self._tables(batch), batch)
        return JudgedRows.of(output, batch, batch.slice)

    @torch.no_grad()
    def _logs(self, output: PairOutput, batch: Batch, accepted: Tensor, totals: Tensor) -> dict[str, Tensor]:
        """Means over all ranks' rows, once they are averaged over ranks: the served network's loss on internal rows among them."""
        num_internal, num_external = (totals.clamp(min=1.0) / self._world.size).unbind()
        is_joint = self._pair.stage == "joint"
        internal = batch.weight * (batch.domain == 0)
        external = batch.weight - internal
        return {
            "internal_loss": (internal * (output.gain_loss if is_joint else output.vanilla_loss)).sum() / num_internal,
            "vanilla_loss": (internal * output.vanilla_loss).sum() / num_internal,
            "external_loss": (external * output.gain_loss).sum() / num_external,
            "accepted_share": (external * accepted).sum() / num_external if is_joint else torch.zeros_like(num_external),
        }


def _known(gain: Tensor) -> list[float | None]:
    """None where nothing is known, which JSON has not."""
    return [None if math.isnan(value) else value for value in gain.tolist()]


def _parameters(module: nn.Module | None) -> list[nn.Parameter]:
    return [] if module is None else list(module.parameters())
