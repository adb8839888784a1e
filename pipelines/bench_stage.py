"""One measurement of `raytrain bench`, alone in a process: ``python -m pipelines.bench_stage REQUEST.json MEASURED.json``.

Every stage trains the same network on the same global batches in the same order, so their losses agree; only the way the
batches come differs.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path

import torch
from rich.console import Console

from pipelines.bench_plan import Measured, Request
from pipelines.held_batches import held_batches
from raytrain.data.batch import Batch
from raytrain.data.days import contract_of
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.errors import RaytrainError
from raytrain.models.registry import NEURAL_MODELS
from raytrain.storage import Storage
from raytrain.training.engine import launch
from raytrain.training.loop import build_learner, train_step
from raytrain.training.neural import plan_neural
from raytrain.training.parallel import World
from raytrain.training.process import peak_rss_mib
from raytrain.training.specs import training_specs
from raytrain.training.timed_stream import TimedStream
from raytrain.training.torch_setup import set_up_torch

RAY_NICENESS = 15
"""Of Ray's workers by default."""


def measure_ray(request: Request) -> Measured:
    """The path of `raytrain train`; validation is one batch after the last measured step, and no test split is scored."""
    job, storage = request.job, Storage(request.scratch)
    silent = Console(quiet=True)
    assignment = plan_neural(storage, job, contract_of(job.data), silent)
    assert assignment.valid is not None
    assignment = replace(assignment, valid=assignment.valid.lasting((0,), 1), test=())
    records = launch(assignment, storage, silent)
    last = {record["kind"]: record for record in records}
    windows = [record for record in records if record["kind"] == "train"]
    return Measured(
        samples_per_s=tuple(record["samples_per_s"] for record in windows[1:]),
        data_wait_share=last["outcome"]["wait_s"] / last["outcome"]["train_s"],
        startup_s=last["first_step"]["at"] - request.launched_at,
        peak_rss_mib=tuple(last["worker"]["peak_rss_mib"]),
        table_mib=tuple(last["worker"]["table_mib"]),
        loss=windows[-1]["loss"],
        num_steps=last["outcome"]["num_steps"],
    )


def measure_here(request: Request) -> Measured:
    """The same steps in this process.

    "compute" holds its batches in memory before it starts: no reading, no collation. "parquet" is a plain loop: read a
    window, join, collate, train, one after the other.
    """
    job, window = request.job, request.window_steps
    # Whatever else runs on the machine then takes as much from this stage as from one through Ray.
    os.nice(RAY_NICENESS)
    set_up_torch(request.num_threads, job.training.deterministic)
    contract = contract_of(job.data)
    learner = build_learner(job, contract, World.alone())
    specs = training_specs(job, contract, NEURAL_MODELS[job.model.name].histories(job.model, contract), "")
    stream: Iterable[Batch] = joined([local_micro_batches(replace(spec, quarantine_path=None)) for spec in specs])
    started = time.time()
    if request.stage == "compute":
        # Past the memory they may take they are trained on in turn.
        stream = cycle(held_batches(stream, request.num_steps))
    reading_s = time.time() - started
    timed, rates, first_step_at = TimedStream(islice(stream, request.num_steps)), [], 0.0
    loss, num_rows, window_start = torch.zeros(()), 0, time.perf_counter()
    for step, batch in enumerate(timed, start=1):
        loss = loss + train_step(job, learner, batch, step - 1, request.num_steps)
        num_rows += batch.num_rows
        first_step_at = first_step_at or time.time()
        if step % window == 0:
            rates.append(num_rows / (time.perf_counter() - window_start))
            last_loss, loss, num_rows, window_start = loss.item() / window, torch.zeros(()), 0, time.perf_counter()
    return Measured(
        # The first window warms up kernels and caches.
        samples_per_s=tuple(rates[1:]),
        data_wait_share=timed.wait_s / timed.total_s,
        startup_s=first_step_at - reading_s - request.launched_at,
        peak_rss_mib=(peak_rss_mib(),),
        table_mib=(learner.tables.num_bytes() / 2**20,),
        loss=last_loss,
        num_steps=request.num_steps,
    )


def main(request_file: str, result_file: str) -> None:
    """Errors of ours end the process with their message alone."""
    request = Request.parse(json.loads(Path(request_file).read_text()), request_file)
    try:
        measured = measure_ray(request) if request.stage.startswith("ray") else measure_here(request)
    except RaytrainError as err:
        sys.exit(f"error: {err}")
    Path(result_file).write_text(measured.model_dump_json(indent=2))


if __name__ == "__main__":
    main(*sys.argv[1:])
