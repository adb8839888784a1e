"""What one arm of a study costs, alone in a process: ``python -m pipelines.study_cost_stage REQUEST.json MEASURED.json``."""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.held_batches import held_batches
from pipelines.peak_memory import PeakMemory
from pipelines.scoring_requests import requests_of
from pipelines.study_cost_plan import CostPlan, CostRequest, MeasuredCost
from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.errors import DataError, RaytrainError
from raytrain.models.registry import NEURAL_MODELS
from raytrain.training.loop import Learner, build_learner, train_step
from raytrain.training.parallel import World
from raytrain.training.specs import probe_spec, scoring_spec, training_specs
from raytrain.training.torch_setup import set_up_torch

HELD_BATCHES = 32
"""Training batches in memory, trained on in turn: with one alone its table rows would never leave the cache."""
HELD_TEST_BATCHES = 8
MAX_HELD_BYTES = 1 << 30
WARMUP_STEPS = 3
NUM_STEPS = 1_000_000
"""Of the learning rate's schedule, far longer than what is measured."""
NICENESS = 15
"""Of Ray's workers by default: whatever else runs on the machine takes as much from this as it took from the runs."""


def measure_cost(job: JobConfig, plan: CostPlan) -> MeasuredCost:
    """Reads batches, builds the arm's learner as one rank of a run does, then trains and scores, in this process.

    Raises:
        RaytrainError: data set or model are not right, or the test split has no good row.
    """
    contract = contract_of(job.data)
    training, requests = _training_batches(job, contract), _requests(job, contract, plan.num_candidates)
    world = World.alone()
    # A first step loads libraries and kernels, 60 MiB of them: not this arm's memory, and thrown away with its learner.
    probe = _probe_batches(job, contract)
    train_step(job, build_learner(job, contract, world, probe=probe), training[0], 0, NUM_STEPS)
    memory = PeakMemory()
    learner = build_learner(job, contract, world, probe=probe)
    samples_per_s, num_steps = training_rate(job, learner, training, plan.seconds)
    peak_rss_mib = memory.mib()
    request_ms = request_times_ms(learner, requests, plan.seconds)
    return MeasuredCost(
        samples_per_s=samples_per_s,
        num_steps=num_steps,
        batch_rows=sum(batch.num_rows for batch in training) / len(training),
        flops_per_sample=flops_per_sample(job, learner, training[0]),
        num_dense_parameters=sum(parameter.numel() for parameter in learner.network.parameters()),
        table_mib=learner.tables.num_bytes() / 2**20,
        peak_rss_mib=peak_rss_mib,
        request_ms=(float(np.quantile(request_ms, 0.5)), float(np.quantile(request_ms, 0.95))),
        num_requests=len(request_ms),
    )


def training_rate(job: JobConfig, learner: Learner, batches: Sequence[Batch], seconds: float) -> tuple[float, int]:
    """(samples a second, timed steps): whole steps on the batches in turn until ``seconds`` have passed, a few before to warm up."""
    learner.network.train()
    turn = cycle(batches)
    for step in range(WARMUP_STEPS):
        train_step(job, learner, next(turn), step, NUM_STEPS)
    num_rows, num_steps, elapsed_s, started = 0, 0, 0.0, time.perf_counter()
    while elapsed_s < seconds:
        batch = next(turn)
        train_step(job, learner, batch, WARMUP_STEPS + num_steps, NUM_STEPS)
        num_rows, num_steps, elapsed_s = num_rows + batch.num_rows, num_steps + 1, time.perf_counter() - started
    return num_rows / elapsed_s, num_steps


def flops_per_sample(job: JobConfig, learner: Learner, batch: Batch) -> float:
    """Floating-point operations of one training step, forward and backward, over the batch's rows.

    As torch.utils.flop_counter counts them: matrix products (mm, addmm, bmm, baddbmm) and convolutions, two
    operations a multiply-add, as executed for this batch. Everything else counts 0: gathers, look-ups and updates of tables,
    sums, softmax, top-k, hashing, element-wise work and the optimizer. An arm that gathers much is so made to look cheaper
    than its samples per second do, which is why both are shown. Work shared by the rows of a batch, such as
    a product with its unique items, makes the figure depend on the batch's size.
    """
    learner.network.train()
    with FlopCounterMode(display=False) as counter:
        train_step(job, learner, batch, 0, NUM_STEPS)
    return float(counter.get_total_flops() / batch.num_rows)


@torch.no_grad()
def request_times_ms(learner: Learner, requests: Sequence[Batch], seconds: float) -> list[float]:
    """Time to look up and score each request, all of them in turn at least once and then until ``seconds`` have passed, ms.

    Evaluation mode, no gradients. The request is a batch already: no feature is fetched, no candidate chosen.
    """
    learner.network.eval()
    turn, times, started = cycle(requests), list[float](), time.perf_counter()
    _score(learner, requests[0])
    while len(times) < len(requests) or time.perf_counter() - started < seconds:
        request, begun = next(turn), time.perf_counter()
        _score(learner, request)
        times.append(1000 * (time.perf_counter() - begun))
    return times


def _score(learner: Learner, request: Batch) -> torch.Tensor:
    """float32 [C]"""
    predictions = learner.network(learner.tables(request), request).predictions
    scores: torch.Tensor = predictions["ltv" if "ltv" in predictions else "click"]
    return scores


def _training_batches(job: JobConfig, contract: Contract) -> list[Batch]:
    specs = training_specs(job, contract, NEURAL_MODELS[job.model.name].histories(job.model, contract), "")
    stream = joined([local_micro_batches(replace(spec, quarantine_path=None)) for spec in specs])
    return held_batches(stream, HELD_BATCHES, MAX_HELD_BYTES)


def _probe_batches(job: JobConfig, contract: Contract) -> list[Batch]:
    """Empty for a model that measures no gain on held-out rows."""
    spec = probe_spec(job, contract, None)
    return [] if spec is None else held_batches(local_micro_batches(spec), HELD_BATCHES, MAX_HELD_BYTES)


def _requests(job: JobConfig, contract: Contract, num_candidates: int) -> list[Batch]:
    """Raises DataError when the test split has no good row."""
    scoring = job.model_copy(update={"data": job.data.model_copy(update={"batch_size": num_candidates})})
    histories = NEURAL_MODELS[job.model.name].histories(job.model, contract)
    spec = scoring_spec(scoring, contract, contract.target, "test", histories, labelled=False)
    held = held_batches(local_micro_batches(spec), HELD_TEST_BATCHES, MAX_HELD_BYTES)
    batches = [batch for batch in held if batch.weight.any()]
    if not batches:
        raise DataError(f"The test split of {contract.target} has to hold good rows. Received: none in {job.data.path}. Prepare it again.")
    return list(requests_of(batches, contract.user, num_candidates))


def main(request_file: str, result_file: str) -> None:
    """Errors of ours end the process with their message alone."""
    request = CostRequest.parse(json.loads(Path(request_file).read_text()), request_file)
    os.nice(NICENESS)
    set_up_torch(request.plan.num_threads, request.job.training.deterministic)
    try:
        measured = measure_cost(request.job, request.plan)
    except RaytrainError as err:
        sys.exit(f"error: {err}")
    Path(result_file).write_text(measured.model_dump_json(indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
