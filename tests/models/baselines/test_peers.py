"""What holds for every peer: it trains, ranks do not matter, padding says nothing, empty histories do no harm."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.collate import Collator
from raytrain.data.contract import Contract, load_contract
from raytrain.data.manifest import read_manifest
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.data.stream import StreamSpec
from raytrain.errors import ConfigError, ContractError
from raytrain.models.declared import declared_histories
from raytrain.models.layers.sequence_network import Interests
from raytrain.models.registry import NEURAL_MODELS
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_weights, save_checkpoint
from raytrain.training.loop import Learner, build_learner, train_step
from raytrain.training.parallel import World
from raytrain.training.specs import training_specs
from tests.data.served import stream_spec
from tests.distributed.ranks import run_ranks
from tests.messages import assert_three_parts
from tests.models.baselines.peers import CATEGORY, NUM_CATEGORIES, PEERS, Peer, build_peers_dataset, job_for
from tests.models.histories import batch_of, drawn_view, widened, with_rows

HISTORIES = ("target", "source")
SIDE = {"rating": 6, "age": 32}
NUM_STEPS = 8
every_peer = pytest.mark.parametrize("peer", PEERS, ids=str)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("peers") / "data")
    build_peers_dataset(path)
    return path


@pytest.fixture(scope="module")
def contract(dataset: str) -> Contract:
    return load_contract(dataset)


def interest_of(peer: Peer, dataset: str, contract: Contract) -> nn.Module:
    """The part that reads histories, in double precision, with no number that an initial value hides."""
    job = job_for(dataset, peer, "tables.dim=4")
    torch.manual_seed(0)
    network = NEURAL_MODELS[job.model.name].network(job.model, job, contract)
    interests = network.interests.double()
    for parameter in interests.parameters():
        nn.init.normal_(parameter, std=0.5)
    return interests


def drawn_case(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, dict[str, object], Batch]:
    """Candidates, views of both domains, and the batch beside them."""
    draw = torch.Generator().manual_seed(seed)
    query = torch.randn(len(lengths), 4, dtype=torch.float64, generator=draw)
    rows = torch.randn(12, 4, dtype=torch.float64, generator=draw)
    views = {name: drawn_view(rows, lengths, SIDE, seed + place) for place, name in enumerate(HISTORIES)}
    label = torch.randint(2, (len(lengths),), generator=draw).double()
    category = torch.randint(1, NUM_CATEGORIES, (len(lengths),), generator=draw)
    return query, views, batch_of(label, {CATEGORY: category}, torch.arange(len(lengths)) % 2)


@every_peer
def test_padding_changes_nothing(peer: Peer, dataset: str, contract: Contract) -> None:
    interests = interest_of(peer, dataset, contract)
    query, views, batch = drawn_case([7, 3, 0, 1, 5])
    narrow: Interests = interests(query, views, batch)
    wide: Interests = interests(query, {name: widened(view, 9) for name, view in views.items()}, batch)
    torch.testing.assert_close(wide.outputs, narrow.outputs)
    torch.testing.assert_close(wide.row_loss, narrow.row_loss)
    # Row 0, which padding points at, is no event of these histories.
    other = views["target"].rows.clone()
    other[0] = 99.0
    moved: Interests = interests(query, {name: with_rows(view, other) for name, view in views.items()}, batch)
    torch.testing.assert_close(moved.outputs, narrow.outputs)


@every_peer
def test_empty_histories_have_finite_outputs_and_gradients(peer: Peer, dataset: str, contract: Contract) -> None:
    interests = interest_of(peer, dataset, contract)
    for lengths in ([0, 4], [0, 0]):
        query, views, batch = drawn_case(lengths)
        rows = views["target"].rows.requires_grad_()
        query.requires_grad_()
        found: Interests = interests(query, {name: with_rows(view, rows) for name, view in views.items()}, batch)
        loss = found.outputs.square().sum() + (0.0 if found.row_loss is None else found.row_loss.sum())
        loss.backward()
        assert torch.isfinite(found.outputs).all()
        grads = [rows.grad, *(parameter.grad for parameter in interests.parameters())]
        assert all(grad is not None and torch.isfinite(grad).all() for grad in grads)


@every_peer
def test_gradients_agree_with_finite_differences(peer: Peer, dataset: str, contract: Contract) -> None:
    interests = interest_of(peer, dataset, contract)
    query, views, batch = drawn_case([6, 2, 0])
    rows = views["target"].rows.clone().requires_grad_()
    query.requires_grad_()

    def outputs(query: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found: Interests = interests(query, {name: with_rows(view, rows) for name, view in views.items()}, batch)
        return (found.outputs,) if found.row_loss is None else (found.outputs, found.row_loss)

    assert torch.autograd.gradcheck(outputs, (query, rows))


@pytest.mark.parametrize(
    ("peer", "histories"),
    [*((peer, HISTORIES) for peer in PEERS), *((peer, ("target",)) for peer in PEERS if peer.name != "minet")],
    ids=lambda value: str(value) if isinstance(value, Peer) else " and ".join(value),
)
def test_it_learns_on_local_tables_and_loads_what_it_saved(
    peer: Peer, histories: tuple[str, ...], dataset: str, contract: Contract, tmp_path: Path
) -> None:
    job = job_for(dataset, peer, f"model.histories=[{','.join(histories)}]", "data.source_batch_size=20")
    learner = trained(job, contract, histories)
    other = build_learner(job.model_copy(update={"seed": 1}), contract, World())
    save_checkpoint(tmp_path, learner.tables, learner.network, learner.optimizer)
    load_weights(Storage(str(tmp_path)), other.tables, other.network)
    batch = next(iter(local_micro_batches(stream_spec(contract, dataset, 40, histories))))
    saved, loaded = (predictions(half, batch) for half in (learner, other))
    assert torch.equal(saved, loaded)
    assert 0 < saved.min() < saved.max() < 1


def trained(job: JobConfig, contract: Contract, histories: tuple[str, ...]) -> Learner:
    """A learner after two passes over target and source rows; fails unless its loss fell."""
    learner, losses = build_learner(job, contract, World()), []
    specs = training_specs(job, contract, histories, f"{job.data.path}-quarantine")
    batches = list(joined([local_micro_batches(spec) for spec in specs]))
    for step in range(2 * len(batches)):
        losses.append(train_step(job, learner, batches[step % len(batches)], step, 2 * len(batches)).item())
    assert sum(losses[-3:]) < sum(losses[:3])
    return learner


@torch.no_grad()
def predictions(learner: Learner, batch: Batch) -> torch.Tensor:
    learner.network.eval()
    return learner.network(learner.tables(batch), batch).predictions["click"]


def losses_of_peers(path: str) -> dict[str, list[float]]:
    """Global losses of a few steps of every peer, this rank reading its own micro-batches."""
    world, contract, losses = World.current(), load_contract(path), {}
    manifest = read_manifest(contract, path, "target", "train")
    for peer in PEERS:
        job = job_for(path, peer, "tables.backend=sharded", "tables.optimizer=sgd", "optimizer.name=sgd")
        spec = StreamSpec(contract, job.data, "target", "train", manifest, 40, HISTORIES, True, 0, (0,), NUM_STEPS)
        learner, collate, found = build_learner(job, contract, world), Collator(contract, "target", HISTORIES), []
        rows = (row for task in spec.source(world.size).get_read_tasks(-1) for row in task())
        for index, row in enumerate(rows):
            if index % world.size == world.rank:
                loss = train_step(job, learner, collate(row), len(found), NUM_STEPS)
                found.append(world.sum(loss.clone()).item())
        losses[peer.name] = found
    return losses


@pytest.mark.parametrize("name", ["din", "star", "ecdctr"])
def test_a_model_may_be_asked_to_look_at_no_history(name: str, dataset: str, contract: Contract) -> None:
    model = {"name": name, "months": 0} if name == "ecdctr" else {"name": name}
    trained(job_for(dataset, Peer(name, model), "model.histories=[]"), contract, ())


def test_lcn_refuses_to_do_without_histories(dataset: str, contract: Contract) -> None:
    with pytest.raises(ContractError, match="LCN attends to histories") as caught:
        declared_histories(job_for(dataset, Peer("lcn", {"name": "lcn"}), "model.histories=[]"), contract)
    assert_three_parts(caught.value)


def test_two_ranks_have_the_losses_of_one(dataset: str) -> None:
    one, (first, second) = run_ranks(losses_of_peers, 1, dataset)[0], run_ranks(losses_of_peers, 2, dataset)
    for peer in PEERS:
        assert len(one[peer.name]) == NUM_STEPS
        for losses in (first, second):
            torch.testing.assert_close(losses[peer.name], one[peer.name], rtol=1e-5, atol=1e-5)


def test_a_hard_search_needs_its_category_on_both_sides(dataset: str, contract: Contract) -> None:
    def hard(category: str) -> JobConfig:
        return job_for(dataset, Peer("sim", {"name": "sim", "search": "hard", "category": category}))

    assert declared_histories(hard(CATEGORY), contract) == HISTORIES
    with pytest.raises(ContractError, match=r"has to be an id feature of the candidate.*ratin\. Did you mean rating") as caught:
        declared_histories(hard("ratin"), contract)
    assert_three_parts(caught.value)
    with pytest.raises(ContractError, match="side information of the history of target, with the 4 codes") as caught:
        declared_histories(hard("country"), contract)
    assert_three_parts(caught.value, "country", "rating")
    with pytest.raises(ConfigError, match=r"model\.category has to be given for search=hard") as misused:
        job_for(dataset, Peer("sim", {"name": "sim", "category": CATEGORY}))
    assert_three_parts(misused.value)


def test_minet_needs_two_domains(dataset: str, contract: Contract) -> None:
    for histories in ("[target]", "[source]"):
        with pytest.raises(ContractError, match="MiNet has to have the history of target and one of a source") as caught:
            declared_histories(job_for(dataset, PEERS[-1], f"model.histories={histories}"), contract)
        assert_three_parts(caught.value)


@pytest.mark.parametrize("domain", [0, 1], ids=["target rows", "source rows"])
def test_minets_head_learns_from_target_rows_alone(domain: int, dataset: str, contract: Contract) -> None:
    learner = build_learner(job_for(dataset, PEERS[-1]), contract, World())
    batch = next(iter(local_micro_batches(stream_spec(contract, dataset, 40, HISTORIES))))
    batch = replace(batch, domain=torch.full_like(batch.domain, domain))
    learner.network(learner.tables(batch), batch).row_loss.sum().backward()
    learns = [bool(module.weight.grad.any()) for module in (learner.network.head.layers[1][0], learner.network.interests.source[0])]
    assert learns == [domain == 0, domain == 1]


def test_heads_have_to_divide_the_attention(dataset: str) -> None:
    with pytest.raises(ConfigError, match=r"num_heads has to divide model\.attention_dim") as caught:
        job_for(dataset, PEERS[0], "model.num_heads=5")
    assert_three_parts(caught.value)
