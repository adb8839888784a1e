"""The loop without Ray: what it trains, when it evaluates, when it stops."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raytrain.config import JobConfig
from raytrain.data.contract import load_contract
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.errors import DataError
from raytrain.models.registry import NEURAL_MODELS
from raytrain.settings import with_overrides
from raytrain.training.loop import Learner, Schedule, build_learner, evaluate, train, train_step
from raytrain.training.optimizers import lr_share
from raytrain.training.parallel import World
from raytrain.training.specs import scoring_spec, training_specs
from raytrain.training.state import RunState, TrainOutcome
from raytrain.training.stopping import EarlyStopping
from raytrain.training_config import EarlyStoppingSection, OptimizerSection
from tests.data.build import build_dataset


class ListSession:
    """Keeps what a run would log and save."""

    def __init__(self, last_step: int | None = None) -> None:
        """``last_step``: the evaluation after which nobody wants to go on."""
        self.records: list[dict[str, Any]] = []
        self.checkpoints: list[tuple[int, bool]] = []
        self._last_step = last_step

    def log(self, record: dict[str, Any]) -> None:
        self.records.append(record)

    def checkpoint(self, learner: Learner, step: int, metrics: dict[str, float], best: bool, files: dict[str, bytes]) -> None:
        self.checkpoints.append((step, best))

    def goes_on(self, step: int) -> bool:
        return step != self._last_step


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("loop") / "data")
    build_dataset(path, num_users=80, num_items=40, seed=1)
    return path


def job_for(path: str, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 64, "window_batches": 4, "history_length": 20},
        "model": {"name": "din", "hidden_units": [32]},
        "tables": {"backend": "local", "dim": 8, "lr": 0.1},
        "optimizer": {"lr": 0.01},
        "training": {"epochs": 4, "early_stopping": {"patience": None}},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def run_loop(job: JobConfig, last_step: int | None = None) -> tuple[TrainOutcome, ListSession, Learner]:
    contract = load_contract(job.data.path)
    histories = NEURAL_MODELS[job.model.name].histories(job.model, contract)
    streams = training_specs(job, contract, histories, f"{job.data.path}-quarantine")
    valid = scoring_spec(job, contract, contract.target, "valid", histories)
    learner, session = build_learner(job, contract, World()), ListSession(last_step)
    outcome = train(
        job,
        learner,
        joined([local_micro_batches(spec) for spec in streams]),
        lambda: local_micro_batches(valid),
        Schedule(streams[0].plan.num_batches, streams[0].total_batches),
        RunState(job, {spec.domain: spec.manifest for spec in streams}, World()),
        session,
    )
    assert outcome.rows_trained["target"] + outcome.rows_quarantined["target"] == streams[0].plan.num_rows_in(outcome.num_steps)
    return outcome, session, learner


def spoil_labels(folder: Path) -> None:
    """Makes every tenth label NaN."""
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file)
        labels = table.column("label").to_numpy().copy()
        labels[::10] = math.nan
        index = table.column_names.index("label")
        pq.write_table(table.set_column(index, "label", pa.array(labels)), file, row_group_size=64)


def one_row_a_user(folder: Path) -> None:
    """Gives every row a user of its own, so that no group holds both classes."""
    next_user = 1
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file)
        users = pa.array(range(next_user, next_user + table.num_rows), pa.int32())
        next_user += table.num_rows
        pq.write_table(table.set_column(table.column_names.index("user"), "user", users), file, row_group_size=64)


def test_it_learns_what_was_planted_in_the_histories(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    build_dataset(path, num_users=300, num_items=20, events_per_user=20, source_events_per_user=40)
    outcome, _, _ = run_loop(job_for(path))
    assert outcome.best_metrics["auc"] > 0.75


def test_every_epoch_evaluates_as_often_as_asked_and_marks_the_best(dataset: str) -> None:
    outcome, session, _ = run_loop(job_for(dataset, "training.epochs=2", "training.evals_per_epoch=3"))
    valid = [record for record in session.records if record["kind"] == "valid"]
    assert [step for step, _ in session.checkpoints] == [record["step"] for record in valid]
    assert len(valid) == 6
    assert valid[-1]["step"] == outcome.num_steps
    assert outcome.best_metrics["auc"] == max(record["auc"] for record in valid)
    assert [step for step, best in session.checkpoints if best][-1] == outcome.best_step


def test_training_stops_once_validation_stops_improving(dataset: str) -> None:
    overrides = ("training.epochs=50", "training.early_stopping.patience=2", "tables.lr=1.0", "optimizer.lr=0.05")
    outcome, session, _ = run_loop(job_for(dataset, *overrides))
    assert outcome.stopped_early
    assert [best for _, best in session.checkpoints[-2:]] == [False, False]


def test_source_rows_are_trained_beside_target_rows(dataset: str) -> None:
    outcome, _, _ = run_loop(job_for(dataset, "data.source_batch_size=32", "training.epochs=1"))
    assert outcome.rows_trained["source"] == outcome.num_steps * 32
    assert outcome.rows_trained["target"] == load_contract(dataset).domains["target"].splits["train"].num_rows


def test_max_steps_ends_a_run_inside_an_epoch(dataset: str) -> None:
    outcome, session, _ = run_loop(job_for(dataset, "training.max_steps=3"))
    assert outcome.num_steps == 3
    assert session.checkpoints == [(3, True)]


def test_too_many_bad_rows_stop_the_run_with_the_share(tmp_path: Path) -> None:
    build_dataset(tmp_path / "data", num_users=80, num_items=40)
    spoil_labels(tmp_path / "data/samples/target/train")
    with pytest.raises(DataError, match=r"max_quarantine_share=0.01.*Received: \d+ bad rows, a share of 0.09"):
        run_loop(job_for(str(tmp_path / "data")))
    outcome, _, _ = run_loop(job_for(str(tmp_path / "data"), "data.max_quarantine_share=0.2", "training.epochs=1"))
    assert outcome.rows_quarantined["target"] > 0


def test_a_validation_metric_that_is_never_defined_is_an_error(tmp_path: Path) -> None:
    path = str(tmp_path / "data")
    build_dataset(path, num_users=400, num_items=40, events_per_user=2)
    one_row_a_user(Path(path) / "samples/target/valid")
    with pytest.raises(DataError, match=r"metric=gauc has to be defined .* NaN at every evaluation"):
        run_loop(job_for(path, "training.early_stopping.metric=gauc", "training.max_steps=2", "data.history_length=1"))


def test_bad_rows_of_the_validation_split_are_not_left_out_silently(tmp_path: Path) -> None:
    build_dataset(tmp_path / "data", num_users=80, num_items=40)
    spoil_labels(tmp_path / "data/samples/target/valid")
    with pytest.raises(DataError, match=r"rows of domain target may be bad. Received: \d+ bad rows"):
        run_loop(job_for(str(tmp_path / "data")))
    _, session, _ = run_loop(job_for(str(tmp_path / "data"), "data.max_quarantine_share=0.5", "training.max_steps=2"))
    valid = next(record for record in session.records if record["kind"] == "valid")
    assert valid["num_quarantined"] > 0
    expected = load_contract(str(tmp_path / "data")).domains["target"].splits["valid"].num_rows
    assert valid["num_rows"] + valid["num_quarantined"] == expected


def test_patience_asks_for_min_delta_and_the_best_does_not() -> None:
    stopping = EarlyStopping(EarlyStoppingSection(metric="auc", patience=2, min_delta=0.01))
    assert [stopping.is_better({"auc": value}) for value in (0.70, 0.705, 0.708, math.nan)] == [True, True, True, False]
    assert stopping.is_over()
    falling = EarlyStopping(EarlyStoppingSection(metric="logloss", patience=1))
    assert [falling.is_better({"logloss": value}) for value in (0.7, 0.6, 0.65)] == [True, True, False]
    assert falling.is_over()


def test_rows_of_weight_zero_move_nothing(dataset: str) -> None:
    job = job_for(dataset, "optimizer.name=sgd")
    contract = load_contract(dataset)
    spec = scoring_spec(job, contract, "target", "valid", ("target", "source"))
    learner = build_learner(job, contract, World())
    batch = next(local_micro_batches(spec))
    before = [parameter.clone() for parameter in learner.network.parameters()]
    tables_before = {name: value.clone() for name, value in learner.tables.state_dict().items()}
    rejected = type(batch)(**{**batch.__dict__, "weight": torch.zeros_like(batch.weight)})
    train_step(job, learner, rejected, 0, 10)
    for old, new in zip(before, learner.network.parameters(), strict=True):
        assert torch.equal(old, new)
    for name, value in learner.tables.state_dict().items():
        assert torch.equal(tables_before[name], value)


def test_evaluation_scores_each_row_once_whatever_the_batch_size(dataset: str) -> None:
    contract = load_contract(dataset)
    metrics = []
    for batch_size in (64, 77):
        job = job_for(dataset, f"data.batch_size={batch_size}")
        learner = build_learner(job, contract, World())
        spec = scoring_spec(job, contract, "target", "test", ("target", "source"))
        metrics.append(evaluate(job, learner, local_micro_batches(spec)))
    assert metrics[0]["num_rows"] == contract.domains["target"].splits["test"].num_rows
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-6)


@pytest.mark.parametrize(
    ("overrides", "step", "share"),
    [
        ({"schedule": "constant"}, 50, 1.0),
        ({"schedule": "constant", "warmup_steps": 4}, 0, 0.25),
        ({"schedule": "constant", "warmup_steps": 4}, 3, 1.0),
        ({"schedule": "linear"}, 0, 1.0),
        ({"schedule": "linear"}, 75, 0.25),
        ({"schedule": "linear", "final_lr_share": 0.2}, 50, 0.6),
        ({"schedule": "cosine"}, 50, 0.5),
        ({"schedule": "linear", "warmup_steps": 20}, 60, 0.5),
    ],
    ids=str,
)
def test_learning_rate_follows_warmup_and_schedule(overrides: dict[str, Any], step: int, share: float) -> None:
    assert lr_share(OptimizerSection(**overrides), step, 100) == pytest.approx(share)
