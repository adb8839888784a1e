"""`raytrain study STUDY.yaml --preset full [section.key=value ...]`: arms x seeds x grid, then paired comparisons.

    raytrain study pipelines/studies/movielens_baselines.yaml --preset quick

Each cell is a run of its own under ``<work_dir>/<preset>/``. The same command resumes: a finished cell is kept as long
as its job and data set are the same, everything else runs again under a fresh name, and nothing is ever deleted.
A cell does not remember the code it ran: after a change of the code choose another ``work_dir``.
"""

import json
import shlex
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console

from pipelines.study_compare import FinishedCell, compare, summarise
from pipelines.study_cost import MeasureCost, costed_cells, measure_costs
from pipelines.study_plan import Cell, cells_of, load_study, pairs_of, preset_of, variants_of
from pipelines.study_report import write_study_report
from raytrain.config import JobConfig
from raytrain.storage import Storage
from raytrain.training.report import masked

Train = Callable[[JobConfig, Console], dict[str, Any]]

_KEPT_KEYS = (
    "model",
    "dataset",
    "content_hash",
    "world_size",
    "rows_trained",
    "rows_expected",
    "rows_quarantined",
    "train_samples_per_s",
    "data_wait_share",
    "peak_rss_mib",
    "num_steps",
    "best_step",
    "stopped_early",
    "wall_s",
    "test",
)


def run_study(
    path: str,
    preset: str,
    overrides: Sequence[str],
    console: Console,
    train: Train | None = None,
    measure_cost: MeasureCost | None = None,
) -> dict[str, Any]:
    """Runs what is missing, measures costs, compares the arms and writes result.json, result.md and result.html.

    Args:
        overrides: a key of the study (``num_resamples=200``) changes the study, any other (``data.path=x``) every job.
        train: runs one job into its run directory; ``raytrain.run.train`` when None.
        measure_cost: makes one measurement where the study has a section ``cost``; in a process of its own when None.

    Returns:
        The content of result.json. A cell or a cost that failed is listed under ``failed`` and its arm has fewer
        seeds, or no cost; the caller exits non-zero.

    Raises:
        ConfigError: the study, or the job of any cell, is not right; nothing has been run then.
        DataError: two runs scored different test rows.
    """
    study, job_overrides = load_study(path, overrides)
    chosen = preset_of(study, preset)
    directory = f"{study.directory.rstrip('/')}/{preset}"
    storage = Storage(directory)
    cells = cells_of(study, chosen, job_overrides, path)
    if study.cost is not None:
        costed_cells(cells)  # What cannot be measured is refused before the runs.
    outcomes = _run_cells(cells, storage, console, train or _train)
    finished = [
        FinishedCell(cell.variant, cell.seed, cell.domain, Storage(storage.join(record["run"])), record["result"])
        for cell, record in zip(cells, outcomes, strict=True)
        if record["status"] == "finished"
    ]
    cost = None if study.cost is None else measure_costs(study.cost, cells, storage, console, measure_cost)
    pairs = pairs_of(study)
    console.print(f"comparing {len(pairs)} pairs of arms, {study.num_resamples:,} resamples of users each", highlight=False)
    deterministic = {variant.name for variant in variants_of(study) if variant.deterministic}
    comparisons, not_compared = compare(pairs, finished, deterministic, study.metrics, study.num_resamples)
    command = shlex.join(["raytrain", "study", path, "--preset", preset, *overrides])
    result = {
        "name": study.name,
        "preset": preset,
        "command": masked(command),
        "seeds": list(chosen.seeds),
        "unit": study.unit,
        "num_resamples": study.num_resamples,
        "metrics": list(study.metrics),
        **summarise([variant.name for variant in variants_of(study)], finished, deterministic, study.metrics),
        "comparisons": comparisons,
        "not_compared": not_compared,
        "failed": [
            {"cell": cell.name, "error": record["error"]}
            for cell, record in zip(cells, outcomes, strict=True)
            if record["status"] == "failed"
        ],
    }
    if cost is not None:
        result |= {"cost": cost, "failed": [*result["failed"], *cost["failed"]]}
    output = Storage(chosen.output or directory)
    write_study_report(output, result)
    _say_how_it_ended(result, output, console)
    return result


