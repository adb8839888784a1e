"""Exported vectors are those that the network computes for each row."""

from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from pipelines.export_vectors import export_vectors
from raytrain.config import JobConfig
from raytrain.data.days import contract_of
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import ConfigError, RunError
from raytrain.models.declared import declared_histories
from raytrain.run import read_result, train
from raytrain.settings import with_overrides
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_weights
from raytrain.training.commit import CHECKPOINTS
from raytrain.training.loop import build_learner
from raytrain.training.parallel import World
from raytrain.training.specs import training_specs
from raytrain.training.start import plan_start, read_snapshots
from tests.data.build import FIRST_DAY, build_dataset
from tests.training.test_start import job_for as base_job

SILENT = Console(quiet=True)
LOCAL = ("scaling.in_process=true", "scaling.threads_per_worker=1", "tables.backend=local", "run.tensorboard=false")


def job_for(path: str, runs: Path, name: str, first: int, stop: int, *overrides: str) -> JobConfig:
    """A run ``name`` on the days from ``first`` to ``stop``, left out."""
    model = "tpm" if name.startswith("tpm") else "ecdctr"
    job = base_job(path, model, *LOCAL, f"run.name={name}", f"run.storage_path={runs}", *overrides)
    days = {"start": str(FIRST_DAY + timedelta(days=first)), "stop": str(FIRST_DAY + timedelta(days=stop))}
    values = job.model_dump(mode="json")
    return JobConfig.parse(with_overrides(values, [f"data.days.train={days}"]), "test")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """The job of a finished run of ecdctr, which sees two snapshots of three months."""
    folder = tmp_path_factory.mktemp("export")
    path = str(folder / "data")
    build_dataset(path, num_users=60, num_items=40, num_days=8, by_day=True)
    for number in range(2):
        train(job_for(path, folder, f"tpm{number}", number, 2 + number), SILENT)
    snapshots = f"start.snapshots=[{folder}/tpm0, {folder}/tpm1]"
    job = job_for(path, folder, "served", 4, 8, snapshots, "model.months=3")
    train(job, SILENT)
    return job


def test_every_row_finds_the_vectors_that_its_network_would_compute(served: JobConfig, tmp_path: Path) -> None:
    run = f"{served.run.storage_path}/served"
    summary = export_vectors(run, str(tmp_path / "vectors"), SILENT)
    contract = contract_of(served.data)
    learner = build_learner(served, contract, World())
    load_weights(Storage(f"{run}/{CHECKPOINTS}/{read_result(run)['best_checkpoint']}"), learner.tables, learner.network)
    read_snapshots(plan_start(served, contract), contract, learner)
    learner.network.eval()
    (spec,) = training_specs(served, contract, declared_histories(served, contract), "")
    batch = next(iter(local_micro_batches(spec)))
    with torch.no_grad():
        parts = learner.network.more(learner.tables(batch), batch).split([16, 3, 16, 3], dim=1)
    for number, feature in enumerate(("user", "item")):
        rows = pq.read_table(tmp_path / "vectors" / f"{feature}-00000.parquet").to_pylist()
        of_id = {row["id"]: row for row in rows}
        assert len(of_id) == len(rows) == summary["features"][feature]["num_ids"] + 1
        found = [of_id.get(one, of_id[None]) for one in batch.ids[feature].tolist()]
        torch.testing.assert_close(torch.tensor([row["vector"] for row in found]), parts[2 * number])
        assert [row["months"] for row in found] == parts[2 * number + 1].sum(1).tolist()
        assert {row["months"] for row in rows} > {0}


def test_what_has_no_vectors_is_refused(served: JobConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model tpm with 0 snapshots"):
        export_vectors(f"{served.run.storage_path}/tpm0", str(tmp_path / "vectors"), SILENT)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(RunError, match="new or empty directory"):
        export_vectors(f"{served.run.storage_path}/served", str(tmp_path / "full"), SILENT)
