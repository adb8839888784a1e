"""What a training step costs a sample, for cluster/measured.py: ``python -m tests.scale.step_cost``.

Each network trains in memory on one thread, with short and long histories, small and large tables, ids uniform; the cost is
fitted to CPU time, of the fastest step, so that what else the machine does hardly counts. Each measurement is a process of its own.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice, product
from pathlib import Path

import numpy as np
import typer
import yaml

from cluster.capacity import Capacity
from cluster.data_size import read_plan
from cluster.exchange import DenseSize
from cluster.plan import ASSUMED
from raytrain.data.contract import load_contract
from raytrain.data.synthetic import SyntheticSpec, generate
from raytrain.training.process import ALLOCATOR

NUM_BATCHES = 4
NUM_STEPS = 20
TABLE_ROWS = (10_000, 10_000_000)
"""Of all tables."""
EVENTS = (50, 200)
"""Of each of two histories, all of them full."""
NO_DENSE = DenseSize(0, 0, 0, 0)


def step_s_per_row(config: str, *overrides: str) -> float:
    """CPU seconds, in a process of its own."""
    code = "import sys, tests.scale.step_cost as here; here.read_steps(*sys.argv[1:])"
    command = [sys.executable, "-c", code, config, *overrides]
    done = subprocess.run(command, env=os.environ | ALLOCATOR, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    return float(json.loads(done.stdout.splitlines()[-1]))


def read_steps(config: str, *overrides: str) -> None:
    """Prints CPU seconds a row of the fastest training step."""
    from raytrain.data.micro_batches import joined, local_micro_batches
    from raytrain.models.declared import declared_histories
    from raytrain.training.loop import build_learner, train_step
    from raytrain.training.parallel import World
    from raytrain.training.specs import training_specs
    from raytrain.training.torch_setup import set_up_torch

    set_up_torch(1, True)
    job, _ = read_plan(config, overrides)
    contract, world = load_contract(job.data.path), World.alone()
    specs = training_specs(job, contract, declared_histories(job, contract), "")
    batches = list(islice(joined([local_micro_batches(spec) for spec in specs]), NUM_BATCHES))
    learner, fastest = build_learner(job, contract, world), float("inf")
    for step in range(NUM_STEPS):
        started, batch = time.process_time(), batches[step % NUM_BATCHES]
        train_step(job, learner, batch, step, NUM_STEPS)
        # Those before warm up.
        if step >= NUM_BATCHES:
            fastest = min(fastest, (time.process_time() - started) / batch.num_rows)
    sys.stdout.write(json.dumps(fastest))


def config_of(directory: Path, model: str, events: int, table_rows: int) -> str:
    """A config with its data made; ``dnn`` has 21 features, the others user, item and two histories."""
    path, features = directory / f"{events}-{table_rows}", 2 if events else 21
    described = {
        "num_rows": 1024 * NUM_BATCHES,
        "num_source_rows": 1024,
        "num_eval_rows": 1024,
        "num_id_features": features,
        "table_rows": table_rows // (features if not events else 1),
        "num_users": min(2_000, table_rows // features - 1),
        # So many that a history is full before the first sample.
        "events_per_user": 13 * events // 5,
        "skew": 0,
    }
    if not path.exists():
        generate(SyntheticSpec(**described), str(path), lambda text: None)
    data = {"path": str(path), "batch_size": 1024, "window_batches": NUM_BATCHES, **({"history_length": events} if events else {})}
    file = directory / f"{model}-{events}-{table_rows}.yaml"
    file.write_text(yaml.safe_dump({"data": data, "model": {"name": model}, "synthetic": described}))
    return str(file)


def main(models: str = "din,dnn,lcn") -> None:
    with tempfile.TemporaryDirectory(prefix="raytrain-step-cost-") as name:
        for model in models.split(","):
            shares, measured = [], []
            for events, table_rows in product((0,) if model == "dnn" else EVENTS, TABLE_ROWS):
                config = config_of(Path(name), model, events, table_rows)
                job, size = read_plan(config, ())
                capacity = Capacity(job, size, 1, NO_DENSE, ASSUMED)
                shares.append((1.0, capacity.events, capacity.ids_per_sample))
                measured.append(1e6 * step_s_per_row(config))
                row_us = f"{measured[-1]:.1f} us a sample"
                typer.echo(f"{model}: {capacity.events} events, {capacity.ids_per_sample:.1f} distinct ids a sample: {row_us}")
            # Relative errors: a step that takes ten times as long counts no more.
            found, *_ = np.linalg.lstsq(np.array(shares) / np.array(measured)[:, None], np.ones(len(measured)), rcond=None)
            errors = np.array(shares) @ found / np.array(measured) - 1
            row, event, one = found
            typer.echo(f"{model}: Cost({row:.3g}, {event:.3g}, {one:.3g}), off by {np.abs(errors).max():.0%} at most")


if __name__ == "__main__":
    typer.run(main)
