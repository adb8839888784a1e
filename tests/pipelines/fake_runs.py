"""A prepared data set without samples, a study over it, and a train function that writes plausible run directories."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.data.contract import Amount, Contract, Domain, Split, Table, save_contract
from raytrain.metrics.suite import MetricSuite
from raytrain.storage import Storage

NUM_USERS, ROWS_PER_USER = 60, 20
SKILL = {"din": 2.0, "single_domain": 1.0, "logistic": 1.0, "item_mean": 0.0, "lightgbm": 1.5}
"""How much of the truth a model's score holds."""


def write_data(directory: Path, content_hash: str = "0123456789abcdef", amount: Amount | None = None) -> str:
    """A contract alone, of clicks or of amounts: a fake run reads no samples."""
    splits = {name: Split(path=f"samples/ads/{name}", num_rows=NUM_USERS * ROWS_PER_USER, num_positives=1) for name in ("train", "test")}
    contract = Contract(
        dataset="planted",
        content_hash=content_hash,
        num_buckets=1,
        amount=amount,
        tables={"item": Table(num_rows=2)},
        features=(),
        domains={"ads": Domain(role="target", splits=splits)},
    )
    save_contract(contract, str(directory / "data"))
    return str(directory / "data")


def write_study(directory: Path, **changes: Any) -> str:
    """Three arms, one of them deterministic; ``changes`` replace keys of the study."""
    study = {
        "name": "planted",
        "base": changes.get("base") or {"data": {"path": write_data(directory)}, "model": {"name": "din"}},
        "presets": {"quick": {"seeds": [0]}, "full": {"seeds": [0, 1, 2]}},
        "arms": {
            "din": {},
            "single": {"overrides": ["model={name: single_domain}"]},
            "mean": {"overrides": ["model={name: item_mean}"], "deterministic": True},
        },
        "comparisons": [["din", "single"], ["din", "mean"]],
        "num_resamples": 100,
        "work_dir": str(directory / "work"),
    }
    path = directory / "study.yaml"
    path.write_text(yaml.safe_dump(study | changes, sort_keys=False), encoding="utf-8")
    return str(path)


@dataclass
class FakeTrain:
    """Remembers what it ran; fails for the run names given."""

    fails: set[str] = field(default_factory=set)
    interrupts: set[str] = field(default_factory=set)
    ran: list[str] = field(default_factory=list)
    write: Callable[[Storage, JobConfig], dict[str, Any]] = lambda storage, job: write_run(storage, job)
    """Writes a run directory and returns its result."""

    def __call__(self, job: JobConfig, console: Console) -> dict[str, Any]:
        name = str(job.run.name)
        storage = Storage(f"{job.run.storage_path}/{name}")
        assert not storage.exists(), "a run name is used once"
        storage.write_text("config.yaml", yaml.safe_dump(job.model_dump(mode="json")))
        self.ran.append(name)
        if name in self.interrupts:
            raise KeyboardInterrupt
        if name in self.fails:
            raise RuntimeError("cannot reach s3://me:hunter2@bucket/x")
        return self.write(storage, job)


def write_run(storage: Storage, job: JobConfig) -> dict[str, Any]:
    """Predictions in shuffled order and two parts, and the result with the metrics of exactly these rows."""
    truth = np.random.default_rng(7)
    user = np.repeat(np.arange(NUM_USERS), ROWS_PER_USER)
    logit = truth.normal(size=len(user))
    label = (truth.random(len(user)) < 1 / (1 + np.exp(-2 * logit))).astype(np.float32)
    noise = np.random.default_rng(100 + job.seed).normal(size=len(user))
    score = SKILL[job.model.name] * logit + (0.0 if job.model.name == "item_mean" else 0.3 * noise)
    prediction = (1 / (1 + np.exp(-score))).astype(np.float32)
    table = pa.table(
        {
            "fragment": (np.arange(len(user)) // 500).astype(np.int32),
            "row": (np.arange(len(user)) % 500).astype(np.int32),
            "group": user,
            "time": user,
            "label": label,
            "prediction": prediction,
        }
    )
    write_predictions(storage, table, job.seed)
    return fake_result(job, _metrics(prediction, label, user))


def write_predictions(storage: Storage, table: pa.Table, seed: int) -> None:
    """Of the test split of "ads", shuffled."""
    table = table.take(np.random.default_rng(seed).permutation(table.num_rows))
    for part, rows in enumerate((table.slice(0, 300), table.slice(300))):
        buffer = io.BytesIO()
        pq.write_table(rows, buffer)
        storage.write_bytes(f"predictions/test/ads-part-{part:05d}.parquet", buffer.getvalue())


def fake_result(job: JobConfig, metrics: dict[str, float]) -> dict[str, Any]:
    return {
        "model": job.model.name,
        "dataset": "planted",
        "content_hash": "0123456789abcdef",
        "seed": job.seed,
        "world_size": 1,
        "rows_trained": {"ads": 1200},
        "rows_expected": {"ads": 1200},
        "rows_quarantined": {"ads": 0},
        "train_samples_per_s": 1000.0,
        "data_wait_share": 0.1,
        "peak_rss_mib": [512.0],
        "wall_s": 12.0,
        "valid": {},
        "test": {"ads": metrics},
        "model_logs": {},
    }


def _metrics(prediction: Any, label: Any, user: Any) -> dict[str, float]:
    import torch

    suite = MetricSuite()
    suite.update(torch.from_numpy(prediction), torch.from_numpy(label), torch.from_numpy(user), torch.ones(len(label)))
    return suite.reduce()
