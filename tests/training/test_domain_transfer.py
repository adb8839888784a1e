"""One network on two domains through the loop without Ray: whose rows count when, on how many ranks, and after a restart."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import load_contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.data.planted_ltv import PlantedLtvSpec, generate_planted_ltv
from raytrain.errors import ConfigError
from raytrain.ltv_config import CdafModel, LtvModel
from raytrain.settings import with_overrides
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_checkpoint, save_checkpoint
from raytrain.training.domain_transfer import domain_loss
from raytrain.training.loop import Learner, evaluate, train_step
from raytrain.training.parallel import World
from raytrain.training.specs import scoring_spec
from raytrain.training.transfer import transfer_file
from tests.data.build import build_dataset
from tests.distributed.ranks import run_ranks
from tests.messages import assert_three_parts
from tests.models.adsnet.worlds import batch_of
from tests.training.test_transfer import batches_of, internal_rows, learner_of, run_loop

SPEC = PlantedLtvSpec(num_rows=900, volume=4.0, num_probe_rows=128, num_eval_rows=400, num_slices=8, num_items=12, num_ids=7, seed=3)
MIX: dict[str, Any] = {"name": "ltv"}
PRETRAIN: dict[str, Any] = {"name": "ltv", "external": "pretrain", "pretrain_steps": 5}
CDAF: dict[str, Any] = {"name": "cdaf", "pretrain_steps": 5, "num_directions": 16}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("domains") / "data")
    generate_planted_ltv(SPEC, path, lambda line: None, num_buckets=2, row_group_rows=256)
    return path


def job_for(path: str, model: dict[str, Any], *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 60, "source_batch_size": 120, "window_batches": 8},
        "model": {"backbone": {"expert_units": [16, 8], "tower_units": [8]}, **model},
        "tables": {"backend": "local", "dim": 4, "lr": 0.05},
        "optimizer": {"lr": 0.01},
        "training": {"epochs": 4, "log_every_steps": 5, "early_stopping": {"patience": None}},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


@pytest.mark.parametrize(
    ("model", "early", "late"),
    [
        (LtvModel(external_weight=0.5), (1.0, 0.5), (1.0, 0.5)),
        (LtvModel(external="pretrain", pretrain_steps=5, external_weight=0.5), (0.0, 0.5), (1.0, 0.0)),
        (LtvModel(external="pretrain", pretrain_steps=5, pretrain_on="both"), (1.0, 1.0), (1.0, 0.0)),
        (CdafModel(pretrain_steps=5, external_weight=0.5), (0.0, 1.0), (1.0, 0.5)),
    ],
    ids=["mix", "pretrain on external rows", "pretrain on both", "cdaf"],
)
def test_domains_count_by_the_step_alone(model: LtvModel | CdafModel, early: tuple[float, ...], late: tuple[float, ...]) -> None:
    assert [model.domain_weights(step) for step in (0, 4, 5, 99)] == [early, early, late, late]


def test_the_loss_is_a_mean_of_each_domain() -> None:
    batch = batch_of([0, 1, 0, 1, 1, 0])
    batch = replace(batch, weight=torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0], dtype=torch.float64))
    row_loss = torch.tensor([1.0, 2.0, 3.0, 6.0, 7.0, 1000.0], dtype=torch.float64)
    loss = domain_loss(row_loss, batch, torch.tensor([2.0, 3.0]), (2.0, 0.5))
    assert loss.item() == pytest.approx(2 * (1 + 3) / 2 + 0.5 * (2 + 6 + 7) / 3)
    # A step without external rows.
    assert domain_loss(row_loss[:1], batch_of([0]), torch.tensor([1.0, 0.0]), (1.0, 1.0)).item() == 1


def table_rows(learner: Learner) -> dict[str, torch.Tensor]:
    """Weights and optimizer states, by name."""
    states = learner.tables.state_dict() | learner.tables.optimizer_state_dict()
    local = {name: value.local_shards()[0].tensor if hasattr(value, "local_shards") else value for name, value in states.items()}
    return {name: value.detach().clone() for name, value in local.items()}


@pytest.mark.parametrize("optimizer", ["rowwise_adagrad", "adagrad", "sgd"])
@pytest.mark.parametrize("backend", ["local", "sharded"])
@pytest.mark.parametrize(("pretrain_steps", "counts"), [(3, 0), (50, 1)], ids=["internal rows alone", "external rows alone"])
def test_rows_that_do_not_count_move_no_row_of_a_table(
    dataset: str, optimizer: str, backend: str, pretrain_steps: int, counts: int
) -> None:
    model = {**PRETRAIN, "pretrain_steps": pretrain_steps}
    job = job_for(dataset, model, f"tables.optimizer={optimizer}", f"tables.backend={backend}")
    learner = learner_of(job, World.alone() if backend == "sharded" else None)
    batches = batches_of(job, 6)
    for step, batch in enumerate(batches[:4]):
        train_step(job, learner, batch, step, 100)
    before = table_rows(learner)
    # Id 1 of every feature is looked up by the rows that do not count alone.
    last = batches[5]
    ids = {name: torch.where(last.domain == counts, values.clamp(min=2), 1) for name, values in last.ids.items()}
    train_step(job, learner, replace(last, ids=ids), 4, 100)
    after = table_rows(learner)
    assert before.keys() == after.keys()
    for name, rows in after.items():
        assert torch.equal(rows[1], before[name][1]), name
    assert any(not torch.equal(rows, before[name]) for name, rows in after.items())


def test_after_pretraining_it_learns_as_if_external_rows_were_not_there(dataset: str) -> None:
    job = job_for(dataset, {**PRETRAIN, "pretrain_steps": 2})
    found = []
    for alone in (True, False):
        learner = learner_of(job)
        for step, batch in enumerate(batches_of(job, 8)):
            train_step(job, learner, internal_rows(batch) if alone and step >= 2 else batch, step, 100)
        found.append({**table_rows(learner), **{name: value.clone() for name, value in learner.network.state_dict().items()}})
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("saved_after", [3, 5, 8], ids=["while pre-training", "at its end", "after it"])
@pytest.mark.parametrize("model", [MIX, PRETRAIN, CDAF], ids=["mix", "pretrain", "cdaf"])
def test_a_run_that_goes_on_repeats_its_losses(dataset: str, tmp_path: Path, saved_after: int, model: dict[str, Any]) -> None:
    job, num_steps = job_for(dataset, model), 11
    batches, directory = batches_of(job, num_steps), str(tmp_path / "checkpoint")
    learner, undisturbed = learner_of(job), []
    for step, batch in enumerate(batches):
        if step == saved_after:
            save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
            assert transfer_file(learner.transfer) == {}
        undisturbed.append(train_step(job, learner, batch, step, num_steps).item())
    # Other initial weights: only the checkpoint can make the losses equal.
    again = learner_of(job)
    with torch.no_grad():
        for parameter in again.network.parameters():
            parameter.add_(0.1)
    load_checkpoint(Storage(directory), again.tables, again.network, again.optimizer)
    losses = [train_step(job, again, batches[step], step, num_steps).item() for step in range(saved_after, num_steps)]
    assert losses == undisturbed[saved_after:]


RANKED = (PRETRAIN, {**CDAF, "distance_weight": 5.0})


def steps_of_rank(path: str) -> list[tuple[list[float], dict[str, float]]]:
    """Of each model of RANKED: losses of 10 steps of the whole batch, and the sums of what was logged."""
    world, found = World.current(), []
    for model in RANKED:
        job = job_for(path, model, "tables.backend=sharded", "optimizer.name=adagrad")
        learner, losses, logs = learner_of(job, world), [], {}
        for step, batch in enumerate(batches_of(job, 10, world.rank, world.size)):
            losses.append(world.sum(train_step(job, learner, batch, step, 10, logs).clone()).item())
        found.append((losses, {name: world.sum(value.clone()).item() / world.size for name, value in logs.items()}))
    return found


def test_two_ranks_are_one(dataset: str) -> None:
    [one] = run_ranks(steps_of_rank, 1, dataset)
    for rank in run_ranks(steps_of_rank, 2, dataset):
        for (losses, logs), (expected, expected_logs) in zip(rank, one, strict=True):
            np.testing.assert_allclose(losses, expected, rtol=2e-4, atol=2e-4)
            assert logs == pytest.approx(expected_logs, rel=1e-3)
    assert one[1][1]["domain_distance"] > 0


def test_the_external_predictor_begins_as_the_internal_one(dataset: str) -> None:
    job = job_for(dataset, CDAF)
    learner, batches = learner_of(job), batches_of(job, 5)
    cdaf: Any = learner.network
    idle = [parameter.clone() for parameter in cdaf.external.parameters()]
    for step, batch in enumerate(batches):
        train_step(job, learner, batch, step, 100)
    assert all(torch.equal(now, then) for now, then in zip(cdaf.external.parameters(), idle, strict=True))
    learner.transfer.before_step(5)
    state = learner.optimizer.state
    for own, other in zip(cdaf.internal.parameters(), cdaf.external.parameters(), strict=True):
        assert torch.equal(own, other)
        assert own is not other
        assert torch.equal(state[own]["exp_avg_sq"], state[other]["exp_avg_sq"])
        assert state[own]["exp_avg_sq"] is not state[other]["exp_avg_sq"]


def test_the_distance_draws_the_domains_together(dataset: str) -> None:
    distances = {}
    for weight in (0.01, 10.0):
        job = job_for(dataset, {**CDAF, "distance_weight": weight})
        learner, logs = learner_of(job), {}
        for step, batch in enumerate(batches_of(job, 40)):
            train_step(job, learner, batch, step, 100, logs if step >= 30 else None)
        distances[weight] = logs["domain_distance"].item()
    assert 0 < distances[10.0] < 0.5 * distances[0.01]


@pytest.mark.parametrize("model", [MIX, PRETRAIN, CDAF], ids=["mix", "pretrain", "cdaf"])
def test_amounts_are_learnt_and_scored_by_size(dataset: str, model: dict[str, Any]) -> None:
    job = job_for(dataset, {**model, "head": {"kind": "ziln"}}, "training.epochs=2", "training.evals_per_epoch=1")
    outcome, session, learner = run_loop(job)
    assert outcome.best_metrics["norm_gini"] > 0.1
    assert {"norm_gini_slice_100_to_999", "spearman", "pay_auc", "total_error"} <= outcome.best_metrics.keys()
    last = [record for record in session.records if record["kind"] == "train"][-1]
    assert {"model/internal_loss", "model/external_loss"} <= last.keys()
    columns: list[set[str]] = []
    streams = scoring_spec(job, load_contract(job.data.path), "external", "test", ())

    def keep(batch: Batch, found: dict[str, torch.Tensor]) -> None:
        columns.append(set(found))

    assert np.isfinite(evaluate(job, learner, local_micro_batches(streams), keep)["norm_gini"])
    assert columns[0] == {"ltv", "pay"}


def test_without_source_rows_it_is_the_internal_baseline(dataset: str) -> None:
    outcome, _, _ = run_loop(job_for(dataset, MIX, "data.source_batch_size=0", "training.epochs=1"))
    assert set(outcome.rows_trained) == {"internal"}
    assert np.isfinite(outcome.best_metrics["norm_gini"])


def test_clicks_are_trained_and_scored_as_clicks(tmp_path: Path) -> None:
    build_dataset(tmp_path, num_users=40, num_items=20)
    for model in (PRETRAIN, CDAF):
        outcome, _, _ = run_loop(job_for(str(tmp_path), {**model, "head": {"kind": "click"}}, "training.epochs=1"))
        assert 0 < outcome.best_metrics["auc"] < 1


@pytest.mark.parametrize("model", [PRETRAIN, CDAF], ids=["pretrain", "cdaf"])
def test_pretraining_needs_external_rows(model: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="pre-trains on external rows") as found:
        job_for("nowhere", model, "data.source_batch_size=0")
    assert_three_parts(found.value)


@pytest.mark.parametrize("model", [PRETRAIN, CDAF], ids=["pretrain", "cdaf"])
def test_the_best_model_is_none_of_pretraining(dataset: str, model: dict[str, Any]) -> None:
    """Nor do its evaluations use up the patience: 15 steps an epoch, 15 evaluations, 2 of which may be no better."""
    stopping = ("training.evals_per_epoch=15", "training.epochs=1", "training.early_stopping.patience=2")
    outcome, session, _ = run_loop(job_for(dataset, {**model, "pretrain_steps": 11}, *stopping))
    assert outcome.num_steps > 12
    assert outcome.best_step > 11
    found = [record["best"] for record in session.records if record["kind"] == "valid"]
    assert not any(found[:11])
    assert found[11]


def test_pretraining_has_to_leave_steps(dataset: str) -> None:
    job = job_for(dataset, {**PRETRAIN, "pretrain_steps": 60})
    with pytest.raises(ConfigError, match=r"model\.pretrain_steps=60 of 60 steps") as found:
        batches_of(job, 1)
    assert_three_parts(found.value)
