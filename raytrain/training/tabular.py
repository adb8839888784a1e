"""A run of a plain baseline: read everything, fit on training rows, score any split.

In memory, on the driver; same rows, splits, histories, metrics and result as a streamed run.
"""

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console

from raytrain.config import AMOUNT_MODELS, JobConfig, predicts_amounts
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.data.frame import Frame
from raytrain.data.manifest import check_labels
from raytrain.data.provenance import FRAGMENT, ROW
from raytrain.errors import ContractError
from raytrain.models.baselines.tabular import TABULAR_MODELS, Fitted
from raytrain.storage import Storage
from raytrain.training.engine import Records
from raytrain.training.label_facts import LabelFacts, facts_of_run, read_facts, save_facts
from raytrain.training.process import peak_rss_mib, quieten
from raytrain.training.progress import describe
from raytrain.training.suites import suite_of
from raytrain.training.tabular_rows import read_splits, reader_of

MODEL_DIRECTORY = "checkpoints/model"


def train_tabular_run(storage: Storage, job: JobConfig, contract: Contract, console: Console) -> tuple[dict[str, Any], Records]:
    """Fits, saves, and scores the test split; returns the result's public keys and every record."""
    quieten()
    target = contract.target
    facts = facts_of_run(storage, job, contract)
    save_facts(storage, facts)
    fit = train_tabular(job, contract, facts)
    for name, data in fit.fitted.save().items():
        storage.write_bytes(f"{MODEL_DIRECTORY}/{name}", data)
    metrics, predictions = score_tabular(job, contract, fit.fitted, "test", target, facts)
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
        "rows_trained": fit.num_rows,
        "rows_expected": {domain: contract.domains[domain].splits["train"].num_rows for domain in fit.num_rows},
        "rows_quarantined": fit.num_quarantined,
        "train_samples_per_s": sum(fit.num_rows.values()) / fit.fit_s,
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
    metrics, predictions = score_tabular(job, contract, fitted, split, domain, facts_of_run(storage, job, contract))
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
    num_rows: dict[str, int]
    """Domain -> training rows the model was fitted on."""
    num_quarantined: dict[str, int]
    """Domain -> bad training rows, left out."""
    fit_s: float
    """Seconds for reading, columns and fitting."""


def train_tabular(job: JobConfig, contract: Contract, facts: LabelFacts | None = None) -> TabularRun:
    """Fits ``job.model`` on training rows, the target's unless its section says otherwise; as-of features of the data set are left out.

    Args:
        facts: of the training labels, where these are amounts; None reads them from the data set.

    Raises:
        ContractError, DataError: the data set is broken or of other labels than the model, or more than
            ``data.max_quarantine_share`` of a split's rows are bad.
        ResourceError: it needs more than ``model.max_memory_mib``.
    """
    started = time.perf_counter()
    refuse_other_labels(job, contract)
    contract = contract.without_as_of()
    target, reader = contract.target, reader_of(job)
    asked = [(target, "train"), (target, "valid")]
    splits = read_splits(job, contract, asked, fitting=True)
    for key in asked:
        check_labels(contract, job.data.path, *key)
    train, valid = reader.training(job, contract, splits)
    fitted = TABULAR_MODELS[job.model.name].fit(job.model, train, valid, job.seed)
    fit_s = time.perf_counter() - started
    metrics, _ = _measure(contract, facts or read_facts(job, contract), splits[target, "valid"], fitted.predict(valid))
    used = {domain: splits[domain, "train"] for domain in reader.fitted_on(job, contract)}
    num_rows = {domain: rows.num_rows for domain, rows in used.items()}
    return TabularRun(fitted, metrics, num_rows, {domain: rows.num_quarantined for domain, rows in used.items()}, fit_s)


def score_tabular(
    job: JobConfig, contract: Contract, fitted: Fitted, split: str, domain: str, facts: LabelFacts | None = None
) -> tuple[dict[str, float], pa.Table]:
    """Metrics and predictions of the good rows of a split; ``facts`` as of ``train_tabular``.

    Returns:
        Metrics as ``MetricSuite.reduce`` or ``LtvSuite.reduce`` names them, and a table of N rows in the order of the files:
        fragment, row (int32), group, time (int64), label, prediction (of amounts: ltv, pay; float32).

    Raises:
        ContractError, DataError, ResourceError: as ``train_tabular``.
    """
    refuse_other_labels(job, contract)
    contract = contract.without_as_of()
    splits = read_splits(job, contract, [(domain, split)], fitting=False)
    check_labels(contract, job.data.path, domain, split)
    rows = splits[domain, split]
    predictions = fitted.predict(reader_of(job).scoring(job, contract, splits, (domain, split)))
    metrics, columns = _measure(contract, facts or read_facts(job, contract), rows, predictions)
    table = {
        "fragment": rows.column(FRAGMENT).astype(np.int32),
        "row": rows.column(ROW).astype(np.int32),
        "group": rows.column(contract.group).astype(np.int64),
        "time": rows.column(contract.time).astype(np.int64),
        "label": rows.column(contract.label).astype(np.float32),
        **columns,
    }
    return metrics, pa.table(table)


def refuse_other_labels(job: JobConfig, contract: Contract) -> None:
    """Raises ContractError where a model of clicks is asked for amounts, or one of amounts for clicks."""
    amounts = predicts_amounts(job.model.model_dump())
    if amounts == (contract.amount is not None):
        return
    if contract.amount is not None:
        required, received = "clicks, so labels have to be 0 or 1", f"amounts in {contract.amount.currency}"
        others = [name for name in TABULAR_MODELS if name in AMOUNT_MODELS]
    else:
        required, received = "amounts, so labels have to be some", "clicks"
        others = [name for name in TABULAR_MODELS if name not in AMOUNT_MODELS]
    raise ContractError(f"Model {job.model.name} predicts {required}. Received: {received}. Use one of: {', '.join(others)}, or a network.")


def _measure(
    contract: Contract, facts: LabelFacts | None, rows: Frame, predictions: Mapping[str, npt.NDArray[np.float32]]
) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float32]]]:
    """Metrics, and what a predictions file holds, as of a network's rows."""
    label = torch.from_numpy(rows.column(contract.label).astype(np.float32))
    nowhere = torch.zeros(rows.num_rows, dtype=torch.int64)
    batch = Batch(
        ids={},
        dense={},
        histories={},
        label=label,
        weight=torch.ones_like(label),
        group=torch.from_numpy(rows.column(contract.group).astype(np.int64)),
        time=nowhere,
        domain=nowhere,
        slice=torch.from_numpy(_slices(contract, rows)),
    )
    suite = suite_of(facts)
    columns = suite.update({name: torch.from_numpy(values) for name, values in predictions.items()}, batch)
    return suite.reduce(), {name: values.numpy() for name, values in columns.items()}


def _slices(contract: Contract, rows: Frame) -> npt.NDArray[np.int64]:
    """[N], as batches give them: 0 where nothing is sliced, or a slice was unseen in training."""
    if contract.slice is None:
        return np.zeros(rows.num_rows, np.int64)
    ids = rows.first_ids(contract.slice)
    return np.where(np.isin(ids, contract.unseen_slices), 0, ids)


def _write(storage: Storage, name: str, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    storage.write_bytes(name, buffer.getvalue())
