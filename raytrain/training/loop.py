"""The training loop, the same for every neural model; one process per rank.

lookup -> forward -> weighted loss -> backward (tables update inside) -> clip -> dense step -> cursor -> log -> checkpoint.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from raytrain.adsnet_config import AdsnetModel
from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.provenance import STATUS_QUARANTINED
from raytrain.embeddings.local import LocalTables
from raytrain.embeddings.tables import TableOptimizer, Tables
from raytrain.errors import DataError
from raytrain.ltv_config import CdafModel, LtvModel
from raytrain.models.declared import DECLARED
from raytrain.models.registry import NEURAL_MODELS
from raytrain.training.domain_transfer import CdafTransfer, DomainTransfer
from raytrain.training.label_facts import LabelFacts, read_facts
from raytrain.training.optimizers import dense_optimizer, lr_share
from raytrain.training.pair_transfer import PairTransfer
from raytrain.training.parallel import World
from raytrain.training.state import RunState, TrainOutcome
from raytrain.training.suites import Suite, suite_of
from raytrain.training.timed_stream import TimedStream
from raytrain.training.transfer import PlainLoss, Transfer, transfer_file


@dataclass
class Learner:
    """What is trained: tables, network and the dense optimizer of one rank."""

    tables: Tables
    network: nn.Module
    optimizer: torch.optim.Optimizer
    world: World
    transfer: Transfer
    suite: Callable[[], Suite]
    """New metrics of the labels' kind"""


def build_learner(
    job: JobConfig, contract: Contract, world: World, facts: LabelFacts | None = None, probe: Sequence[Batch] = ()
) -> Learner:
    """Seeds, builds and wraps; tables and network start equal for any number of ranks.

    Args:
        facts: of the training labels, where these are amounts; None reads them from the data set.
        probe: this rank's held-out rows, for a model that measures gain on them.
    """
    facts = facts or read_facts(job, contract)
    model = NEURAL_MODELS[job.model.name]
    configs = model.tables(job.model, job, contract)
    fused = TableOptimizer(job.tables.optimizer, job.tables.lr, job.tables.eps)
    tables: Tables
    if job.tables.backend == "local":
        tables = LocalTables(configs, fused, job.seed)
    else:
        from raytrain.embeddings.sharded import ShardedTables

        tables = ShardedTables(configs, fused, job.seed, job.tables.sharding, world.device)
    torch.manual_seed(job.seed)
    network = world.wrap(build_network(job, contract, facts))
    optimizer = dense_optimizer(job.optimizer, network)
    transfer: Transfer = PlainLoss(network)
    if isinstance(job.model, AdsnetModel):
        transfer = PairTransfer(job, contract, tables, network, optimizer, world, probe)
    elif isinstance(job.model, CdafModel):
        transfer = CdafTransfer(job.model, network, optimizer, world, job.seed)
    elif isinstance(job.model, LtvModel):
        transfer = DomainTransfer(job.model, network, world)
    return Learner(tables, network, optimizer, world, transfer, partial(suite_of, facts))


def build_network(job: JobConfig, contract: Contract, facts: LabelFacts | None) -> nn.Module:
    """The network that ``job.model`` names, on its own."""
    arguments = (job.model, job, contract)
    network = NEURAL_MODELS[job.model.name].network
    return network(*arguments, facts.stats if facts else None) if DECLARED[job.model.name].amounts else network(*arguments)


class Session(Protocol):
    """The loop's surroundings: Ray Train, the command's own process, or a list in tests."""

    def log(self, record: dict[str, Any]) -> None:
        """A line of progress; only rank 0's reach the user."""
        ...

    def checkpoint(self, learner: Learner, step: int, metrics: dict[str, float], best: bool, files: dict[str, bytes]) -> None:
        """Saves a checkpoint with ``files`` (rank 0's) beside the tensors; a collective. ``metrics`` are empty between evaluations."""
        ...

    def goes_on(self, step: int) -> bool:
        """Whether training goes on after the evaluation of ``step``, which may be waited for; a collective."""
        ...


@dataclass(frozen=True)
class Schedule:
    """How long training takes, from the plan alone."""

    steps_per_epoch: int
    num_steps: int

    def is_eval(self, step: int, evals_per_epoch: int) -> bool:
        """Whether validation follows 1-based ``step``: evenly in each epoch, and at the very end."""
        in_epoch = (step - 1) % self.steps_per_epoch + 1
        due = in_epoch * evals_per_epoch // self.steps_per_epoch > (in_epoch - 1) * evals_per_epoch // self.steps_per_epoch
        return due or step == self.num_steps


