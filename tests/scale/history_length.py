"""What a training step costs as histories grow: ``python -m tests.scale.history_length``.

Both domains, full histories of uniformly drawn items, one thread, each measurement in a process of its own and in turn by rounds, so
that ratios hold on a machine that is not steady. ``textbook`` is full attention as it is usually written (torch's MultiheadAttention),
which projects every event to a key and a value; ``full_attention`` is ours, which projects the query alone.
"""

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from statistics import median

import torch
import typer
from torch import Tensor, nn

from pipelines.peak_memory import PeakMemory
from raytrain.config import JobConfig
from raytrain.data.batch import Batch, Sequence
from raytrain.data.contract import Contract, Domain, Feature, History, SideInformation, Split, Table
from raytrain.model_config import FullAttentionModel
from raytrain.models.baselines.full_attention import FullInterest
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.sequence_network import HistoryShape, PerHistory, SequenceNetwork
from raytrain.models.registry import NEURAL_MODELS
from raytrain.training.loop import build_learner, train_step
from raytrain.training.parallel import World
from raytrain.training.process import ALLOCATOR
from raytrain.training.torch_setup import set_up_torch

NUM_CODES = 8
NUM_USERS = 10_000
NUM_BATCHES = 2
MIN_STEPS = 3
SECONDS = 4.0
LCN = {"median_events": 200, "focused_events": 20}
"""Levels for lifelong histories."""

Figures = dict[str, float]
"""step_ms (median, wall), cpu_ms (least), memory_mib (peak over what the process held before the learner was built)"""


class TextbookInterest(nn.Module):
    """The same events, sides and heads; keys and values of every event."""

    def __init__(self, model: FullAttentionModel, shape: HistoryShape) -> None:
        super().__init__()
        self.vectors = FullInterest(model, shape).attention.vectors
        size = self.vectors.num_outputs
        self.query = nn.Linear(shape.dim, model.attention_dim, bias=False)
        self.attention = nn.MultiheadAttention(model.attention_dim, model.num_heads, kdim=size, vdim=size, batch_first=True)
        self.num_outputs = model.attention_dim

    def forward(self, query: Tensor, view: HistoryView) -> Tensor:
        num_rows, length = view.inverse.shape
        events = self.vectors(view, torch.arange(length).expand(num_rows, length))
        found = self.attention(self.query(query)[:, None], events, events, key_padding_mask=~view.mask, need_weights=False)[0]
        return found[:, 0]


def textbook_network(model: FullAttentionModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: PerHistory(shapes, lambda shape: TextbookInterest(model, shape)))


def contract_of(num_items: int, length: int) -> Contract:
    side = (SideInformation(name="action", num_values=NUM_CODES),)
    history = History(path="", table="item", side=side, num_events=NUM_USERS * length, num_users=NUM_USERS, max_events=length)
    splits = {"train": Split(path="", num_rows=1, num_positives=1)}
    return Contract(
        dataset="random",
        content_hash="",
        num_buckets=1,
        tables={"user": Table(num_rows=NUM_USERS), "item": Table(num_rows=num_items)},
        features=(Feature(name="user", kind="id", table="user"), Feature(name="item", kind="id", table="item")),
        domains={name: Domain(role=name, splits=splits, history=history) for name in ("target", "source")},
    )


def batch_of(num_rows: int, length: int, num_items: int, draw: torch.Generator) -> Batch:
    def codes(size: int, *shape: int) -> Tensor:
        return torch.randint(1, size, shape, generator=draw)

    histories = {
        name: Sequence(
            codes(num_items, num_rows, length),
            torch.full((num_rows,), length),
            {"action": codes(NUM_CODES, num_rows, length)},
            codes(10**7, num_rows, length).sort(dim=1, descending=True).values,
        )
        for name in ("target", "source")
    }
    ids = {"user": codes(NUM_USERS, num_rows), "item": codes(num_items, num_rows)}
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    return Batch(ids, {}, histories, codes(3, num_rows).float() - 1, torch.ones(num_rows), ids["user"], zeros + 10**9, zeros)


def measure(model: str, length: int, num_items: int, num_rows: int) -> Figures:
    """In this process, which should do nothing else."""
    set_up_torch(1, True)
    name = "full_attention" if model == "textbook" else model
    if model == "textbook":
        NEURAL_MODELS[name] = replace(NEURAL_MODELS[name], network=textbook_network)
    section = {"name": name, "skip_features": ["user"], **(LCN if model == "lcn" else {})}
    job = JobConfig.model_validate({"data": {"path": "", "batch_size": num_rows, "history_length": length}, "model": section})
    draw = torch.Generator().manual_seed(0)
    batches = [batch_of(num_rows, length, num_items, draw) for _ in range(NUM_BATCHES)]
    world, memory = World.alone(), PeakMemory()
    learner = build_learner(job, contract_of(num_items, length), world)
    wall, cpu, begin = [], [], 0.0
    for step in range(10_000):
        started, started_cpu = time.perf_counter(), time.process_time()
        train_step(job, learner, batches[step % NUM_BATCHES], step, 10_000)
        if step >= NUM_BATCHES:  # those before warm up
            wall.append(time.perf_counter() - started)
            cpu.append(time.process_time() - started_cpu)
        begin = begin or started
        if len(wall) >= MIN_STEPS and time.perf_counter() - begin > SECONDS:
            break
    return {"step_ms": 1000 * median(wall), "cpu_ms": 1000 * min(cpu), "memory_mib": memory.mib()}


def in_a_process(model: str, length: int, num_items: int, num_rows: int) -> Figures:
    command = [sys.executable, "-m", __spec__.name, "--alone", f"{model} {length} {num_items} {num_rows}"]
    found = subprocess.run(command, env=os.environ | ALLOCATOR, check=True, capture_output=True, text=True)
    figures: Figures = json.loads(found.stdout.splitlines()[-1])
    return figures


def main(
    models: str = "lcn,full_attention,textbook,din",
    lengths: str = "500,1000,2000,4000,8000",
    items: str = "3000,1000000",
    num_rows: int = 256,
    rounds: int = 2,
    alone: str = "",
) -> None:
    if alone:
        model, *sizes = alone.split()
        typer.echo(json.dumps(measure(model, *map(int, sizes))))
        return
    typer.echo(f"{num_rows} rows a step, load {os.getloadavg()[0]:.1f}; CPU time is the least, wall time the median, speed is of CPU time")
    typer.echo("   items  length model             CPU ms   wall ms  us an event  lcn is faster by  memory MiB")
    for num_items in map(int, items.split(",")):
        for length in map(int, lengths.split(",")):
            found: dict[str, list[Figures]] = defaultdict(list)
            for _ in range(rounds):
                for model in models.split(","):
                    found[model].append(in_a_process(model, length, num_items, num_rows))
            base = min(figures["cpu_ms"] for figures in found.get("lcn", [{"cpu_ms": float("nan")}]))
            for model, measured in found.items():
                cpu_ms = min(figures["cpu_ms"] for figures in measured)
                wall_ms = median(figures["step_ms"] for figures in measured)
                memory_mib = max(figures["memory_mib"] for figures in measured)
                an_event = 1000 * cpu_ms / (2 * num_rows * length)
                typer.echo(
                    f"{num_items:8} {length:7} {model:15} {cpu_ms:8.0f} {wall_ms:9.0f} {an_event:12.3f} {cpu_ms / base:17.2f} "
                    f"{memory_mib:11.0f}"
                )


if __name__ == "__main__":
    typer.run(main)
