"""A checkpoint of 2 ranks carries on at 1 and 3 ranks as if nothing had happened."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, MetadataIndex

from raytrain.config import JobConfig
from raytrain.data.collate import Collator
from raytrain.data.contract import load_contract
from raytrain.data.manifest import read_manifest
from raytrain.data.stream import StreamSpec
from raytrain.errors import RunError, StreamError
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_checkpoint, load_weights, save_checkpoint
from raytrain.training.loop import Learner, build_learner, train_step
from raytrain.training.parallel import World
from tests.data.build import build_dataset
from tests.distributed.ranks import run_ranks

SAVED_AFTER, NUM_STEPS = 10, 30
OPTIMIZERS = [("rowwise_adagrad", "adam"), ("adagrad", "adagrad"), ("sgd", "sgd")]


def job_for(path: str, optimizers: tuple[str, str], seed: int = 0) -> JobConfig:
    return JobConfig.parse(
        {
            "seed": seed,
            "data": {"path": path, "batch_size": 50, "window_batches": 4, "history_length": 20},
            "model": {"name": "din"},
            "tables": {"optimizer": optimizers[0], "dim": 8},
            "optimizer": {"name": optimizers[1]},
        },
        "test",
    )


def losses_after(path: str, directory: str, optimizers: tuple[str, str], resume: bool) -> list[float]:
    """Global losses of steps SAVED_AFTER..NUM_STEPS; saves at SAVED_AFTER, or starts there from ``directory``."""
    world = World.current()
    # Other initial weights: only the checkpoint can make the losses equal.
    job = job_for(path, optimizers, seed=9 if resume else 0)
    contract = load_contract(path)
    manifest = read_manifest(contract, path, "target", "train")
    spec = StreamSpec(contract, job.data, "target", "train", manifest, 50, ("target", "source"), True, 0, (0, 1, 2), NUM_STEPS)
    collate = Collator(contract, "target", ("target", "source"))
    learner = build_learner(job, contract, world)
    if resume:
        load_checkpoint(Storage(directory), learner.tables, learner.network, learner.optimizer)
    losses = []
    rows = [row for task in spec.source(world.size).get_read_tasks(-1) for row in task()]
    assert len(rows) == NUM_STEPS * world.size
    for step in range(SAVED_AFTER if resume else 0, NUM_STEPS):
        if step == SAVED_AFTER and not resume:
            save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
            dist.barrier()
        loss = train_step(job, learner, collate(rows[step * world.size + world.rank]), step, NUM_STEPS)
        losses.append(world.sum(loss.clone()).item())
    return losses[-(NUM_STEPS - SAVED_AFTER) :]


def save_again(path: str, directory: str, target: str, optimizers: tuple[str, str]) -> None:
    """Loads a checkpoint into a fresh learner and saves what that holds."""
    learner = build_learner(job_for(path, optimizers, seed=9), load_contract(path), World.current())
    load_checkpoint(Storage(directory), learner.tables, learner.network, learner.optimizer)
    save_checkpoint(target, learner.tables, learner.network, learner.optimizer)


def tensors_in(directory: str) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint whole, by its path."""
    file = f"{directory}-whole.pt"
    dcp_to_torch_save(directory, file)
    return dict(_flat("", torch.load(file, weights_only=True)))


def _flat(prefix: str, values: Any) -> Any:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{prefix}{key}.", value)
        elif isinstance(value, torch.Tensor):
            yield f"{prefix}{key}", value


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("checkpoint") / "data")
    build_dataset(path, num_users=60, num_items=40, seed=3, num_buckets=3, row_group_rows=37, events_per_user=16)
    return path


