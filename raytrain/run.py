"""A run from config to report: check everything on the driver, train, write what came of it.

train(job)       contract -> streams -> Ray Train workers -> checkpoints, metrics.jsonl, result.json, report.html
evaluate(run)    the best checkpoint on any split, at any number of workers
predict(run)     the same, writing Parquet
"""

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import yaml
from rich.console import Console

from raytrain.config import CONFIG_FILE, JobConfig
from raytrain.data.contract import CONTRACT_FILE, Contract, Feature, load_contract, save_contract
from raytrain.data.days import contract_of
from raytrain.errors import ConfigError, RunError
from raytrain.footprint import refuse_over_ask
from raytrain.json_text import json_text
from raytrain.models.declared import DECLARED, declared_histories, declared_warning
from raytrain.settings import flat_keys, parse_yaml, with_overrides
from raytrain.storage import Storage
from raytrain.training.stopping import Watch

RESULT_FILE = "result.json"
SCORING_KEYS = ("data.path=", "data.days.", "data.batch_size=", "data.max_quarantine_share=", "data.cpus_per_read_task=", "scaling.")
# What may differ when a run goes on: where it runs and how it is watched, nothing that its figures depend on.
RESUME_KEYS = (
    "run",
    "scaling",
    "data.path",
    "data.prefetch_batches",
    "data.cpus_per_read_task",
    "data.max_quarantine_share",
    "training.checkpoint_every_steps",
    "training.checkpoint_upload",
    "training.storage_timeout_s",
    "training.keep_checkpoints",
    "training.keep_validation_mib",
    "training.log_every_steps",
)
Result = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run directory, open."""

    storage: Storage
    job: JobConfig
    contract: Contract


def clear_half_begun(job: JobConfig) -> bool:
    """Removes what a death between a run's first two files has left; returns whether there is a run of the name to go on with."""
    storage = Storage(Storage(job.run.storage_path).join(str(job.run.name)))
    whole = storage.exists(CONFIG_FILE) and storage.exists(CONTRACT_FILE)
    if storage.exists(CONFIG_FILE) and not whole:
        # Nothing has been trained.
        storage.delete_dir("")
    return whole


def train(
    job: JobConfig,
    console: Console,
    baselines: Mapping[str, Result] = MappingProxyType({}),
    resume: bool = False,
    watch: Watch | None = None,
) -> Result:
    """Trains, scores the test split with the best checkpoint, and writes the run directory.

    Args:
        baselines: run directory -> result, of other runs to stand beside this one in report.html.
        resume: goes on with the run of that name from its last checkpoint, at any number of workers; a finished run is
            left as it is.
        watch: takes the record of every evaluation and says whether training goes on; it may take its time. A watched run is one
            among which somebody chooses, so it scores no test split. Of networks alone: other models have one evaluation.

    Raises:
        RaytrainError: the config, data set, cluster or run name is not right; nothing has been started then.
    """
    started = time.perf_counter()
    run = _reopen(job) if resume else _name(job)
    if resume and run.storage.exists(RESULT_FILE):
        console.print(f"run {run.storage.uri} is finished", highlight=False)
        return read_result(run.storage.uri)
    if job.model.name in DECLARED:
        refuse_over_ask(run.job, run.contract)
        # Torch, TorchRec and Ray take seconds to load: what can be refused without them has been.
        from raytrain.training.neural import plan_neural, train_neural

        assignment = plan_neural(run.storage, run.job, run.contract, console, watch is not None)
        _create(run, console)
        result, records = train_neural(run.storage, assignment, console, watch)
    else:
        from raytrain.training.tabular import refuse_other_labels, train_tabular_run

        refuse_other_labels(run.job, run.contract)
        _create(run, console)
        result, records = train_tabular_run(run.storage, run.job, run.contract, console)
    result["wall_s"] = time.perf_counter() - started
    run.storage.write_text(RESULT_FILE, json_text(result))
    from raytrain.training.report import write_report

    read = declared_histories(run.job, run.contract) if job.model.name in DECLARED else ()
    events = {domain: history.num_events for domain in read if (history := run.contract.domains[domain].history) is not None}
    write_report(run.storage, result, records, baselines, events)
    console.print(f"wrote {run.storage.join(RESULT_FILE)} and {run.storage.join('report.html')}", highlight=False)
    return result


def evaluate(path: str, split: str, domain: str | None, overrides: tuple[str, ...], console: Console) -> dict[str, dict[str, float]]:
    """Scores every row of a split once with the run's best checkpoint; the figures do not depend on the number of workers.

    Returns:
        domain -> metric -> value.
    """
    return _score(path, split, domain, overrides, None, console)


def predict(
    path: str, split: str, domain: str | None, overrides: tuple[str, ...], output: str, console: Console
) -> dict[str, dict[str, float]]:
    """Writes Parquet files with columns fragment, row, group, time, label, prediction (of amounts: ltv, pay) into the directory ``output``.

    Raises:
        RunError: ``output`` holds files already.
    """
    if Storage(output).list_entries():
        raise RunError(f"--output has to be a new or empty directory. Received: {output}, which is not empty. Choose another.")
    # Absolute: a worker's directory is not the caller's.
    return _score(path, split, domain, overrides, Storage(output).uri, console)


