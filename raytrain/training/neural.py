"""A neural run on the driver: streams in, Ray Train between, result out."""

from typing import Any

from rich.console import Console

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.data.stream import StreamSpec
from raytrain.data.vocabulary import slice_names
from raytrain.embeddings.plan import plan_tables
from raytrain.errors import CursorError, RunError
from raytrain.models.declared import declared_histories, declared_tables
from raytrain.resources import needs_of
from raytrain.storage import Storage
from raytrain.training.engine import Records, launch
from raytrain.training.gain_log import last_ledger
from raytrain.training.in_process import run_in_process
from raytrain.training.label_facts import facts_of_run, save_facts
from raytrain.training.launch import connect, threads_per_worker
from raytrain.training.specs import probe_spec, scored_specs, scoring_spec, training_specs
from raytrain.training.start import plan_start
from raytrain.training.stopping import Watch
from raytrain.training.worker import Assignment


def plan_neural(storage: Storage, job: JobConfig, contract: Contract, console: Console, watched: bool = False) -> Assignment:
    """Everything that can be refused is refused here, on the driver, before the run exists.

    Args:
        watched: somebody chooses among runs like this one, so none of them scores the test split.

    Raises:
        RaytrainError: the config, data set, tables or cluster is not right.
    """
    histories = _check_model(job, contract)
    quarantine = storage.join("quarantine")
    streams = training_specs(job, contract, histories, quarantine)
    valid, test = scored_specs(job, contract, histories, quarantine)
    start = plan_start(job, contract)
    if not job.scaling.in_process:
        connect(needs_of(job, len(streams)), console)
    predictions = storage.join("predictions/test") if job.run.save_predictions else None
    return Assignment(
        job,
        streams,
        valid,
        () if watched else test,
        threads_per_worker(job),
        storage.uri,
        watched=watched,
        facts=facts_of_run(storage, job, contract),
        probe=probe_spec(job, contract, quarantine),
        start=start,
        predictions_path=predictions,
    )


def train_neural(storage: Storage, assignment: Assignment, console: Console, watch: Watch | None = None) -> tuple[dict[str, Any], Records]:
    """Trains and scores the test split; returns the result's public keys and every record."""
    save_facts(storage, assignment.facts)
    _announce(assignment.train, assignment.job, console)
    records = _run(assignment, storage, console, watch)
    return _result(assignment.job, assignment.train[0].contract, assignment.train, records), records


def score_neural(
    storage: Storage, job: JobConfig, contract: Contract, domain: str, split: str, checkpoint: str, output: str | None, console: Console
) -> dict[str, dict[str, float]]:
    """Domain -> metrics of one split under a checkpoint; undefined metrics are NaN where ``output`` may hold unlabelled rows."""
    histories = _check_model(job, contract)
    spec = scoring_spec(job, contract, domain, split, histories, storage.join("quarantine"), labelled=output is None)
    if not job.scaling.in_process:
        connect(needs_of(job, 0), console)
    threads = threads_per_worker(job)
    facts = facts_of_run(storage, job, contract)
    assignment = Assignment(
        job,
        (),
        None,
        (spec,),
        threads,
        storage.uri,
        checkpoint=checkpoint,
        facts=facts,
        start=plan_start(job, contract, with_parent=False),
        predictions_path=output,
    )
    return _metrics(_run(assignment, storage, console))


def _run(assignment: Assignment, storage: Storage, console: Console, watch: Watch | None = None) -> Records:
    run = run_in_process if assignment.job.scaling.in_process else launch
    return run(assignment, storage, console, watch)


def _check_model(job: JobConfig, contract: Contract) -> tuple[str, ...]:
    """The histories the model reads, once they, its features and its tables are known to be there."""
    histories = declared_histories(job, contract)
    plan_tables(declared_tables(job, contract), job.tables.optimizer, job.scaling.max_workers, job.tables.sharding)
    return histories


def _announce(streams: tuple[StreamSpec, ...], job: JobConfig, console: Console) -> None:
    """Derived quantities as equations, before anything runs."""
    for spec in streams:
        console.print(
            f"{spec.domain}: {spec.plan.num_rows:,} rows / {spec.batch_size:,} a step = {spec.plan.num_batches:,} steps an epoch; "
            f"{spec.total_batches:,} steps on {job.scaling.describe()} worker(s), {spec.expected_rows:,} rows in all",
            highlight=False,
        )


def _result(job: JobConfig, contract: Contract, streams: tuple[StreamSpec, ...], records: Records) -> dict[str, Any]:
    outcome = _last(records, "outcome")
    worker = _last(records, "worker")
    num_rows = sum(outcome["rows_trained"].values())
    # From the plan alone, which no worker had a hand in; up to the step at which early stopping ended the run.
    expected = {
        spec.domain: spec.plan.num_rows_in(outcome["num_steps"]) if outcome["stopped_early"] else spec.expected_rows for spec in streams
    }
    seen = {domain: outcome["rows_trained"][domain] + outcome["rows_quarantined"][domain] for domain in expected}
    if seen != expected and not outcome["stopped_early"]:
        raise CursorError(f"Every row has to be trained once an epoch. Received: {seen} rows, expected {expected}. Report this.")
    return {
        "model": job.model.name,
        "dataset": contract.dataset,
        "content_hash": contract.content_hash,
        "seed": job.seed,
        "world_size": worker["world_size"],
        "rows_trained": outcome["rows_trained"],
        "rows_expected": expected,
        "rows_quarantined": outcome["rows_quarantined"],
        "train_samples_per_s": num_rows / outcome["train_s"],
        "data_wait_share": outcome["wait_s"] / outcome["train_s"],
        "peak_rss_mib": worker["peak_rss_mib"],
        "num_steps": outcome["num_steps"],
        "best_step": outcome["best_step"],
        "best_checkpoint": outcome["best_checkpoint"],
        "stopped_early": outcome["stopped_early"],
        "starts": outcome["starts"],
        "valid": outcome["best_metrics"],
        "test": _metrics(records),
        "model_logs": _model_logs(records, contract, job.data.path),
    }


def _metrics(records: Records) -> dict[str, dict[str, float]]:
    found = [record for record in records if record["kind"] == "test"]
    return {record["domain"]: {key: value for key, value in record.items() if key not in ("kind", "domain", "split")} for record in found}


def _model_logs(records: Records, contract: Contract, data_path: str) -> dict[str, Any]:
    """What the model logged over the last window of steps; where gain is kept, its last record under "gain", slices with names."""
    gains = [record for record in records if record["kind"] == "gain"]
    last = next((record for record in reversed(records) if record["kind"] == "train"), {})
    logs = {name.removeprefix("model/"): value for name, value in last.items() if name.startswith("model/")}
    if not gains:
        return logs
    ledger = last_ledger(gains)
    names = slice_names(contract, data_path, ledger["slice"])
    return logs | {"gain": ledger | {"name": [names.get(number) for number in ledger["slice"]]}}


def _last(records: Records, kind: str) -> dict[str, Any]:
    found = [record for record in records if record["kind"] == kind]
    if not found:
        raise RunError(f"The workers have to post a record of kind {kind}. Received: none. Read the workers' logs under /tmp/ray.")
    return found[-1]
