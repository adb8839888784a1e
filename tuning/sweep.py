"""`raytrain sweep SWEEP.yaml [key=value ...]`: trials of one job under Ray Tune, then test figures of the one that is chosen.

    raytrain sweep tuning/sweeps/lcn.yaml num_trials=12

Everything lies under ``<work_dir>``: sweep.yaml, trials/*.json as they happen, runs/, and in the end sweep.json, sweep.html, best.yaml.
"""

import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import ray
import yaml
from ray import tune
from ray.tune.error import TuneError
from rich.console import Console

from pipelines.roll_lease import Lease
from raytrain.capacity import Capacity
from raytrain.errors import RunError
from raytrain.settings import flat_keys, parse_yaml
from raytrain.storage import Storage, masked
from raytrain.training.launch import connect, living_nodes
from raytrain.training.process import quieten
from tuning.halving import scheduler_of
from tuning.load import load_sweep
from tuning.plan import SweepPlan
from tuning.searcher import OptunaSearcher
from tuning.sweep_config import Sweep, higher_is_better
from tuning.sweep_report import write_sweep_report
from tuning.tasks import test_task
from tuning.trial import TrialRun
from tuning.trial_log import TrialLog, TrialRecord, ranked
from tuning.watching import SweepWatcher

SWEEP_FILE = "sweep.yaml"
DATA = "content_hash"
"""Of the data set that the trials are of."""
MAY_CHANGE = ("num_trials", "max_concurrent", "silence_limit_s", "work_dir")


def run_sweep(path: str, overrides: Sequence[str], console: Console, resume: bool = False) -> dict[str, Any]:
    """Runs the trials that are missing, scores the chosen one's test split once, and writes the report.

    Args:
        resume: goes on with the sweep of this directory, also for more trials than it was begun with.

    Returns:
        What sweep.json holds; ``failed`` names the trials that were.

    Raises:
        RaytrainError: the sweep, a job it may draw, the data or the cluster is not right; nothing has been started then.
    """
    plan = load_sweep(path, overrides)
    storage = Storage(Storage(plan.sweep.directory).uri)
    with Lease(storage, "sweep") as lease:
        return _run(plan, storage, lease, path, overrides, console, resume)


def _run(
    plan: SweepPlan, storage: Storage, lease: Lease, path: str, overrides: Sequence[str], console: Console, resume: bool
) -> dict[str, Any]:
    _open(plan, storage, resume)
    quieten()
    is_ours = not ray.is_initialized()
    connect(plan.needs, console)
    capacity = Capacity.of_cluster(plan.needs, living_nodes(), memory_each=plan.process_bytes)
    concurrency = capacity.concurrency(plan.sweep.max_concurrent)
    _begin(plan, storage)
    log = TrialLog(storage)
    searcher = OptunaSearcher(plan, log, storage)
    console.print(
        f"sweep {storage.uri}: {plan.sweep.total_trials} trials, {len(log.records)} known, {searcher.num_left} to run", highlight=False
    )
    console.print(f"{capacity.arithmetic}; {concurrency} asked for", highlight=False)
    if plan.why_no_stopping:
        console.print(f"no trial is stopped early: {plan.why_no_stopping}", highlight=False)
    if searcher.num_left:
        watcher = SweepWatcher(plan, log, searcher.num_left, concurrency, console, lease.check_known)
        _tune(plan, log, searcher, watcher, concurrency)
        if watcher.stop_all():
            first = next(iter(log.with_status("failed")))
            raise RunError(f"Trials have to train. Received: {first.name} failed with: {first.error}. Mend it, then --resume.")
        if not watcher.is_done:
            raise RunError(f"A sweep chooses when its trials are over. Received: an interruption. Go on with --resume in {storage.uri}.")
    lease.check()
    if is_ours:
        # Tune gives the last trials seconds to end. What a process that it killed has left would keep its CPUs until this driver's end.
        ray.shutdown()
    test, why_not = _test_of(plan, log, storage, console)
    result = write_sweep_report(plan, log, storage, test, path, overrides, why_not)
    console.print(result["summary"], highlight=False, markup=False)
    written = ("sweep.json", "sweep.html", *(("best.yaml",) if "best_command" in result else ()))
    console.print(f"wrote {', '.join(storage.join(name) for name in written)}", highlight=False)
    return result


