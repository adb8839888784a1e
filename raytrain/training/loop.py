"""The training loop, the same for every neural model; one process per rank.

lookup -> forward -> weighted loss -> backward (tables update inside) -> clip -> dense step -> count rows -> log.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.provenance import STATUS_OK, STATUS_QUARANTINED
from raytrain.embeddings.local import LocalTables
from raytrain.embeddings.tables import TableOptimizer, Tables
from raytrain.errors import DataError
from raytrain.metrics.suite import MetricSuite
from raytrain.models.registry import NEURAL_MODELS
from raytrain.training.optimizers import dense_optimizer, lr_share
from raytrain.training.parallel import World
from raytrain.training.stopping import EarlyStopping
from raytrain.training.timed_stream import TimedStream


@dataclass
class Learner:
    """What is trained: tables, network and the dense optimizer of one rank."""

    tables: Tables
    network: nn.Module
    optimizer: torch.optim.Optimizer
    world: World


def build_learner(job: JobConfig, contract: Contract, world: World) -> Learner:
    """Seeds, builds and wraps; tables and network start equal for any number of ranks."""
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
    network = world.wrap(model.network(job.model, job, contract))
    # Ranks drop different units: dropout must not repeat over ranks, initial weights must.
    torch.manual_seed(job.seed * 1_000_003 + world.rank)
    return Learner(tables, network, dense_optimizer(job.optimizer, network), world)


@dataclass
class RowCounter:
    """Rows by domain, of this rank until ``total`` sums over ranks. Exact resume replaces it by the cursor."""

    domains: tuple[str, ...]
    trained: list[int] = field(default_factory=list)
    quarantined: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.trained, self.quarantined = [0] * len(self.domains), [0] * len(self.domains)

    def add(self, batch: Batch) -> None:
        for part in batch.provenance:
            index = self.domains.index(part.domain)
            self.trained[index] += int((part.status == STATUS_OK).sum())
            self.quarantined[index] += int((part.status == STATUS_QUARANTINED).sum())

    def total(self, world: World) -> tuple[dict[str, int], dict[str, int]]:
        """(trained, quarantined) by domain over all ranks; a collective."""
        counts = world.sum(torch.tensor([self.trained, self.quarantined], device=world.device)).tolist()
        return dict(zip(self.domains, counts[0], strict=True)), dict(zip(self.domains, counts[1], strict=True))


class Session(Protocol):
    """The loop's surroundings: Ray Train in a job, a list in tests."""

    def log(self, record: dict[str, Any]) -> None:
        """A line of progress; only rank 0's reach the user."""
        ...

    def checkpoint(self, learner: Learner, step: int, metrics: dict[str, float], best: bool) -> None:
        """Saves and registers a checkpoint; a collective."""
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


@dataclass
class TrainOutcome:
    """What rank 0 knows at the end; equal on every rank except the timings."""

    num_steps: int = 0
    rows_trained: dict[str, int] = field(default_factory=dict)
    rows_quarantined: dict[str, int] = field(default_factory=dict)
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    train_s: float = 0.0
    wait_s: float = 0.0
    first_step_at: float = 0.0
    """Unix time, s, at which the first step was done: what start-up is measured to."""


