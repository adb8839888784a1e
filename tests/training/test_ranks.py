"""R ranks train as one: same global batches, same losses."""

import pytest
import torch

from raytrain.config import JobConfig
from raytrain.data.collate import Collator
from raytrain.data.contract import load_contract
from raytrain.data.manifest import read_manifest
from raytrain.data.stream import StreamSpec
from raytrain.training.loop import build_learner, train_step
from raytrain.training.parallel import World
from tests.data.build import build_dataset
from tests.distributed.ranks import run_ranks

NUM_STEPS = 50


LCN = {"name": "lcn", "median_events": 8, "focused_events": 4, "contrast": {"random_pairs": False}}
"""Its pairs are not drawn, as random numbers differ by rank."""


def losses_of_rank(
    path: str, table_optimizer: str, dense_optimizer: str, backend: str = "sharded", model: dict[str, object] | None = None
) -> list[float]:
    """Global losses of NUM_STEPS steps, this rank reading its own micro-batches of every global batch."""
    world = World.current()
    job = JobConfig.parse(
        {
            "data": {"path": path, "batch_size": 50, "window_batches": 4, "history_length": 20},
            "model": model or {"name": "din"},
            "tables": {"optimizer": table_optimizer, "dim": 8, "backend": backend, "lr": 0.02},
            "optimizer": {"name": dense_optimizer, "lr": 0.002},
        },
        "test",
    )
    contract = load_contract(path)
    histories = ("target", "source")
    manifest = read_manifest(contract, path, "target", "train")
    spec = StreamSpec(contract, job.data, "target", "train", manifest, 50, histories, True, 0, tuple(range(9)), NUM_STEPS, event_ages=True)
    collate = Collator(contract, "target", histories, event_ages=True)
    learner = build_learner(job, contract, world)
    losses = []
    rows = (row for task in spec.source(world.size).get_read_tasks(-1) for row in task())
    for index, row in enumerate(rows):
        if index % world.size == world.rank:
            loss = train_step(job, learner, collate(row), len(losses), NUM_STEPS)
            losses.append(world.sum(loss.clone()).item())
    return losses


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("ranks") / "data")
    build_dataset(path, num_users=60, num_items=40, seed=3, num_buckets=3, row_group_rows=37)
    return path


# Adagrad and Adam divide by the gradient's own size: where that is rounding's, a weight takes a whole step one way or the other, and by
# which instructions a processor adds up decides. SGD has no such step; a wrong mean over ranks is off by far more than either.
@pytest.mark.parametrize(
    ("table_optimizer", "dense_optimizer", "tolerance"),
    [("sgd", "sgd", 1e-5), ("rowwise_adagrad", "adagrad", 1e-4), ("adagrad", "adam", 1e-4)],
)
def test_two_and_three_ranks_have_the_losses_of_one(dataset: str, table_optimizer: str, dense_optimizer: str, tolerance: float) -> None:
    one = run_ranks(losses_of_rank, 1, dataset, table_optimizer, dense_optimizer)[0]
    assert len(one) == NUM_STEPS
    assert one[-1] != one[0]
    for num_ranks in (2, 3):
        for losses in run_ranks(losses_of_rank, num_ranks, dataset, table_optimizer, dense_optimizer):
            torch.testing.assert_close(losses, one, rtol=tolerance, atol=tolerance)


def test_negatives_of_all_ranks_make_two_and_three_ranks_one(dataset: str) -> None:
    one = run_ranks(losses_of_rank, 1, dataset, "rowwise_adagrad", "adagrad", "sharded", LCN)[0]
    for num_ranks in (2, 3):
        for losses in run_ranks(losses_of_rank, num_ranks, dataset, "rowwise_adagrad", "adagrad", "sharded", LCN):
            torch.testing.assert_close(losses, one, rtol=1e-5, atol=1e-5)


def test_sharded_tables_train_like_local_ones(dataset: str) -> None:
    sharded, local = (run_ranks(losses_of_rank, 1, dataset, "rowwise_adagrad", "adagrad", backend)[0] for backend in ("sharded", "local"))
    torch.testing.assert_close(sharded, local, rtol=1e-5, atol=1e-5)


def test_the_same_seed_gives_the_same_losses_to_the_bit(dataset: str) -> None:
    first, second = (run_ranks(losses_of_rank, 2, dataset, "rowwise_adagrad", "adam")[0] for _ in range(2))
    assert first == second