def _open(plan: SweepPlan, storage: Storage, resume: bool) -> None:
    """Raises RunError when the directory is taken, or was begun by another sweep or on other data."""
    if not storage.exists(SWEEP_FILE):
        return
    if not resume:
        raise RunError(
            f"A sweep has a directory of its own. Received: {storage.uri}, where one was begun. "
            "Add --resume to go on with it, or choose another name or work_dir."
        )
    asked = flat_keys(plan.sweep.model_dump(mode="json")) | {DATA: plan.contract.content_hash}
    values = parse_yaml(storage.read_text(SWEEP_FILE), SWEEP_FILE)
    data = values.pop(DATA, None)
    begun = flat_keys(Sweep.parse(values, SWEEP_FILE).model_dump(mode="json")) | {DATA: data}
    changed = [key for key in {**begun, **asked} if begun.get(key) != asked.get(key) and key not in MAY_CHANGE]
    if changed:
        listed = ", ".join(f"{key}={asked.get(key)} (begun with {begun.get(key)})" for key in sorted(changed))
        raise RunError(f"A sweep goes on as it was begun. Received: {listed}. Set these back, or choose another name or work_dir.")


def _begin(plan: SweepPlan, storage: Storage) -> None:
    values = plan.sweep.model_dump(mode="json", exclude_unset=True) | {DATA: plan.contract.content_hash}
    storage.write_text(SWEEP_FILE, yaml.safe_dump(values, sort_keys=False))


def _tune(plan: SweepPlan, log: TrialLog, searcher: OptunaSearcher, watcher: SweepWatcher, concurrency: int) -> None:
    # Paths are absolute already; a driver that changes its directory cannot import what lies in the user's.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="raytrain-sweep-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(TrialRun, _resources(plan)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler_of(plan, log),
                num_samples=searcher.num_left,
                max_concurrent_trials=concurrency,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="tune", storage_path=scratch, callbacks=[watcher], stop=watcher, verbose=0),
        )
        try:
            tuner.fit()
        except TuneError as err:
            watcher.check()
            raise RunError(f"Ray Tune has to drive the trials. Received: {masked(str(err))}. Go on with --resume.") from err


def _resources(plan: SweepPlan) -> dict[str, float]:
    """Of a trial's process. A driver computes nothing and asks for memory alone, so that a job that fills a machine can be swept on it."""
    memory = {"memory": float(plan.process_bytes)}
    return memory | {"cpu": plan.needs.total} if plan.trains_in_process else memory


def _test_of(plan: SweepPlan, log: TrialLog, storage: Storage, console: Console) -> tuple[dict[str, Any] | None, str]:
    """Test figures of the chosen trial's runs, one a seed, scored once and kept beside the trial; None where there is none, and why."""
    order = ranked(list(log.records.values()), higher_is_better(plan.objectives[0]))
    if not order:
        return None, "no trial finished"
    best: TrialRecord = order[0]
    file = f"test/{best.name}.yaml"
    # Of a sweep that went on for more trials: another one was the best then.
    seen = [name.partition("/")[2].partition(".")[0] for name in storage.list_files("test", ".yaml") if name != file]
    if storage.exists(file):
        return parse_yaml(storage.read_text(file), file) | {"seen": seen}, ""
    console.print(f"{best.name} is the best on validation; {plan.how_tested}", highlight=False)
    try:
        scored = [test_task(task, plan.contract.target) for task in plan.tasks_of(best.params, best.name, storage)]
    except Exception as err:  # Hours of trials are worth their report, whatever went wrong; --resume scores again.
        why_not = masked(f"{type(err).__name__}: {err}")
        console.print(f"the test figures are missing: {why_not} Go on with --resume.", style="red", markup=False, highlight=False)
        return None, why_not
    found = {"trial": best.name, "seeds": list(plan.sweep.seeds), "metrics": scored}
    storage.write_text(file, yaml.safe_dump(found, sort_keys=False))
    return found | {"seen": seen}, ""