def _run_cells(cells: Sequence[Cell], storage: Storage, console: Console, train: Train) -> list[dict[str, Any]]:
    """One record a cell, finished ones from earlier calls included."""
    records = [_finished_earlier(cell, storage) for cell in cells]
    num_kept = sum(record is not None for record in records)
    console.print(
        f"{len(cells)} cells under {masked(storage.uri)}: {num_kept} finished earlier, {len(cells) - num_kept} to run", highlight=False
    )
    for index, cell in enumerate(cells):
        if records[index] is not None:
            continue
        console.print(f"[bold]cell {index + 1} of {len(cells)}: {cell.name}[/bold]  {_time_left(cells, records)}", highlight=False)
        record = _run_cell(cell, storage, console, train)
        storage.write_text(_cell_file(cell), json.dumps(record, indent=2) + "\n")
        records[index] = record
    return [record for record in records if record is not None]


def _run_cell(cell: Cell, storage: Storage, console: Console, train: Train) -> dict[str, Any]:
    name = _fresh_name(cell.name, storage)
    run = cell.job.run.model_copy(update={"name": name, "storage_path": storage.uri, "save_predictions": True})
    record = {"cell": cell.name, "key": cell.key, "run": name, "seed": cell.seed}
    started = time.perf_counter()
    try:
        result = train(cell.job.model_copy(update={"run": run}), console)
    except Exception as err:  # One cell's failure, of whatever kind, must not cost the others.
        error = masked(f"{type(err).__name__}: {err}")
        console.print(f"cell {cell.name} failed: {error}", style="red", markup=False, highlight=False)
        return record | {"status": "failed", "error": error, "traceback": masked(traceback.format_exc())}
    wall_s = time.perf_counter() - started
    kept = {key: result[key] for key in _KEPT_KEYS if key in result}
    return record | {"status": "finished", "wall_s": wall_s, "result": kept}


def _finished_earlier(cell: Cell, storage: Storage) -> dict[str, Any] | None:
    """The record of the same job, if it finished and its predictions are still there."""
    if not storage.exists(_cell_file(cell)):
        return None
    record: dict[str, Any] = json.loads(storage.read_text(_cell_file(cell)))
    if record["key"] != cell.key or record["status"] != "finished":
        return None
    return record if storage.list_files(f"{record['run']}/predictions/test", ".parquet") else None


def _cell_file(cell: Cell) -> str:
    return f"cells/{cell.name}.json"


def _fresh_name(name: str, storage: Storage) -> str:
    """An interrupted, failed or outdated run keeps its directory; the next one is numbered."""
    number, fresh = 1, name
    while storage.exists(fresh):
        number += 1
        fresh = f"{name}-{number}"
    return fresh


def _time_left(cells: Sequence[Cell], records: Sequence[Mapping[str, Any] | None]) -> str:
    """From the wall time of finished cells: of the same arm where there is one, else of all."""
    walls: dict[str, list[float]] = {}
    for cell, record in zip(cells, records, strict=True):
        if record is not None and record["status"] == "finished":
            walls.setdefault(cell.variant, []).append(record["wall_s"])
    every = [wall_s for found in walls.values() for wall_s in found]
    if not every:
        return "time left: known after the first cell"
    left = [walls.get(cell.variant, every) for cell, record in zip(cells, records, strict=True) if record is None]
    return f"about {timedelta(seconds=round(sum(sum(known) / len(known) for known in left)))} left"


def _say_how_it_ended(result: Mapping[str, Any], output: Storage, console: Console) -> None:
    for comparison in result["comparisons"]:
        console.print(comparison["sentence"], markup=False, highlight=False)
    console.print(f"wrote {', '.join(masked(output.join(f'result.{kind}')) for kind in ('json', 'md', 'html'))}", highlight=False)
    if result["failed"]:
        names = ", ".join(failure["cell"] for failure in result["failed"])
        text = f"failed: {names}. The same command runs what failed again; cells/*.json beside the runs says why."
        console.print(text, style="red", markup=False, highlight=False)


def _train(job: JobConfig, console: Console) -> dict[str, Any]:
    # Imported here, since it brings torch and Ray, and a wrong study has to be refused at once.
    from raytrain.run import train

    return train(job, console)
