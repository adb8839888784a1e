"""Training steps a second of several networks on the same real batches: ``python -m tests.scale.training_speed data/movielens``.

Batches in memory, as they are shuffled; networks in turn, so that ratios hold on a machine that is not steady. The best round of each
counts. Reading, checkpoints and Ray are left out: ``raytrain bench`` has those.
"""

import itertools
import time
from dataclasses import replace

import typer

from raytrain.config import JobConfig, load_config
from raytrain.data.contract import load_contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.models.registry import NEURAL_MODELS
from raytrain.training.loop import Learner, build_learner, train_step
from raytrain.training.parallel import World
from raytrain.training.specs import training_specs
from raytrain.training.torch_setup import set_up_torch

CONFIG = "pipelines/configs/movielens_lcn.yaml"
WARM_STEPS = 3


def main(
    path: str,
    models: str = "lcn,sdim,eta,sim,twin,din",
    length: int = 200,
    one_domain: bool = False,
    batch_size: int = 1024,
    threads: int = 2,
    rounds: int = 4,
    steps: int = 8,
) -> None:
    """Prints samples/s of each of ``models``, in the settings that movielens_lcn.yaml trains all of them in."""
    set_up_torch(threads, deterministic=True)
    world, contract = World.alone(), load_contract(path)
    common = [f"data.path={path}", f"data.batch_size={batch_size}", f"data.history_length={length}"]
    jobs = {
        name: load_config(CONFIG, [*_model(name), *common, *(["model.histories=[target]"] if one_domain else [])])
        for name in models.split(",")
    }
    first = next(iter(jobs.values()))
    [spec, *_] = training_specs(first, contract, NEURAL_MODELS[first.model.name].histories(first.model, contract), "")
    spec = replace(spec, quarantine_path=None, event_ages=True)
    batches = list(itertools.islice(local_micro_batches(spec), steps))
    learners = {name: build_learner(job, contract, world) for name, job in jobs.items()}

    def run(job: JobConfig, learner: Learner, num_steps: int) -> float:
        started = time.perf_counter()
        for step in range(num_steps):
            train_step(job, learner, batches[step], step, steps)
        return time.perf_counter() - started

    for name, learner in learners.items():
        run(jobs[name], learner, WARM_STEPS)
    best = dict.fromkeys(learners, float("inf"))
    for _ in range(rounds):
        for name, learner in learners.items():
            best[name] = min(best[name], run(jobs[name], learner, steps))
    histories = ", ".join(f"{name} {float(one.lengths.float().mean()):.0f} events" for name, one in batches[0].histories.items())
    typer.echo(f"batch {batch_size}, {threads} thread(s), histories of at most {length}, on average {histories}")
    for name, seconds in best.items():
        typer.echo(f"{name}: {sum(batch.num_rows for batch in batches) / seconds:,.0f} samples/s")


def _model(name: str) -> list[str]:
    return [] if name == "lcn" else [f"model={{name: {name}, skip_features: [user, zip], dropout: 0.1}}"]


if __name__ == "__main__":
    typer.run(main)
