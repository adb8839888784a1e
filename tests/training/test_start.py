"""What a run begins with: monthly vectors at any number of ranks, and another run's weights."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.cursor import hash_of
from raytrain.data.days import contract_of
from raytrain.data.micro_batches import rank_micro_batches
from raytrain.errors import ConfigError, RunError
from raytrain.models.declared import declared_histories
from raytrain.settings import with_overrides
from raytrain.storage import Storage
from raytrain.training.checkpoint import save_checkpoint
from raytrain.training.commit import CHECKPOINTS, CURSOR_FILE, Committed, commit, take_over
from raytrain.training.loop import Learner, build_learner, train_step
from raytrain.training.parallel import World, unwrapped
from raytrain.training.specs import training_specs
from raytrain.training.start import SNAPSHOT_FILE, begin, plan_start, read_snapshots, snapshot_vectors, write_snapshot
from tests.data.build import FIRST_DAY, build_dataset
from tests.distributed.ranks import run_ranks

NUM_STEPS = 4


def job_for(path: str, name: str, *overrides: str) -> JobConfig:
    model: dict[str, Any] = {"name": "tpm", "features": ["user", "item", "country"], "hidden_units": [8]}
    if name == "ecdctr":
        model = {"name": "ecdctr", "months": 2, "month_dim": 8, "hidden_units": [16, 8], "attention_units": [8], "num_heads": 2}
    days = {"start": FIRST_DAY, "stop": FIRST_DAY + timedelta(days=4)}
    values = {
        "data": {"path": path, "domain": "source" if name == "tpm" else "target", "days": {"train": days}, "batch_size": 30},
        "model": model,
        "tables": {"dim": 8, "lr": 0.02},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def batches_of(job: JobConfig, contract: Contract, world: World) -> list[Batch]:
    (spec,) = training_specs(job, contract, declared_histories(job, contract), "")
    return list(rank_micro_batches(spec, world.rank, world.size))[:NUM_STEPS]


def trained(job: JobConfig, contract: Contract, world: World, learner: Learner) -> list[float]:
    """Losses of a few steps."""
    losses = [train_step(job, learner, batch, step, NUM_STEPS) for step, batch in enumerate(batches_of(job, contract, world))]
    return [world.sum(loss).item() for loss in losses]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("start") / "data")
    build_dataset(path, num_users=60, num_items=40, num_days=8, by_day=True)
    return path


def leave_snapshot(path: str, run: str) -> dict[str, set[int]]:
    """Trains tpm and leaves its snapshot in ``run``; table -> ids that this rank has trained on."""
    world, job = World.current(), job_for(path, "tpm")
    contract = contract_of(job.data)
    learner = build_learner(job, contract, world)
    trained(job, contract, world, learner)
    write_snapshot(Storage(run), job, contract, learner.tables, world)
    batches = batches_of(job, contract, world)
    return {name: {int(number) for batch in batches for number in batch.ids[name][batch.weight > 0]} for name in ("user", "item")}


def look_up(path: str, run: str) -> dict[str, Any]:
    """The monthly vectors of every row of a batch, before and after training, and the losses."""
    world, job = World.current(), job_for(path, "ecdctr", f"start.snapshots=[{run}]")
    contract = contract_of(job.data)
    learner = build_learner(job, contract, world)
    read_snapshots(plan_start(job, contract), contract, learner)
    batch = batches_of(job, contract, world)[0]
    rows = {name: found.of(name.partition("_")[2]) for name, found in learner.tables(batch).items() if name.startswith("month")}
    before = {name: value.clone() for name, value in rows.items()}
    losses = trained(job, contract, world, learner)
    after = {name: found.of(name.partition("_")[2]) for name, found in learner.tables(batch).items() if name.startswith("month")}
    ids = {name: batch.ids[name] for name in ("user", "item")}
    return {"before": before, "same": all(torch.equal(before[name], after[name]) for name in before), "ids": ids, "losses": losses}


@pytest.fixture(scope="module")
def snapshot(dataset: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, set[int]]]:
    run = str(tmp_path_factory.mktemp("tpm"))
    ranks = run_ranks(leave_snapshot, 2, dataset, run)
    return run, {name: ranks[0][name] | ranks[1][name] for name in ("user", "item")}


def test_a_snapshot_knows_the_ids_that_were_trained(snapshot: tuple[str, dict[str, set[int]]]) -> None:
    run, seen = snapshot
    summary = json.loads(Storage(run).read_text(SNAPSHOT_FILE))["features"]
    for name, vectors in snapshot_vectors(Storage(run)).items():
        known = set(torch.nonzero((vectors != 0).any(1))[:, 0].tolist())
        assert known == seen[name]
        assert summary[name]["num_seen_rows"] == len(known)


def test_every_rank_reads_its_rows_and_training_leaves_them(dataset: str, snapshot: tuple[str, dict[str, set[int]]]) -> None:
    run, _ = snapshot
    vectors = snapshot_vectors(Storage(run))
    losses = {}
    for num_ranks in (1, 3):
        for found in run_ranks(look_up, num_ranks, dataset, run):
            for name in ("user", "item"):
                # One snapshot where a row may see two: the second knows nobody.
                assert (found["before"][f"month1_{name}"] == 0).all()
                assert torch.equal(found["before"][f"month0_{name}"], vectors[name][found["ids"][name]])
            assert found["same"], "frozen tables keep their bytes"
            losses[num_ranks] = found["losses"]
    torch.testing.assert_close(losses[3], losses[1], rtol=1e-5, atol=1e-5)


def finished_run(path: str, run: str, job: JobConfig) -> Learner:
    """A run directory with a committed checkpoint of a few steps."""
    contract = contract_of(job.data)
    learner = build_learner(job, contract, World.alone())
    trained(job, contract, World(), learner)
    storage = Storage(run)
    owner = take_over(storage)
    directory = Path(run) / CHECKPOINTS / "launch" / "step"
    save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
    sizes = {file.name: file.stat().st_size for file in directory.iterdir()}
    storage.write_bytes(f"{CHECKPOINTS}/launch/step/{CURSOR_FILE}", b"")
    reported = Committed(name="launch/step", step=NUM_STEPS, world_size=1, cursor=hash_of(b""), files=sizes, best=None)
    commit(storage, owner, reported, None, True, 2)
    storage.write_text("result.json", "{}")
    return learner


@pytest.mark.parametrize(
    ("mode", "mean_is_kept", "optimizer_is_kept"),
    [("keep", True, True), ("reset_statistics", False, False), ("reset", False, False)],
)
def test_a_run_begins_with_another_runs_weights(
    dataset: str, tmp_path: Path, mode: str, mean_is_kept: bool, optimizer_is_kept: bool
) -> None:
    run = str(tmp_path / "cpm")
    parent = finished_run(dataset, run, job_for(dataset, "ecdctr"))
    kept = "keep" if optimizer_is_kept else "reset"
    job = job_for(dataset, "ecdctr", f"start.run={run}", f"start.batch_norm={mode}", f"start.optimizer={kept}", "seed=5")
    contract = contract_of(job.data)
    child = build_learner(job, contract, World.alone())
    begin(plan_start(job, contract), job, child)
    theirs, ours = unwrapped(parent.network).state_dict(), unwrapped(child.network).state_dict()
    for name, value in ours.items():
        is_norm = ".norm." in name
        if not is_norm or mode == "keep":
            assert torch.equal(value, theirs[name]), name
    assert torch.equal(ours["head.norm.0.running_mean"], theirs["head.norm.0.running_mean"]) == mean_is_kept
    assert (ours["head.norm.0.running_mean"] == 0).all() == (not mean_is_kept)
    tables = child.tables.state_dict(), parent.tables.state_dict()
    assert all(torch.equal(whole(tables[0][key]), whole(tables[1][key])) for key in tables[1])
    assert bool(child.optimizer.state) == optimizer_is_kept


def whole(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) and not hasattr(value, "local_shards") else value.local_shards()[0].tensor


def test_what_is_not_there_is_refused_on_the_driver(dataset: str, tmp_path: Path, snapshot: tuple[str, dict[str, set[int]]]) -> None:
    run, _ = snapshot
    for override, message in (
        (f"start.run={tmp_path}/none", "start.run has to be a finished run"),
        (f"start.snapshots=[{tmp_path}/none]", "start.snapshots has to name finished runs of tpm"),
    ):
        job = job_for(dataset, "ecdctr", override)
        with pytest.raises(ConfigError, match=message):
            plan_start(job, contract_of(job.data))
    job = job_for(dataset, "ecdctr", f"start.snapshots=[{run}]", "model.month_dim=16")
    with pytest.raises(ConfigError, match=r"wanted .*16.* Train it on the same data set with tables.dim=model.month_dim"):
        plan_start(job, contract_of(job.data))
    with pytest.raises(ConfigError, match="of 2 runs, 0 months of model din"):
        job_for(dataset, "ecdctr", "model={name: din}", f"start.snapshots=[{run}, {run}]")
    with pytest.raises(RunError, match="leaves a snapshot"):
        snapshot_vectors(Storage(str(tmp_path)))
