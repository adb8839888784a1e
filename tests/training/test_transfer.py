"""ADSNet through the loop without Ray: who learns from what, and what a checkpoint has to hold."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raytrain.config import JobConfig, load_config
from raytrain.data.batch import Batch
from raytrain.data.contract import load_contract
from raytrain.data.micro_batches import joined, local_micro_batches, rank_micro_batches
from raytrain.data.planted_ltv import PlantedLtvSpec, generate_planted_ltv
from raytrain.data.prepare.output import write_vocabulary
from raytrain.errors import ConfigError, ContractError
from raytrain.models.declared import declared_histories
from raytrain.settings import with_overrides
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_checkpoint, save_checkpoint
from raytrain.training.label_facts import facts_of_run, read_facts, save_facts
from raytrain.training.loop import Learner, Schedule, build_learner, evaluate, train, train_step
from raytrain.training.parallel import World
from raytrain.training.specs import probe_spec, scoring_spec, training_specs
from raytrain.training.state import RunState
from raytrain.training.transfer import TRANSFER_FILE, load_transfer_file, transfer_file
from tests.data.build import build_dataset
from tests.distributed.ranks import run_ranks
from tests.messages import assert_three_parts
from tests.training.test_loop import ListSession

SPEC = PlantedLtvSpec(num_rows=900, volume=4.0, num_probe_rows=128, num_eval_rows=400, num_slices=8, num_items=12, num_ids=7, seed=3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("transfer") / "data")
    generate_planted_ltv(SPEC, path, lambda line: None, num_buckets=2, row_group_rows=256)
    return path


def job_for(path: str, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 60, "source_batch_size": 120, "window_batches": 8},
        "model": {
            "name": "adsnet",
            "backbone": {"expert_units": [16, 8], "tower_units": [8]},
            "warmup_steps": 4,
            "align": {"every_steps": 5},
            "gain": {"min_rows": 5, "tau_steps": 2},
        },
        "tables": {"backend": "local", "dim": 4, "lr": 0.05},
        "optimizer": {"lr": 0.01},
        "training": {"epochs": 4, "log_every_steps": 5, "early_stopping": {"patience": None}},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def batches_of(job: JobConfig, num_steps: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
    """This rank's part of the first global batches."""
    streams = [rank_micro_batches(spec, rank, world_size) for spec in training_specs(job, load_contract(job.data.path), (), "")]
    return [batch for batch, _ in zip(joined(streams), range(num_steps), strict=False)]


def learner_of(job: JobConfig, world: World | None = None, seed: int = 0) -> Learner:
    """``seed``: of the initial weights alone."""
    world, contract = world or World(), load_contract(job.data.path)
    spec = probe_spec(job, contract, None)
    probe = list(rank_micro_batches(spec, world.rank, world.size)) if spec else []
    return build_learner(job.model_copy(update={"seed": seed}), contract, world, probe=probe)


def internal_rows(batch: Batch) -> Batch:
    """The batch as it would be without external rows; internal ones come first."""
    kept = int((batch.domain == 0).sum())
    names = ("label", "weight", "group", "time", "domain", "slice")
    parts = {name: getattr(batch, name)[:kept] for name in names}
    columns = {name: {key: value[:kept] for key, value in getattr(batch, name).items()} for name in ("ids", "dense")}
    return replace(batch, **parts, **columns)


def vanilla_state(learner: Learner) -> dict[str, torch.Tensor]:
    """Everything that the vanilla network is, as bits."""
    network = {name: value for name, value in learner.network.state_dict().items() if name.startswith("vanilla.")}
    tables = {
        name: value.local_shards()[0].tensor if hasattr(value, "local_shards") else value
        for state in (learner.tables.state_dict(), learner.tables.optimizer_state_dict())
        for name, value in state.items()
        if name.startswith("vanilla/")
    }
    return {name: value.detach().clone() for name, value in (network | tables).items()}


