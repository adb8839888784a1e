"""`raytrain bench CONFIG`: training steps on batches made in memory, so that nothing but the model and its tables is timed."""

import os
import time
from dataclasses import dataclass

import torch

from raytrain.config import JobConfig
from raytrain.data.batch import Batch, Sequence
from raytrain.data.contract import Contract, load_contract
from raytrain.models.registry import NEURAL_MODELS
from raytrain.training.loop import build_learner, train_step
from raytrain.training.parallel import World
from raytrain.training.process import quieten

NUM_BATCHES = 3


@dataclass(frozen=True)
class Compute:
    """Samples a second of each round."""

    samples_per_s: tuple[float, ...]

    @property
    def median(self) -> float:
        return sorted(self.samples_per_s)[len(self.samples_per_s) // 2]


def bench_compute(job: JobConfig, num_threads: int, num_steps: int = 12, num_rounds: int = 5) -> Compute:
    """Times ``num_rounds`` rounds of full training steps in this process, one rank, every history at its full length.

    Lookup, forward, backward, fused table update, clipping and the dense step are in; reading, collation and Ray are not.
    """
    quieten()
    torch.set_num_threads(num_threads)
    contract = load_contract(job.data.path)
    learner = build_learner(job, contract, World.alone())
    batches = [random_batch(job, contract, seed) for seed in range(NUM_BATCHES)]
    for step in range(NUM_BATCHES):
        train_step(job, learner, batches[step], step, num_steps)
    rates = []
    for _ in range(num_rounds):
        started = time.perf_counter()
        for step in range(num_steps):
            train_step(job, learner, batches[step % NUM_BATCHES], step, num_steps)
        rates.append(num_steps * job.data.batch_size / (time.perf_counter() - started))
    return Compute(tuple(rates))


def random_batch(job: JobConfig, contract: Contract, seed: int) -> Batch:
    """``data.batch_size`` rows of uniform ids, each history ``data.history_length`` events long."""
    draw = torch.Generator().manual_seed(seed)
    num_rows, length = job.data.batch_size, job.data.history_length
    ids, dense, histories = {}, {}, {}
    for feature in contract.features:
        if feature.kind == "dense":
            dense[feature.name] = torch.randn(num_rows, generator=draw)
        else:
            shape = (num_rows, feature.max_values) if feature.max_values else (num_rows,)
            ids[feature.name] = torch.randint(1, contract.table_of(feature).num_rows, shape, generator=draw)
    for name in NEURAL_MODELS[job.model.name].histories(job.model, contract):
        history = contract.domains[name].history
        assert history is not None, name
        items = torch.randint(1, contract.tables[history.table].num_rows, (num_rows, length), generator=draw)
        side = {info.name: torch.randint(1, info.num_values, (num_rows, length), generator=draw) for info in history.side}
        histories[name] = Sequence(items, torch.full((num_rows,), length), side)
    label = torch.randint(0, 2, (num_rows,), generator=draw).float()
    zeros = torch.zeros(num_rows, dtype=torch.long)
    return Batch(ids, dense, histories, label, torch.ones(num_rows), zeros, zeros, zeros)


def default_threads() -> int:
    return os.cpu_count() or 1