def open_run(path: str, overrides: tuple[str, ...] = ()) -> Run:
    """Opens a finished run; overrides change how it is scored (SCORING_KEYS), never what was trained.

    Raises:
        ConfigError: an override of something else.
        RunError: there is no run, or it did not finish.
    """
    for override in overrides:
        if not override.strip().startswith(SCORING_KEYS):
            raise ConfigError(f"A finished run is scored as it was trained. Received: {override}. Override only {', '.join(SCORING_KEYS)}.")
    storage = _finished(path)
    values = parse_yaml(storage.read_text(CONFIG_FILE), storage.join(CONFIG_FILE))
    job = JobConfig.parse(with_overrides(values, overrides), storage.join(CONFIG_FILE))
    contract, trained = contract_of(job.data), load_contract(path)
    skipped = getattr(job.model, "skip_features", ())
    asked = {feature.name for feature in trained.features if feature.as_of and feature.name not in skipped}
    missing = asked - {feature.name for feature in contract.features}
    if missing and job.model.name in DECLARED:
        raise RunError(
            "A network scores data that carries the as-of features it was trained on. "
            f"Received: data.path={job.data.path}, without {len(missing)} of them, {min(missing)} for one. "
            "Prepare these rows with as_of, together with the events before them."
        )
    if (contract.tables, _columns(contract)) != (trained.tables, _columns(trained)):
        raise RunError(
            "A run scores data with the tables and features it was trained on. "
            f"Received: data.path={job.data.path}, whose {CONTRACT_FILE} differs from that of {path}. "
            "Prepare it with the same vocabularies."
        )
    # Numbers are scaled as they were in training: other rows have another mean.
    return Run(storage, job, contract.model_copy(update={"features": trained.features}))


def _columns(contract: Contract) -> list[Feature]:
    """What two data sets have to have in common besides as-of features: every feature but for its mean and std."""
    return [feature.model_copy(update={"mean": 0.0, "std": 1.0}) for feature in contract.without_as_of().features]


def read_result(path: str) -> Result:
    """The result of a finished run.

    Raises:
        RunError: there is none.
    """
    result: Result = json.loads(_finished(path).read_text(RESULT_FILE))
    return result


def _finished(path: str) -> Storage:
    storage = Storage(path)
    if not storage.exists(RESULT_FILE):
        raise RunError(f"A finished run has {RESULT_FILE}. Received: {path}, without one. Train it first, or check the path.")
    return storage


def _score(
    path: str, split: str, domain: str | None, overrides: tuple[str, ...], output: str | None, console: Console
) -> dict[str, dict[str, float]]:
    run = open_run(path, overrides)
    domain = domain or run.contract.target
    if run.job.model.name in DECLARED:
        refuse_over_ask(run.job, run.contract, training=False)
        from raytrain.training.neural import score_neural

        checkpoint = read_result(path)["best_checkpoint"]
        return score_neural(run.storage, run.job, run.contract, domain, split, checkpoint, output, console)
    from raytrain.training.tabular import score_tabular_run

    return score_tabular_run(run.storage, run.job, run.contract, domain, split, output, console)


def _name(job: JobConfig) -> Run:
    """A run that does not exist yet, with absolute paths: a worker's directory is not the caller's.

    Raises:
        RunError: the name is taken.
    """
    run = _at(job, job.run.name or f"{job.model.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    if run.storage.exists(CONFIG_FILE):
        raise RunError(
            f"A run name is used once. Received: run.name={run.job.run.name}, and {run.storage.join(CONFIG_FILE)} exists. "
            "Choose another name, leave it out to get a fresh one, add --resume to go on with that run, or delete its directory."
        )
    return run


def _reopen(job: JobConfig) -> Run:
    """A run that was begun with this config.

    Raises:
        RunError: there is none, or it was begun with another config.
    """
    if job.run.name is None:
        raise RunError("--resume needs the run's name. Received: run.name=null. Set run.name.")
    run = _at(job, job.run.name)
    if not run.storage.exists(CONFIG_FILE):
        raise RunError(
            f"--resume needs a run that was begun. Received: {run.storage.uri}, without {CONFIG_FILE}. "
            "Check run.name and run.storage_path, or leave --resume out to begin it."
        )
    if load_contract(run.storage.uri) != run.contract:
        raise RunError(
            f"A run goes on with the data it was begun with. Received: data.path={run.job.data.path}, whose {CONTRACT_FILE} differs "
            f"from that of {run.storage.uri}. Restore the data set, or start a new run."
        )
    begun, asked = (
        flat_keys(values) for values in (parse_yaml(run.storage.read_text(CONFIG_FILE), CONFIG_FILE), job.model_dump(mode="json"))
    )
    changed = [key for key in {**begun, **asked} if begun.get(key) != asked.get(key) and not _may_change(key)]
    if changed:
        listed = ", ".join(f"{key}={asked.get(key)} (begun with {begun.get(key)})" for key in sorted(changed))
        raise RunError(f"A run goes on as it was begun. Received: {listed}. Set these back, or start a new run.")
    return run


def _may_change(key: str) -> bool:
    return any(key == allowed or key.startswith(f"{allowed}.") for allowed in RESUME_KEYS)


def _at(job: JobConfig, name: str) -> Run:
    data = job.data.model_copy(update={"path": Storage(job.data.path).uri})
    job = job.model_copy(update={"run": job.run.model_copy(update={"name": name}), "data": data})
    return Run(Storage(Storage(job.run.storage_path).join(name)), job, contract_of(job.data))


def _create(run: Run, console: Console) -> None:
    """Makes the run directory: the resolved config, and the contract of what is trained on."""
    run.storage.write_text(CONFIG_FILE, yaml.safe_dump(run.job.model_dump(mode="json"), sort_keys=False))
    save_contract(run.contract, run.storage.uri)
    console.print(f"run {run.storage.uri}  model {run.job.model.name}  data {run.contract.dataset}  seed {run.job.seed}", highlight=False)
    warning = declared_warning(run.job, run.contract)
    if warning is not None:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