def train(
    job: JobConfig,
    learner: Learner,
    stream: Iterable[Batch],
    validation: Callable[[], Iterable[Batch]] | None,
    schedule: Schedule,
    state: RunState,
    session: Session,
) -> TrainOutcome:
    """Trains from ``state`` to the end of the stream or until the validation metric stops improving.

    Without ``validation`` nothing is chosen: the last step is the best.

    Raises:
        DataError: more rows were quarantined than ``data.max_quarantine_share`` allows, or the validation metric was always NaN.
    """
    outcome, waiting, section = state.outcome, TimedStream(stream), job.training
    before_s, waited_s = outcome.train_s, outcome.wait_s
    first_step = outcome.num_steps + 1
    window = _LogWindow()
    learner.network.train()
    for batch in waiting if not state.stopping.is_over() else ():
        loss = train_step(job, learner, batch.to(learner.world.device), outcome.num_steps, schedule.num_steps, window.model_logs)
        state.add(batch)
        window.add(loss, batch.num_rows)
        step = outcome.num_steps
        if step == first_step:
            # Unix time, s: start-up is measured to here.
            session.log({"kind": "first_step", "step": step, "at": time.time()})
        if step % section.log_every_steps == 0 or step == schedule.num_steps:
            session.log(
                {
                    "kind": "train",
                    "step": step,
                    "num_steps": schedule.num_steps,
                    "epoch": step / schedule.steps_per_epoch,
                    "lr": learner.optimizer.param_groups[0]["lr"],
                    "data_wait_share": waiting.wait_s / max(waiting.total_s, 1e-9),
                    **window.close(learner.world),
                }
            )
            for record in learner.transfer.records(step):
                session.log(record)
            window = _LogWindow()
        is_eval = validation is not None and schedule.is_eval(step, section.evals_per_epoch)
        is_last = step == schedule.num_steps
        if is_eval or is_last or (section.checkpoint_every_steps and step % section.checkpoint_every_steps == 0):
            started = time.perf_counter()
            metrics = _validate(job, learner, validation, state, step / schedule.steps_per_epoch, session) if validation and is_eval else {}
            if validation is None and is_last:
                state.count_rows(learner.world)
                _check_quarantine(job, outcome.rows_trained, outcome.rows_quarantined)
                outcome.best_step = step
            outcome.train_s, outcome.wait_s = before_s + waiting.total_s, waited_s + waiting.wait_s
            files = state.snapshot(learner.world)
            files |= transfer_file(learner.transfer) if learner.world.rank == 0 else {}
            session.checkpoint(learner, step, metrics, (is_eval or is_last) and outcome.best_step == step, files)
            ends = state.stopping.is_over() or (is_eval and not is_last and not session.goes_on(step))
            learner.network.train()
            waiting.pause(time.perf_counter() - started)
            window.started += time.perf_counter() - started
            if ends:
                break
    outcome.stopped_early = outcome.num_steps < schedule.num_steps
    if not outcome.best_step:
        raise DataError(
            f"training.early_stopping.metric={section.early_stopping.metric} has to be defined on the validation split. "
            "Received: NaN at every evaluation. Lower optimizer.lr if the loss is NaN too, or choose another metric."
        )
    for text in learner.transfer.warnings():
        session.log({"kind": "warning", "text": text})
    outcome.train_s, outcome.wait_s = before_s + waiting.total_s, waited_s + waiting.wait_s
    state.count_rows(learner.world)
    return outcome


