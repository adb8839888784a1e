"""A run of a plain baseline: in memory, on the driver, same splits, same metrics, same result."""

import io
import time
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.models.baselines.tabular import TABULAR_MODELS, score_tabular, train_tabular
from raytrain.storage import Storage
from raytrain.training.engine import Records
from raytrain.training.process import peak_rss_mib, quieten
from raytrain.training.progress import describe

MODEL_DIRECTORY = "checkpoints/model"


def train_tabular_run(storage: Storage, job: JobConfig, contract: Contract, console: Console) -> tuple[dict[str, Any], Records]:
    """Fits, saves, and scores the test split; returns the result's public keys and every record."""
    quieten()
    target = contract.target
    fit = train_tabular(job, contract)
    for name, data in fit.fitted.save().items():
        storage.write_bytes(f"{MODEL_DIRECTORY}/{name}", data)
    metrics, predictions = score_tabular(job, contract, fit.fitted, "test", target)
    if job.run.save_predictions:
        _write(storage, f"predictions/test/{target}-part-00000-00000.parquet", predictions)
    record = {"kind": "test", "domain": target, "split": "test", **metrics}
    console.print(describe(record, 0.0), highlight=False)
    result = {
        "model": job.model.name,
        "dataset": contract.dataset,
        "content_hash": contract.content_hash,
        "seed": job.seed,
        "world_size": 1,
        "rows_trained": {target: fit.num_rows},
        "rows_expected": {target: contract.domains[target].splits["train"].num_rows},
        "rows_quarantined": {target: fit.num_quarantined},
        "train_samples_per_s": fit.num_rows / fit.fit_s,
        "data_wait_share": 0.0,
        "peak_rss_mib": [peak_rss_mib()],
        "valid": fit.valid,
        "test": {target: metrics},
        "model_logs": {},
    }
    return result, [record]


def score_tabular_run(
    storage: Storage, job: JobConfig, contract: Contract, domain: str, split: str, output: str | None, console: Console
) -> dict[str, dict[str, float]]:
    """Domain -> metrics of one split under the saved model."""
    started = time.perf_counter()
    names = [file.rpartition("/")[2] for file in storage.list_files(MODEL_DIRECTORY)]
    files = {name: storage.read_bytes(f"{MODEL_DIRECTORY}/{name}") for name in names}
    fitted = TABULAR_MODELS[job.model.name].load(files)
    metrics, predictions = score_tabular(job, contract, fitted, split, domain)
    if output is not None:
        _write(Storage(output), f"{domain}-part-00000-00000.parquet", predictions)
    console.print(describe({"kind": "test", "domain": domain, **metrics}, time.perf_counter() - started), highlight=False)
    return {domain: metrics}


def _write(storage: Storage, name: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(name, buffer.getvalue())
