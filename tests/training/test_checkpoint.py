"""A checkpoint of 2 ranks carries on at 1 and 3 ranks as if nothing had happened."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from raytrain.config import JobConfig
from raytrain.data.collate import Collator
from raytrain.data.contract import load_contract
from raytrain.data.manifest import read_manifest
from raytrain.data.stream import StreamSpec
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_checkpoint, save_checkpoint
from raytrain.training.loop import build_learner, train_step
from raytrain.training.parallel import World
from tests.data.build import build_dataset
from tests.distributed.ranks import run_ranks

SAVED_AFTER, NUM_STEPS = 6, 12


def losses_after(path: str, directory: str, optimizers: tuple[str, str], resume: bool) -> list[float]:
    """Global losses of steps SAVED_AFTER..NUM_STEPS; saves at SAVED_AFTER, or starts there from ``directory``."""
    world = World.current()
    job = JobConfig.parse(
        {
            "seed": 9 if resume else 0,  # other initial weights: only the checkpoint can make the losses equal
            "data": {"path": path, "batch_size": 50, "window_batches": 4, "history_length": 20},
            "model": {"name": "din"},
            "tables": {"optimizer": optimizers[0], "dim": 8},
            "optimizer": {"name": optimizers[1]},
        },
        "test",
    )
    contract = load_contract(path)
    manifest = read_manifest(contract, path, "target", "train")
    spec = StreamSpec(contract, job.data, "target", "train", manifest, 50, ("target", "source"), True, 0, (0, 1), NUM_STEPS)
    collate = Collator(contract, "target", ("target", "source"))
    learner = build_learner(job, contract, world)
    if resume:
        load_checkpoint(Storage(directory), learner.tables, learner.network, learner.optimizer)
    losses = []
    rows = [row for task in spec.source(world.size).get_read_tasks(-1) for row in task()]
    for step in range(SAVED_AFTER if resume else 0, NUM_STEPS):
        if step == SAVED_AFTER and not resume:
            save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
            dist.barrier()
        loss = train_step(job, learner, collate(rows[step * world.size + world.rank]), step, NUM_STEPS)
        losses.append(world.sum(loss.clone()).item())
    return losses[-(NUM_STEPS - SAVED_AFTER) :]


@pytest.mark.parametrize("optimizers", [("rowwise_adagrad", "adam"), ("adagrad", "adagrad"), ("sgd", "sgd")], ids="-".join)
def test_two_ranks_continue_at_one_and_three(tmp_path: Path, optimizers: tuple[str, str]) -> None:
    path, directory = str(tmp_path / "data"), str(tmp_path / "checkpoint")
    build_dataset(path, num_users=60, num_items=40, seed=3, num_buckets=3, row_group_rows=37)
    undisturbed = run_ranks(losses_after, 2, path, directory, optimizers, False)[0]
    for num_ranks in (1, 3):
        resumed = run_ranks(losses_after, num_ranks, path, directory, optimizers, True)[0]
        torch.testing.assert_close(resumed, undisturbed, rtol=1e-5, atol=1e-5)