def train(
    job: JobConfig,
    learner: Learner,
    stream: Iterable[Batch],
    validation: Callable[[], Iterable[Batch]],
    schedule: Schedule,
    domains: tuple[str, ...],
    session: Session,
) -> TrainOutcome:
    """Trains to the end of the stream or until the validation metric stops improving.

    Raises:
        DataError: more rows were quarantined than ``data.max_quarantine_share`` allows, or the validation metric was always NaN.
    """
    outcome, counter, waiting = TrainOutcome(), RowCounter(domains), TimedStream(stream)
    section = job.training
    stopping = EarlyStopping(section.early_stopping)
    window_start, window_rows, window_loss = time.perf_counter(), 0, torch.zeros(())
    learner.network.train()
    for step, batch in enumerate(waiting, start=1):
        loss = train_step(job, learner, batch.to(learner.world.device), step - 1, schedule.num_steps)
        counter.add(batch)
        window_loss, window_rows = window_loss + loss, window_rows + batch.num_rows
        outcome.num_steps = step
        if step == 1:
            outcome.first_step_at = time.time()
        if step % section.log_every_steps == 0 or step == schedule.num_steps:
            # The only host sync and loss reduction of the window.
            mean_loss = learner.world.sum(window_loss).item() / ((step - 1) % section.log_every_steps + 1)
            elapsed_s = time.perf_counter() - window_start
            session.log(
                {
                    "kind": "train",
                    "step": step,
                    "num_steps": schedule.num_steps,
                    "epoch": (step - 1) / schedule.steps_per_epoch,
                    "loss": mean_loss,
                    "step_s": elapsed_s / ((step - 1) % section.log_every_steps + 1),
                    "samples_per_s": window_rows * learner.world.size / elapsed_s,
                    "lr": learner.optimizer.param_groups[0]["lr"],
                    "data_wait_share": waiting.wait_s / max(waiting.total_s, 1e-9),
                }
            )
            window_start, window_rows, window_loss = time.perf_counter(), 0, torch.zeros(())
        if schedule.is_eval(step, section.evals_per_epoch):
            started = time.perf_counter()
            _check_quarantine(job, *counter.total(learner.world))
            metrics = evaluate(job, learner, validation())
            best = stopping.is_better(metrics)
            if best:
                outcome.best_step, outcome.best_metrics = step, metrics
            session.log({"kind": "valid", "step": step, "epoch": step / schedule.steps_per_epoch, "best": best, **metrics})
            session.checkpoint(learner, step, metrics, best)
            learner.network.train()
            waiting.pause(time.perf_counter() - started)
            window_start += time.perf_counter() - started
            if stopping.is_over():
                outcome.stopped_early = step < schedule.num_steps
                break
    if not outcome.best_step:
        raise DataError(
            f"training.early_stopping.metric={section.early_stopping.metric} has to be defined on the validation split. "
            "Received: NaN at every evaluation. Lower optimizer.lr if the loss is NaN too, or choose another metric."
        )
    outcome.train_s, outcome.wait_s = waiting.total_s, waiting.wait_s
    outcome.rows_trained, outcome.rows_quarantined = counter.total(learner.world)
    return outcome


def train_step(job: JobConfig, learner: Learner, batch: Batch, step: int, num_steps: int) -> torch.Tensor:
    """One optimizer step on this rank's rows; returns this rank's share of the global batch's mean loss, detached.

    The loss is divided by the weight of the *global* batch and multiplied by the world size, since DDP and the sharded
    tables average over ranks: R ranks then move every parameter as one rank would.
    """
    share = lr_share(job.optimizer, step, num_steps)
    for group in learner.optimizer.param_groups:
        group["lr"] = job.optimizer.lr * share
    learner.tables.set_lr(job.tables.lr * share)
    weight = learner.world.sum(batch.weight.sum()).clamp(min=1.0)
    output = learner.network(learner.tables(batch), batch)
    loss = (output.row_loss * batch.weight).sum() / weight
    learner.optimizer.zero_grad(set_to_none=True)
    (loss * learner.world.size).backward()
    if job.optimizer.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(learner.network.parameters(), job.optimizer.clip_norm, foreach=True)
    learner.optimizer.step()
    detached: torch.Tensor = loss.detach()
    return detached


@torch.no_grad()
def evaluate(
    job: JobConfig, learner: Learner, batches: Iterable[Batch], keep: Callable[[Batch, torch.Tensor], None] | None = None
) -> dict[str, float]:
    """Scores every row of one domain once and reduces the metrics over ranks; a collective.

    ``keep`` sees every micro-batch with its predictions (float32 [B]), padding included. ``num_quarantined`` joins the metrics.

    Raises:
        DataError: more rows are bad than ``data.max_quarantine_share`` allows.
    """
    learner.network.eval()
    suite, num_quarantined, domain = MetricSuite(), 0, ""
    for batch in batches:
        domain = batch.provenance[0].domain
        num_quarantined += int((batch.provenance[0].status == STATUS_QUARANTINED).sum())
        on_device = batch.to(learner.world.device)
        prediction = learner.network(learner.tables(on_device), on_device).predictions["click"]
        suite.update(prediction, on_device.label, on_device.group, on_device.weight)
        if keep is not None:
            keep(batch, prediction.cpu())
    metrics = suite.reduce()
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
