"""The plain network: what reaches its MLP, what it can learn, and the same losses from sharded and local tables."""

import pytest
import torch

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract, load_contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.embeddings.tables import EmbeddedRows
from raytrain.errors import ContractError
from raytrain.models.baselines.declarations import dnn_tables
from raytrain.models.baselines.dnn import DnnNetwork
from raytrain.models.declared import DECLARED, check_features
from raytrain.models.registry import NEURAL_MODELS
from raytrain.settings import with_overrides
from raytrain.training.loop import build_learner, train_step
from raytrain.training.parallel import World
from tests.data.build import build_dataset
from tests.data.served import stream_spec
from tests.distributed.ranks import run_ranks

NUM_STEPS = 20


def job_for(path: str, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 50},
        "model": {"name": "dnn", "hidden_units": [16, 8]},
        "tables": {"backend": "local", "dim": 8, "lr": 0.1},
        "optimizer": {"lr": 0.01},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("dnn") / "data")
    build_dataset(path, num_users=60, num_items=40)
    return path


@pytest.fixture(scope="module")
def contract(dataset: str) -> Contract:
    return load_contract(dataset)


def batches_of(dataset: str, contract: Contract) -> list[Batch]:
    return list(local_micro_batches(stream_spec(contract, dataset, 50)))


def losses(dataset: str, backend: str) -> list[float]:
    contract = load_contract(dataset)
    job = job_for(dataset, f"tables.backend={backend}")
    learner = build_learner(job, contract, World.current())
    batches = batches_of(dataset, contract)
    return [train_step(job, learner, batches[step % len(batches)], step, NUM_STEPS).item() for step in range(NUM_STEPS)]


def test_it_declares_a_table_for_every_id_space_it_uses_and_reads_no_history(dataset: str, contract: Contract) -> None:
    job = job_for(dataset, "model.skip_features=[country]")
    tables = {table.name: table for table in dnn_tables(job.model, job, contract)}
    assert {name: table.features for name, table in tables.items()} == {"user": ("user",), "item": ("item",), "tags": ("tags",)}
    assert not any(table.histories for table in tables.values())
    assert NEURAL_MODELS["dnn"].histories(job.model, contract) == ()


def test_the_mlp_sees_every_vector_the_mean_of_many_and_the_dense_value(dataset: str, contract: Contract) -> None:
    job = job_for(dataset, "tables.dim=4", "model.skip_features=[user, item]")
    network = DnnNetwork(job.model, job, contract)
    seen = []
    network.head.register_forward_hook(lambda head, inputs, output: seen.append(inputs[0]))
    batch = batches_of(dataset, contract)[0]
    two = Batch(
        ids={"country": torch.tensor([2, 0]), "tags": torch.tensor([[1, 3, 0], [0, 0, 0]])},
        dense={"price": torch.tensor([1.5, -2.0])},
        histories={},
        **{name: getattr(batch, name)[:2] for name in ("label", "weight", "group", "time", "domain")},
    )
    rows = torch.arange(16.0).reshape(4, 4)
    embedded = {
        "country": EmbeddedRows(rows, torch.arange(4), {"country": two.ids["country"]}),
        "tags": EmbeddedRows(rows, torch.arange(4), {"tags": two.ids["tags"]}),
    }
    output = network(embedded, two)
    # Rows of country 2 and 0; the mean of tag rows 1 and 3, nothing for no tag; the price.
    assert seen[0].tolist() == [[8, 9, 10, 11, 8, 9, 10, 11, 1.5], [0, 1, 2, 3, 0, 0, 0, 0, -2.0]]
    assert output.row_loss.shape == output.predictions["click"].shape == (2,)
    logit = torch.logit(output.predictions["click"])
    expected = torch.nn.functional.softplus(torch.where(two.label > 0, -logit, logit))
    torch.testing.assert_close(output.row_loss, expected)


@pytest.mark.parametrize("planted", ["country", "tags", "price"])
def test_it_learns_labels_planted_in_any_kind_of_feature(dataset: str, contract: Contract, planted: str) -> None:
    job = job_for(dataset, "model.skip_features=[user, item]")
    learner = build_learner(job, contract, World())

    def with_labels(batch: Batch) -> Batch:
        label = {
            "country": batch.ids["country"] % 2,
            "tags": (batch.ids["tags"] == 3).any(1),
            "price": batch.dense["price"] > 0,
        }[planted]
        return Batch(**{**batch.__dict__, "label": label.float()})

    batches = [with_labels(batch) for batch in batches_of(dataset, contract)]
    for step in range(150):
        train_step(job, learner, batches[step % (len(batches) - 1)], step, 150)
    learner.network.eval()
    last = batches[-1]
    prediction = learner.network(learner.tables(last), last).predictions["click"]
    counted = last.weight > 0
    assert ((prediction > 0.5) == (last.label > 0.5))[counted].float().mean() > 0.9


def test_sharded_tables_train_like_local_ones(dataset: str) -> None:
    local, sharded = (run_ranks(losses, 1, dataset, backend)[0] for backend in ("local", "sharded"))
    assert local[-1] < local[0]
    torch.testing.assert_close(sharded, local, rtol=1e-5, atol=1e-5)


def test_it_needs_a_feature_but_not_the_item(contract: Contract) -> None:
    queries_item = DECLARED["dnn"].queries_item
    check_features(contract, ("item",), queries_item)
    with pytest.raises(ContractError, match="has to have a feature left"):
        check_features(contract, ("user", "item", "country", "tags", "price"), queries_item)
    with pytest.raises(ContractError, match="Did you mean price"):
        check_features(contract, ("prise",), queries_item)