@pytest.mark.parametrize(("backend", "estimator"), [("local", "ledger"), ("sharded", "ledger"), ("local", "siamese"), ("local", "none")])
def test_external_rows_leave_the_vanilla_network_as_it_is_to_the_bit(dataset: str, backend: str, estimator: str) -> None:
    changes = ("model.align.every_steps=1000", f"tables.backend={backend}", f"model.gain.estimator={estimator}")
    job = job_for(dataset, "model.backbone.dropout=0.1", "model.bridge.measured_on=both", "optimizer.clip_norm=0.05", *changes)
    world = World.alone() if backend == "sharded" else World()
    batches, found = batches_of(job, 12), []
    for alone in (True, False):
        learner = learner_of(job, world)
        for step, batch in enumerate(batches):
            train_step(job, learner, internal_rows(batch) if alone else batch, step, 100)
        found.append((vanilla_state(learner), {name: value.clone() for name, value in learner.network.state_dict().items()}))
    (without, network_without), (beside, network_beside) = found
    assert without.keys() == beside.keys()
    assert all(torch.equal(without[name], value) for name, value in beside.items())
    gain = [name for name in network_without if name.startswith("gain.") and "weight" in name]
    assert not all(torch.equal(network_without[name], network_beside[name]) for name in gain)


@pytest.mark.parametrize(
    ("saved_after", "overrides"),
    [
        pytest.param(2, (), id="in warmup"),
        pytest.param(4, (), id="before the first joint step"),
        pytest.param(7, (), id="in the joint stage"),
        pytest.param(11, ("model.align.direction=average",), id="between alignments"),
        pytest.param(9, ("model.align.direction=none", "model.align.l2_sp_weight=0.1"), id="with a pull"),
        pytest.param(7, ("model.gain.estimator=siamese",), id="with a probe"),
        pytest.param(9, ("model.gain.refresh_steps=1",), id="with held-out rows at every step"),
    ],
)
def test_a_run_that_goes_on_repeats_its_losses(dataset: str, tmp_path: Path, saved_after: int, overrides: tuple[str, ...]) -> None:
    job, num_steps = job_for(dataset, *overrides), 16
    batches, directory = batches_of(job, num_steps), str(tmp_path / "checkpoint")
    learner, undisturbed = learner_of(job), []
    for step, batch in enumerate(batches):
        if step == saved_after:
            save_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
            kept = transfer_file(learner.transfer)[TRANSFER_FILE]
        undisturbed.append(train_step(job, learner, batch, step, num_steps).item())
    # Other initial weights: only the checkpoint can make the losses equal.
    again = learner_of(job, seed=9)
    load_checkpoint(Storage(directory), again.tables, again.network, again.optimizer)
    load_transfer_file(again.transfer, kept, torch.device("cpu"))
    losses = [train_step(job, again, batches[step], step, num_steps).item() for step in range(saved_after, num_steps)]
    assert losses == undisturbed[saved_after:]


def steps_of_rank(path: str) -> tuple[list[float], list[float], list[float]]:
    """Losses of 10 steps, the ledger's gains, and the distance of the two networks."""
    world, pulled = World.current(), "model.align.l2_sp_weight=0.05"
    # SGD, which does not divide by a gradient's own size: where that is rounding's, others take a whole step one way or the other.
    optimizers = ("tables.optimizer=sgd", "optimizer.name=sgd")
    often = "model.gain.refresh_steps=1"
    job = job_for(path, "tables.backend=sharded", *optimizers, often, "model.align.every_steps=4", pulled)
    learner, losses, drifts = learner_of(job, world), [], []
    for step, batch in enumerate(batches_of(job, 10, world.rank, world.size)):
        losses.append(world.sum(train_step(job, learner, batch, step, 10).clone()).item())
        network: Any = learner.network.module if world.size > 1 else learner.network
        drifts.append(network.drift().item())
    [record] = learner.transfer.records(10)
    assert None not in record["surprise"]
    return losses, record["gain"] + record["surprise"] + record["volume"] + record["accepted"], drifts


def test_two_ranks_are_one_in_losses_ledger_and_alignment(dataset: str) -> None:
    [one] = run_ranks(steps_of_rank, 1, dataset)
    for other in run_ranks(steps_of_rank, 2, dataset):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_allclose(theirs, mine, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("direction", "moved"), [("g2v", "vanilla"), ("v2g", "gain"), ("average", "both"), ("none", "neither")])
def test_alignment_moves_networks_and_tables_together(dataset: str, direction: str, moved: str) -> None:
    job = job_for(dataset, f"model.align.direction={direction}")
    learner = learner_of(job)
    for step, batch in enumerate(batches_of(job, 9)):
        train_step(job, learner, batch, step, 100)

    def tensors() -> dict[str, torch.Tensor]:
        network = {name: value.detach() for name, value in learner.network.named_parameters()}
        return {name: value.clone() for name, value in (network | learner.tables.state_dict()).items()}

    before = tensors()
    learner.transfer.before_step(9)
    after = tensors()
    for vanilla in [name for name in before if name.startswith("vanilla")]:
        gain = vanilla.replace("vanilla", "gain", 1)
        expected = {
            "vanilla": (before[gain], before[gain]),
            "gain": (before[vanilla], before[vanilla]),
            "both": 2 * ((before[vanilla] + before[gain]) / 2,),
            "neither": (before[vanilla], before[gain]),
        }[moved]
        torch.testing.assert_close((after[vanilla], after[gain]), expected)


