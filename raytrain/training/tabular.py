"""A run of a plain baseline: read everything, build as-of columns, fit on training rows, score any split.

In memory, on the driver; same rows, splits, histories, metrics and result as a streamed run.
"""

import io
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.data.asof.features import Features, Known, build_features, bytes_per_row, item_and_label
from raytrain.data.contract import Contract
from raytrain.data.frame import Frame, check_memory, concat_frames, read_events, read_frame
from raytrain.data.manifest import check_labels, read_manifest
from raytrain.data.provenance import FRAGMENT, ROW
from raytrain.errors import DataError
from raytrain.metrics.suite import MetricSuite
from raytrain.model_config import ItemMeanModel, LightGbmModel, LogisticModel
from raytrain.models.baselines.tabular import TABULAR_MODELS, Fitted
from raytrain.storage import Storage
from raytrain.training.engine import Records
from raytrain.training.process import peak_rss_mib, quieten
from raytrain.training.progress import describe

MODEL_DIRECTORY = "checkpoints/model"
Splits = dict[tuple[str, str], Frame]
"""(domain, split) -> its rows"""


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


@dataclass(frozen=True)
class TabularRun:
    """What ``train_tabular`` leaves."""

    fitted: Fitted
    valid: dict[str, float]
    """Metrics of the target domain's validation split."""
    num_rows: int
    """Training rows the model was fitted on."""
    num_quarantined: int
    """Bad training rows, left out."""
    fit_s: float
    """Seconds for reading, columns and fitting."""


def train_tabular(job: JobConfig, contract: Contract) -> TabularRun:
    """Fits ``job.model`` on the target domain's training split; as-of features of the data set are left out for its own columns.

    Raises:
        ContractError, DataError: the data set is broken, or more than ``data.max_quarantine_share`` of a split's rows are bad.
        ResourceError: it needs more than ``model.max_memory_mib``.
    """
    started = time.perf_counter()
    contract = contract.without_as_of()
    model, target = TABULAR_MODELS[job.model.name], contract.target
    asked = [(target, "train"), (target, "valid")]
    splits = _read(job, contract, asked)
    for key in asked:
        check_labels(contract, job.data.path, *key)
    train_rows, valid_rows = (splits[key] for key in asked)
    both = _features(job, contract, splits, concat_frames([train_rows, valid_rows]))
    train, valid = both.rows(slice(0, train_rows.num_rows)), both.rows(slice(train_rows.num_rows, None))
    fitted = model.fit(job.model, train, valid, job.seed)
    fit_s = time.perf_counter() - started
    metrics = _metrics(contract, valid_rows, fitted.predict(valid))
    return TabularRun(fitted, metrics, train_rows.num_rows, train_rows.num_quarantined, fit_s)


def score_tabular(job: JobConfig, contract: Contract, fitted: Fitted, split: str, domain: str) -> tuple[dict[str, float], pa.Table]:
    """Metrics and predictions of the good rows of a split.

    Returns:
        Metrics as ``MetricSuite.reduce`` names them, and a table of N rows in the order of the files: fragment, row (int32),
        group, time (int64), label, prediction (float32).

    Raises:
        ContractError, DataError, ResourceError: as ``train_tabular``.
    """
    contract = contract.without_as_of()
    splits = _read(job, contract, [(domain, split)])
    check_labels(contract, job.data.path, domain, split)
    rows = splits[domain, split]
    prediction = fitted.predict(_features(job, contract, splits, rows))
    table = {
        "fragment": rows.column(FRAGMENT).astype(np.int32),
        "row": rows.column(ROW).astype(np.int32),
        "group": rows.column(contract.group).astype(np.int64),
        "time": rows.column(contract.time).astype(np.int64),
        "label": rows.column(contract.label).astype(np.float32),
        "prediction": prediction,
    }
    return _metrics(contract, rows, prediction), pa.table(table)


def _read(job: JobConfig, contract: Contract, asked: list[tuple[str, str]]) -> Splits:
    """The splits asked for; for a model that uses the past, all others too."""
    assert isinstance(job.model, ItemMeanModel | LogisticModel | LightGbmModel), job.model
    uses_past = TABULAR_MODELS[job.model.name].uses_past
    others = [(name, split) for name, domain in contract.domains.items() for split in domain.splits] if uses_past else []
    manifests = {key: read_manifest(contract, job.data.path, *key) for key in dict.fromkeys([*asked, *others])}
    num_rows = sum(int(manifest.num_rows.sum()) for manifest in manifests.values())
    histories = [domain.history.num_events for domain in contract.domains.values() if domain.history is not None]
    row_bytes = bytes_per_row([feature.max_values for feature in contract.features], len(contract.domains), uses_past)
    check_memory(num_rows + (sum(histories) if uses_past else 0), row_bytes, job.model.max_memory_mib)
    splits = {key: read_frame(contract, job.data.path, manifest) for key, manifest in manifests.items()}
    for (domain, split), rows in splits.items():
        share = rows.num_quarantined / (rows.num_quarantined + rows.num_rows)
        if share > job.data.max_quarantine_share:
            raise DataError(
                f"At most data.max_quarantine_share={job.data.max_quarantine_share} of the rows of domain {domain} may be bad. "
                f"Received: {rows.num_quarantined} bad rows in split {split}, a share of {share:.4f}. "
                "Prepare the data set again or raise the share."
            )
    return splits


def _features(job: JobConfig, contract: Contract, splits: Splits, rows: Frame) -> Features:
    assert isinstance(job.model, ItemMeanModel | LogisticModel | LightGbmModel), job.model
    if not TABULAR_MODELS[job.model.name].uses_past:
        return item_and_label(contract, rows)
    samples = concat_frames(list(splits.values()))
    domain = np.concatenate([np.full(frame.num_rows, name) for (name, _), frame in splits.items()])
    users = np.unique(samples.column(contract.user)).astype(np.int64)
    histories = {
        name: read_events(contract, job.data.path, name, users)
        for name, described in contract.domains.items()
        if described.history is not None
    }
    return build_features(contract, Known(samples, domain, histories), rows, job.model.prior_rows)


def _metrics(contract: Contract, rows: Frame, prediction: npt.NDArray[np.float32]) -> dict[str, float]:
    suite = MetricSuite()
    label = torch.from_numpy(rows.column(contract.label).astype(np.float32))
    group = torch.from_numpy(rows.column(contract.group).astype(np.int64))
    suite.update(torch.from_numpy(prediction), label, group, torch.ones_like(label))
    return suite.reduce()


def _write(storage: Storage, name: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(name, buffer.getvalue())