class _LogWindow:
    """Loss, rows and what the model logs since the last line of the log."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.model_logs: dict[str, torch.Tensor] = {}
        self._loss, self._num_rows, self._num_steps = torch.zeros(()), 0, 0

    def add(self, loss: torch.Tensor, num_rows: int) -> None:
        self._loss, self._num_rows, self._num_steps = self._loss + loss, self._num_rows + num_rows, self._num_steps + 1

    def close(self, world: World) -> dict[str, float]:
        """Mean loss and speed; the only host sync and loss reduction of the window. A collective."""
        mean_loss = world.sum(self._loss).item() / self._num_steps
        num_values = self._num_steps * world.size
        logs = {f"model/{name}": world.sum(total).item() / num_values for name, total in sorted(self.model_logs.items())}
        elapsed_s = time.perf_counter() - self.started
        return {
            "loss": mean_loss,
            "step_s": elapsed_s / self._num_steps,
            "samples_per_s": self._num_rows * world.size / elapsed_s,
            **logs,
        }


def _validate(
    job: JobConfig, learner: Learner, validation: Callable[[], Iterable[Batch]], state: RunState, epoch: float, session: Session
) -> dict[str, float]:
    state.count_rows(learner.world)
    _check_quarantine(job, state.outcome.rows_trained, state.outcome.rows_quarantined)
    metrics = evaluate(job, learner, validation())
    step = state.outcome.num_steps
    best = learner.transfer.counts(step) and state.stopping.is_better(metrics)
    if best:
        state.outcome.best_step, state.outcome.best_metrics = step, metrics
    session.log({"kind": "valid", "step": step, "epoch": epoch, "best": best, **metrics})
    return metrics


def train_step(
    job: JobConfig, learner: Learner, batch: Batch, step: int, num_steps: int, model_logs: dict[str, torch.Tensor] | None = None
) -> torch.Tensor:
    """One optimizer step on this rank's rows; returns this rank's share of the global batch's mean loss, detached.

    What the model logs is added to ``model_logs``, on the device.

    The loss is divided by the weight of the *global* batch and multiplied by the world size, since DDP and the sharded
    tables average over ranks: R ranks then move every parameter as one rank would.
    """
    share = lr_share(job.optimizer, step, num_steps)
    for group in learner.optimizer.param_groups:
        group["lr"] = job.optimizer.lr * share
    learner.tables.set_lr(job.tables.lr * share)
    weight = learner.world.sum(batch.weight.sum()).clamp(min=1.0)
    # Random numbers of a step (dropout) are a function of seed, step and rank: nothing to save, and a restart repeats them.
    torch.manual_seed(_seed_of(job.seed, step, learner.world.rank))
    batch = replace(batch, total_weight=weight)
    learner.transfer.before_step(step)
    output = learner.network(learner.tables(batch), batch)
    loss, logs = learner.transfer.loss(output, batch)
    if model_logs is not None:
        model_logs.update({name: model_logs.get(name, 0.0) + value for name, value in logs.items()})
    learner.optimizer.zero_grad(set_to_none=True)
    (loss * learner.world.size).backward()  # type: ignore[no-untyped-call]
    if job.optimizer.clip_norm is not None:
        for parameters in learner.transfer.clipped():
            torch.nn.utils.clip_grad_norm_(parameters, job.optimizer.clip_norm, foreach=True)
    learner.optimizer.step()
    detached: torch.Tensor = loss.detach()
    return detached


def _seed_of(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@torch.no_grad()
def evaluate(
    job: JobConfig, learner: Learner, batches: Iterable[Batch], keep: Callable[[Batch, dict[str, torch.Tensor]], None] | None = None
) -> dict[str, float]:
    """Scores every row of one domain once and reduces the metrics over ranks; a collective.

    ``keep`` sees every micro-batch with its predictions (column -> float32 [B]), padding included. ``num_quarantined`` joins the
    metrics, and "vanilla_<metric>" of a network that is scored beside the served one.

    Raises:
        DataError: more rows are bad than ``data.max_quarantine_share`` allows.
    """
    learner.network.eval()
    suites, num_quarantined, domain = {prefix: learner.suite() for prefix in learner.transfer.networks}, 0, ""
    for batch in batches:
        domain = batch.provenance[0].domain
        num_quarantined += int((batch.provenance[0].status == STATUS_QUARANTINED).sum())
        on_device = batch.to(learner.world.device)
        predictions = learner.network(learner.tables(on_device), on_device).predictions
        columns = {
            prefix: suite.update(
                {name.removeprefix(prefix): value for name, value in predictions.items() if name.startswith(prefix)}, on_device
            )
            for prefix, suite in suites.items()
        }
        if keep is not None:
            keep(batch, {name: value.cpu() for name, value in columns[""].items()})
    metrics = suites[""].reduce()
    for prefix, suite in suites.items():
        if prefix:
            beside = suite.reduce()
            metrics |= {f"{prefix.rstrip('/')}_{name}": beside[name] for name in suite.headline}
    metrics["num_quarantined"] = learner.world.sum(torch.tensor(float(num_quarantined), device=learner.world.device)).item()
    _check_quarantine(job, {domain: int(metrics["num_rows"])}, {domain: int(metrics["num_quarantined"])})
    return metrics


def _check_quarantine(job: JobConfig, trained: dict[str, int], quarantined: dict[str, int]) -> None:
    for domain, num_bad in quarantined.items():
        share = num_bad / max(1, num_bad + trained[domain])
        if share > job.data.max_quarantine_share:
            raise DataError(
                f"At most data.max_quarantine_share={job.data.max_quarantine_share} of the rows of domain {domain} may be bad. "
                f"Received: {num_bad} bad rows, a share of {share:.4f}. Read their reasons under quarantine/ or raise the share."
            )