def test_a_pull_moves_the_gain_network_alone_by_its_distance_from_the_other(dataset: str) -> None:
    learner = learner_of(job_for(dataset))
    pair = learner.network
    with torch.no_grad():
        for parameter in pair.gain.parameters():
            parameter.add_(0.25)
    pull = pair.pull()
    pull.backward()
    num = sum(parameter.numel() for parameter in pair.gain.parameters())
    assert pull.item() == pytest.approx(num * 0.25**2 / 2, rel=1e-5)
    for parameter in pair.gain.parameters():
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 0.25))
    assert all(parameter.grad is None for parameter in pair.vanilla.parameters())


def test_a_pull_keeps_the_networks_together_and_the_vanilla_one_to_itself(dataset: str) -> None:
    drifts, states = [], []
    for weight in (0.0, 50.0):
        job = job_for(dataset, "model.align.direction=none", f"model.align.l2_sp_weight={weight}", "optimizer.name=sgd")
        learner = learner_of(job)
        for step, batch in enumerate(batches_of(job, 12)):
            train_step(job, learner, batch, step, 100)
        drifts.append(float(learner.network.drift()))
        states.append(vanilla_state(learner))
    assert drifts[1] < 0.5 * drifts[0]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def run_loop(job: JobConfig) -> tuple[Any, ListSession, Learner]:
    contract = load_contract(job.data.path)
    streams = training_specs(job, contract, (), "")
    valid = scoring_spec(job, contract, contract.target, "valid", ())
    learner, session = learner_of(job), ListSession()
    outcome = train(
        job,
        learner,
        joined([local_micro_batches(spec) for spec in streams]),
        lambda: local_micro_batches(valid),
        Schedule(streams[0].plan.num_batches, streams[0].total_batches),
        RunState(job, {spec.domain: spec.manifest for spec in streams}, World()),
        session,
    )
    return outcome, session, learner


