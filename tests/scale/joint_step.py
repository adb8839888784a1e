"""What a joint step of ADSNet costs beside a step of its backbone on the same rows: ``python -m tests.scale.joint_step``.

Planted lifetime values, generated here; batches in memory; steps in turn, CPU time, so that ratios hold on a machine that is not
steady. The best round of each counts.
"""

import itertools
import math
import tempfile
import time
from dataclasses import replace

import typer

from pipelines.prepare import load_prepare_config, prepare
from raytrain.config import JobConfig, load_config
from raytrain.data.contract import Contract, load_contract
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.training.loop import Learner, build_learner, train_step
from raytrain.training.parallel import World
from raytrain.training.specs import probe_spec, training_specs
from raytrain.training.torch_setup import set_up_torch

PREPARE, CONFIG = "pipelines/configs/prepare_planted_ltv.yaml", "pipelines/configs/planted_ltv_adsnet.yaml"
BACKBONE = "backbone, all rows"
ARMS = {
    BACKBONE: ["model={name: ltv, external: mix, external_weight: 4.0}"],
    "adsnet, ledger": ["model.warmup_steps=0", "model.gain.watch_every_steps=0"],
    "adsnet, ledger, siamese beside it": ["model.warmup_steps=0"],
    "adsnet, siamese": ["model.warmup_steps=0", "model.gain.estimator=siamese", "model.gain.watch_every_steps=0"],
    "adsnet, every row let in": ["model.warmup_steps=0", "model.gain.estimator=none"],
}
NUM_BATCHES, WARM_STEPS = 20, 5


def main(rounds: int = 4, num_rows: int = 4_000) -> None:
    """Prints milliseconds of CPU a step and the ratio to the backbone's, on one thread."""
    set_up_torch(1, deterministic=True)
    with tempfile.TemporaryDirectory() as data:
        prepare(load_prepare_config(PREPARE, [f"output={data}/planted", f"recipe.num_rows={num_rows}", "num_cpus=1"]), lambda _: None)
        contract = load_contract(f"{data}/planted")
        jobs = {name: load_config(CONFIG, [f"data.path={data}/planted", "tables.backend=local", *arm]) for name, arm in ARMS.items()}
        streams = [replace(spec, quarantine_path=None) for spec in training_specs(jobs[BACKBONE], contract, (), "")]
        batches = list(itertools.islice(joined([local_micro_batches(spec) for spec in streams]), NUM_BATCHES))
        learners = {name: _learner(job, contract) for name, job in jobs.items()}
        best = dict.fromkeys(ARMS, math.inf)
        for number in range(rounds + 1):
            for name, learner in learners.items():
                started = time.process_time()
                for step, batch in enumerate(batches):
                    train_step(jobs[name], learner, batch, WARM_STEPS + step + number * NUM_BATCHES, 1_000)
                # The first round warms caches and allocators.
                best[name] = min(best[name], time.process_time() - started) if number else math.inf
    rows = ", ".join(f"{len(part.status)} {part.domain}" for part in batches[0].provenance)
    typer.echo(f"rows of a step: {rows}; CPU time of one thread, best of {rounds} rounds of {NUM_BATCHES} steps")
    for name, seconds in best.items():
        typer.echo(f"{name}: {1000 * seconds / NUM_BATCHES:.1f} ms, {seconds / best[BACKBONE]:.2f} x")


def _learner(job: JobConfig, contract: Contract) -> Learner:
    probe = probe_spec(job, contract, None)
    return build_learner(job, contract, World.alone(), None, list(local_micro_batches(probe)) if probe else [])


if __name__ == "__main__":
    typer.run(main)
