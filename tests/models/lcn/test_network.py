"""LCN as a whole: it trains, its contrastive loss aligns planted pairs, its collisions are masked, and R ranks learn as one."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from raytrain.config import JobConfig
from raytrain.data.batch import Batch, Sequence
from raytrain.data.collate import Collator
from raytrain.data.contract import Contract, load_contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import ContractError
from raytrain.model_config import ContrastSection
from raytrain.models.declared import declared_histories
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.lcn.cross_domain_contrast import Candidates, CrossDomainContrast, Pairs, TargetEvents
from raytrain.models.lcn.cross_representation import CrossRepresentation
from raytrain.models.lcn.network import LcnInterest
from raytrain.settings import with_overrides
from raytrain.training.loop import Learner, build_learner, train_step
from raytrain.training.parallel import World, gather_rows, unwrapped
from tests.data.build import build_dataset
from tests.data.served import stream_spec
from tests.distributed.ranks import run_ranks

NUM_STEPS = 30
HISTORIES = ("target", "source")


def job_for(path: str, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 50, "window_batches": 4, "history_length": 20},
        "model": {"name": "lcn", "median_events": 8, "focused_events": 4, "contrast": {"pair_side": {"rating": [4, 5]}}},
        "tables": {"backend": "local", "dim": 8, "lr": 0.05},
        "optimizer": {"lr": 0.01},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("lcn") / "data")
    build_dataset(path, num_users=60, num_items=40, num_buckets=3, row_group_rows=37)
    return path


@pytest.fixture(scope="module")
def contract(dataset: str) -> Contract:
    return load_contract(dataset)


def batches_of(dataset: str, contract: Contract, histories: tuple[str, ...] = HISTORIES) -> list[Batch]:
    return list(local_micro_batches(replace(stream_spec(contract, dataset, 50, histories=histories), event_ages=True)))


def trained(job: JobConfig, contract: Contract, batches: list[Batch]) -> tuple[Learner, list[float]]:
    learner = build_learner(job, contract, World())
    return learner, [train_step(job, learner, batches[step % len(batches)], step, NUM_STEPS).item() for step in range(NUM_STEPS)]


def interest_of(learner: Learner) -> LcnInterest:
    interest = unwrapped(learner.network).interests
    assert isinstance(interest, LcnInterest)
    return interest


@pytest.mark.parametrize(
    "override",
    [
        "model.contrast.weight=0",
        "model.contrast.form=margin",
        "model.contrast.form=triplet",
        "model.contrast.popularity_correction=false",
        "model.contrast.passed_over_side={rating: [1, 2]}",
        "model.contrast.window_s=86400",
        "model.contrast.target_events=3",
        "model.contrast.target_events=0",
        "model.levels=[complete, focused]",
        "model.outputs=[focused]",
        "model.side=[]",
    ],
)
def test_every_form_trains(dataset: str, contract: Contract, override: str) -> None:
    overrides = [override, "model.outputs=[complete, focused]"] if "levels" in override else [override]
    _, losses = trained(job_for(dataset, *overrides), contract, batches_of(dataset, contract))
    assert all(torch.tensor(losses).isfinite())
    assert sum(losses[-5:]) < sum(losses[:5])


ABLATIONS = (
    (),
    ("model.outputs=[focused]",),
    ("model.outputs=[median]",),
    ("model.outputs=[complete]",),
    ("model.outputs=[median, focused]", "model.residual_scores=false"),
    ("model.levels=[median, focused]", "model.outputs=[median, focused]", "model.contrast.weight=0"),
    ("model.levels=[focused]", "model.outputs=[focused]", "model.contrast.weight=0"),
    ("model.levels=[complete, focused]", "model.outputs=[focused]"),
    ("model.histories=[target]", "model.levels=[median, focused]", "model.outputs=[median, focused]"),
    ("model.histories=[target]",),
    ("model.contrast.negatives=rank", "model.contrast.passed_over_side={rating: [1, 2]}"),
)


def losses_of_ablations(dataset: str) -> list[list[float]]:
    """Three steps of each on this rank's half of every batch: DDP raises in the second where a parameter had no gradient."""
    contract, world = load_contract(dataset), World.current()
    found = []
    for overrides in ABLATIONS:
        job = job_for(dataset, "tables.backend=sharded", *overrides)
        spec = replace(stream_spec(contract, dataset, 50, histories=declared_histories(job, contract)), event_ages=True)
        learner = build_learner(job, contract, world)
        rows = islice(
            (row for task in spec.source(world.size).get_read_tasks(-1) for row in task()), world.rank, 3 * world.size, world.size
        )
        collate = Collator(contract, "target", spec.histories, event_ages=True)
        found.append([train_step(job, learner, collate(row), step, 3).item() for step, row in enumerate(rows)])
        assert all(learner.optimizer.state[p] for group in learner.optimizer.param_groups for p in group["params"]), overrides
    return found