def test_slices_that_harm_end_up_below_those_that_help(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    spec = SPEC.model_copy(update={"num_rows": 1500, "neutral_share": 0.0})
    generate_planted_ltv(spec, path, lambda line: None, num_buckets=2, row_group_rows=256)
    write_vocabulary(Storage(path), "slice", pa.array([f"shop {number}" for number in range(1, 9)]))
    changes = (
        "model.warmup_steps=20",
        "model.align.direction=none",
        "model.gain.tau=-0.05",
        "model.gain.tau_steps=20",
        "data.source_batch_size=240",
    )
    job = job_for(path, "training.epochs=4", "training.evals_per_epoch=1", *changes)
    outcome, session, learner = run_loop(job)
    assert outcome.best_metrics["norm_gini"] == max(
        record["norm_gini"] for record in session.records if record["kind"] == "valid" and record["step"] > 20 + 10
    ), "none before the ledger judges by tau"
    truth = pq.read_table(f"{path}/truth.parquet").select(["slice", "slice_role"]).to_pandas().drop_duplicates()
    harmful = set(truth.loc[truth["slice_role"] == "harmful", "slice"])
    last = [record for record in session.records if record["kind"] == "gain"][-1]
    gains = dict(zip(last["slice"], last["gain"], strict=True))
    bad, good = ([gain for number, gain in gains.items() if (number in harmful) == wanted] for wanted in (True, False))
    assert len(bad) == len(good) == 4
    assert np.mean(bad) < np.mean(good)
    assert 0 < last["accepted_share"] < 1
    assert sum(last["volume"]) == outcome.rows_trained["external"] - 20 * 240
    barred = {number: last["surprise"][place] for place, number in enumerate(last["slice"]) if last["barred"][place]}
    [warning] = [record["text"] for record in session.records if record["kind"] == "warning" and "hurt" in record["text"]]
    worst = min(gains.keys() - barred.keys(), key=lambda number: gains[number])
    assert f": shop {worst} ({gains[worst]:+.2f})" in warning, "worst first, by name"
    [warning] = [record["text"] for record in session.records if record["kind"] == "warning" and "whatever their gain" in record["text"]]
    worst = max(barred, key=lambda number: barred[number])
    assert set(barred) <= harmful
    assert last["num_barred"] == len(barred) > 0
    assert f"{len(barred)} of 8 slices" in warning
    assert f": shop {worst} ({barred[worst]:+.2f})" in warning
    assert "raise model.gain.max_surprise" in warning
    assert last["num_hurting"] == sum(gains[number] < last["harm_threshold"] for number in gains.keys() - barred.keys())
    assert 2 * -0.05 <= last["harm_threshold"] == last["threshold"] < last["entry_threshold"]
    spec_of_test = scoring_spec(job, load_contract(path), "internal", "test", ())
    kept: list[set[str]] = []
    metrics = evaluate(job, learner, local_micro_batches(spec_of_test), lambda batch, columns: kept.append(set(columns)))
    assert 0 < metrics["norm_gini"] < 1
    assert np.isfinite(metrics["vanilla_norm_gini"])
    assert {"norm_gini_slice_100_to_999", "spearman", "pay_auc", "total_error"} <= metrics.keys()
    assert kept[0] == {"ltv", "pay"}


def test_clicks_are_trained_and_scored_as_clicks(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    build_dataset(path, num_users=40, num_items=20)
    outcome, _, _ = run_loop(job_for(path, "model.head.kind=click", "training.epochs=1", "model.gain.reference=zero"))
    assert 0 < outcome.best_metrics["auc"] < 1
    assert 0 < outcome.best_metrics["vanilla_auc"] < 1


def test_thresholds_come_from_internal_training_labels_and_stay_with_the_run(dataset: str, tmp_path: Path) -> None:
    job, contract = job_for(dataset), load_contract(dataset)
    facts = read_facts(job, contract)
    assert facts is not None
    files = (Path(dataset) / "samples/internal/train").glob("bucket*.parquet")
    rows = pq.read_table(sorted(files)).to_pandas()
    assert facts.stats.mean_paid == pytest.approx(rows.loc[rows["label"] > 0, "label"].mean())
    assert facts.slice_rows == rows["slice"].value_counts().to_dict()
    run = Storage(str(tmp_path / "run"))
    changed = facts.model_copy(update={"slice_rows": {1: 5}})
    save_facts(run, changed)
    save_facts(run, facts)
    assert facts_of_run(run, job, contract) == changed


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("training.early_stopping.metric=auc",), ConfigError, r"of amounts, which adsnet predicts\. Received: auc"),
        (("model.head.kind=click", "training.early_stopping.metric=spearman"), ConfigError, r"of clicks.* Received: spearman"),
        (("model.head.kind=click",), ContractError, r"which are amounts in XTS\. Received: click"),
    ],
    ids=["click metric", "amount metric", "click head"],
)
def test_labels_heads_and_metrics_have_to_agree(dataset: str, overrides: tuple[str, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as found:
        declared_histories(job_for(dataset, *overrides), load_contract(dataset))
    assert_three_parts(str(found.value).removeprefix("test: "))


@pytest.mark.parametrize("name", ["planted_ltv", "online_retail"])
def test_the_committed_configs_are_of_amounts(name: str) -> None:
    job = load_config(f"pipelines/configs/{name}_adsnet.yaml")
    assert job.model.name == "adsnet"
    assert job.training.early_stopping.metric in ("norm_gini", "spearman")


def test_held_out_gain_needs_held_out_rows(dataset: str) -> None:
    contract = load_contract(dataset)
    internal = contract.domains["internal"]
    without = internal.model_copy(update={"splits": {name: split for name, split in internal.splits.items() if name != "probe"}})
    contract = contract.model_copy(update={"domains": {**contract.domains, "internal": without}})
    assert declared_histories(job_for(dataset, "model.gain.reference=zero"), contract) == ()
    for overrides in ((), ("model.gain.probe=held_out", "model.gain.reference=zero"), ("model.gain.estimator=siamese",)):
        with pytest.raises(ContractError, match=r"have to be a split probe of domain internal"):
            declared_histories(job_for(dataset, *overrides), contract)


def test_models_of_amounts_stop_by_gini_unless_told_otherwise(dataset: str) -> None:
    assert job_for(dataset).training.early_stopping.metric == "norm_gini"
    assert job_for(dataset, "training.early_stopping.metric=spearman").training.early_stopping.metric == "spearman"
    assert job_for(dataset, "model.head.kind=click").training.early_stopping.metric == "auc"