@pytest.mark.parametrize("optimizers", OPTIMIZERS, ids="-".join)
def test_two_ranks_continue_at_one_and_three(dataset: str, tmp_path: Path, optimizers: tuple[str, str]) -> None:
    directory = str(tmp_path / "checkpoint")
    undisturbed = run_ranks(losses_after, 2, dataset, directory, optimizers, False)[0]
    saved = tensors_in(directory)
    for num_ranks in (1, 3):
        resumed = run_ranks(losses_after, num_ranks, dataset, directory, optimizers, True)[0]
        np.testing.assert_allclose(resumed, undisturbed, rtol=1e-6, atol=1e-6)
        run_ranks(save_again, num_ranks, dataset, directory, f"{directory}-{num_ranks}", optimizers)
        again = tensors_in(f"{directory}-{num_ranks}")
        assert again.keys() == saved.keys()
        assert all(torch.equal(again[name], value) for name, value in saved.items())
    has_state = {name.split(".")[0] for name in saved}
    assert ("dense_optimizer" in has_state) == (optimizers[1] != "sgd")
    assert ("table_optimizer" in has_state) == (optimizers[0] != "sgd")


@pytest.fixture
def saved(dataset: str, tmp_path: Path) -> tuple[Learner, str]:
    learner = build_learner(job_for(dataset, OPTIMIZERS[0]), load_contract(dataset), World.alone())
    directory = str(tmp_path / "checkpoint")
    save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
    return learner, directory


def test_a_checkpoint_is_read_from_any_file_system(saved: tuple[Learner, str], s3_bucket: str) -> None:
    learner, directory = saved
    remote = Storage(f"{s3_bucket}/checkpoint")
    for file in Path(directory).iterdir():
        remote.write_bytes(file.name, file.read_bytes())
    before = [parameter.clone() for parameter in learner.network.parameters()]
    with torch.no_grad():
        for parameter in learner.network.parameters():
            parameter.add_(1.0)
    load_weights(remote, learner.tables, learner.network)
    assert all(torch.equal(old, new) for old, new in zip(before, learner.network.parameters(), strict=True))


class Harmful:
    """Unpickling it leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def metadata_of_code(directory: Path, ran: Path) -> Any:
    return Harmful(ran)


def metadata_that_points_at_code(directory: Path, ran: Path) -> Any:
    """A sound description, but of one entry that DCP would unpickle."""
    torch.save(Harmful(ran), directory / "harmful")
    metadata = pickle.loads((directory / ".metadata").read_bytes())
    name = next(name for name in metadata.state_dict_metadata if name.startswith("network."))
    metadata.state_dict_metadata[name] = BytesStorageMetadata()
    for index in [index for index in metadata.storage_data if index.fqn == name]:
        del metadata.storage_data[index]
    metadata.storage_data[MetadataIndex(name)] = _StorageInfo("harmful", 0, (directory / "harmful").stat().st_size)
    return metadata


@pytest.mark.parametrize("harmful", [metadata_of_code, metadata_that_points_at_code])
def test_code_in_a_checkpoint_is_not_run(saved: tuple[Learner, str], tmp_path: Path, harmful: Any) -> None:
    learner, directory = saved
    (Path(directory) / ".metadata").write_bytes(pickle.dumps(harmful(Path(directory), tmp_path / "ran")))
    with pytest.raises(RunError, match=r"describe tensors only. Received: .*Do not use this checkpoint"):
        load_weights(Storage(directory), learner.tables, learner.network)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_lost_a_part_is_an_error_that_says_so(saved: tuple[Learner, str]) -> None:
    learner, directory = saved
    next(Path(directory).glob("*.distcp")).unlink()
    with pytest.raises(RunError, match="has to fit the model and be whole"):
        load_weights(Storage(directory), learner.tables, learner.network)


def test_no_room_for_a_checkpoint_is_an_error_that_says_where(saved: tuple[Learner, str]) -> None:
    learner, _ = saved
    with pytest.raises(StreamError, match=r"Every rank needs room .* in /dev/full/x"):
        save_checkpoint("/dev/full/x", learner.tables, learner.network, learner.optimizer)