def test_every_ablation_trains_on_two_ranks_and_leaves_no_parameter_without_a_gradient(dataset: str) -> None:
    for losses in run_ranks(losses_of_ablations, 2, dataset):
        assert torch.tensor(losses).shape == (len(ABLATIONS), 3)
        assert torch.tensor(losses).isfinite().all()


def test_rows_of_the_source_domain_are_no_candidates(dataset: str, contract: Contract) -> None:
    learner, batch = build_learner(job_for(dataset, "model.contrast.target_events=0"), contract, World()), batches_of(dataset, contract)[0]
    output = learner.network(learner.tables(batch), replace(batch, domain=torch.ones_like(batch.domain)))
    assert output.logs["contrastive_loss"] == 0


def test_what_a_user_passed_over_weighs_as_much_as_any_negative(dataset: str, contract: Contract) -> None:
    """With and without it the loss differs visibly; beside corrected negatives an uncorrected one would vanish."""
    batch, losses = batches_of(dataset, contract)[0], []
    for side in ("{}", "{rating: [1, 2, 3]}"):
        job = job_for(dataset, f"model.contrast.passed_over_side={side}", "model.contrast.random_pairs=false")
        learner = build_learner(job, contract, World())
        losses.append(learner.network(learner.tables(batch), batch).logs["contrastive_loss"].item())
    assert losses[1] > losses[0] + 1e-4


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.contrast.pair_side={ratng: [4]}", "Did you mean rating"),
        ("model.contrast.passed_over_side={rating: [6]}", r"codes in 1..5. Received: \[6\]"),
        ("model.contrast.pair_side={rating: []}", "codes in 1..5"),
    ],
    ids=["misspelt", "no such code", "no code"],
)
def test_pairs_that_cannot_be_told_are_refused(dataset: str, contract: Contract, override: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        declared_histories(job_for(dataset, override), contract)


def test_pairs_of_something_else_than_users_are_refused(dataset: str, contract: Contract) -> None:
    by_country = contract.model_copy(update={"group": "country"})
    with pytest.raises(ContractError, match="group=country"):
        declared_histories(job_for(dataset), by_country)
    declared_histories(job_for(dataset, "model.contrast.weight=0"), by_country)


def test_the_target_history_alone_has_no_pairs(dataset: str, contract: Contract) -> None:
    learner, losses = trained(job_for(dataset, "model.histories=[target]"), contract, batches_of(dataset, contract, ("target",)))
    assert not interest_of(learner).contrast
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("form", ["infonce", "margin", "triplet"])
def test_contrast_brings_what_one_user_takes_in_both_domains_together(form: str) -> None:
    """Users have a topic, and take items of it in both domains; no label says so."""
    torch.manual_seed(0)
    num_topics, num_users, length = 4, 64, 6
    topic = torch.arange(num_users) % num_topics
    contrast = CrossDomainContrast(ContrastSection(form=form, temperature=0.2))
    align = CrossRepresentation(HISTORIES, 8, 16, 8)
    # Rows 0..19 are source items, rows 20..39 target items, each of topic row % 4.
    rows = torch.nn.Parameter(0.01 * torch.randn(40, 8))
    optimizer = torch.optim.Adam([rows, *align.parameters()], lr=0.01)
    for _ in range(80):
        history = topic[:, None] + num_topics * torch.randint(0, 5, (num_users, length))
        candidate = 20 + topic + num_topics * torch.randint(0, 5, (num_users,))
        batch = Batch(
            ids={},
            dense={},
            histories={},
            label=torch.ones(num_users),
            weight=torch.ones(num_users),
            group=torch.arange(num_users),
            time=torch.zeros(num_users),
            domain=torch.zeros(num_users),
        )
        ages = torch.arange(length, 0, -1).expand(num_users, length)
        view = HistoryView(rows, history, Sequence(history, torch.full((num_users,), length), age_s=ages))
        taken = torch.ones(num_users, 1, dtype=torch.bool)
        targets = TargetEvents(
            align("target", rows[candidate])[:, None], candidate[:, None], torch.zeros_like(candidate)[:, None], taken, taken
        )
        loss = contrast(targets, align("source", rows), view, batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    products = align("source", rows[:20]) @ align("target", rows[20:]).t()
    same_topic = (torch.arange(20)[:, None] - torch.arange(20)) % num_topics == 0
    assert products[same_topic].min() > products[~same_topic].max()


def test_collisions_are_no_negatives() -> None:
    pair = Pairs(torch.zeros(1, 2), torch.tensor([70]), torch.zeros(1, 2), torch.tensor([3]), user=torch.tensor([9]))
    candidates = Candidates(
        aligned=torch.zeros(5, 2),
        item=torch.tensor([3, 4, 5, 6, 7]),
        user=torch.tensor([8, 9, 9, 8, 8]),
        is_positive=torch.tensor([True, True, False, True, False]),
    ).where(torch.tensor([True, True, True, True, False]))
    found = pair.against(candidates, None, hard_weight=4.0)
    # The pair's own item, another item this user took, and padding are left out; what the user passed over counts four times.
    weights = found.log_weight[None].index_put(tuple(found.exceptions), found.exception_log_weight, accumulate=True)
    assert weights.exp()[0].tolist() == pytest.approx([0.0, 0.0, 4.0, 1.0])


def test_nothing_is_contrasted_when_scoring(dataset: str, contract: Contract) -> None:
    job = job_for(dataset)
    learner, batch = build_learner(job, contract, World()), batches_of(dataset, contract)[0]
    training = learner.network(learner.tables(batch), batch)
    learner.network.eval()
    scoring = learner.network(learner.tables(batch), batch)
    assert training.row_loss.sum() > scoring.row_loss.sum()
    assert "contrastive_loss" in training.logs
    assert not scoring.logs


def test_side_information_that_no_history_has_is_refused(dataset: str, contract: Contract) -> None:
    with pytest.raises(ContractError, match="Did you mean rating"):
        declared_histories(job_for(dataset, "model.side=[ratin]"), contract)


def gathered_gradient(num_rows: int) -> tuple[list[list[float]], list[float]]:
    """What a row's gradient is when every rank's loss weighs the rows of all ranks by its own rank + 1."""
    world = World.current()
    rows = torch.arange(float(num_rows + world.rank))[:, None].requires_grad_()
    found = gather_rows(rows)
    (found.sum() * (world.rank + 1)).backward()
    assert rows.grad is not None
    flags = gather_rows(torch.full((1,), bool(world.rank)))
    assert flags.tolist() == [bool(rank) for rank in range(world.size)]
    return found.tolist(), rows.grad[:, 0].tolist()


def test_rows_of_all_ranks_are_gathered_with_their_gradients() -> None:
    for rank, (rows, gradient) in enumerate(run_ranks(gathered_gradient, 3, 2)):
        assert rows == [[0.0], [1.0], [0.0], [1.0], [2.0], [0.0], [1.0], [2.0], [3.0]]
        assert gradient == [6.0] * (2 + rank)
