"""`raytrain study STUDY.yaml --preset full [section.key=value ...]`: arms x seeds x grid, then paired comparisons.

    raytrain study pipelines/studies/movielens_baselines.yaml --preset quick

Arms with ``trials`` are searched first: each trial trains once, and the best on validation is what the arm's seeds run.
Each cell is a run of its own under ``<work_dir>/<preset>/``. The same command resumes: a finished cell is kept as long
as its job and data set are the same, everything else runs again under a fresh name, and nothing is ever deleted.
A cell does not remember the code it ran: after a change of the code choose another ``work_dir``.
"""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from pipelines.study_by_history import compare_by_history
from pipelines.study_by_history_plan import check_by_history
from pipelines.study_cells import CellRunner, Train
from pipelines.study_compare import FinishedCell, Predictions, compare, summarise
from pipelines.study_cost import MeasureCost, costed_cells, measure_costs
from pipelines.study_ltv import ledger_ends, ltv_figures
from pipelines.study_plan import Cell, Preset, Study, cells_of, load_study, pairs_of, preset_of, trials_of, variants_of
from pipelines.study_report import write_study_report
from pipelines.study_search import chosen_overrides, search
from raytrain.data.contract import Contract
from raytrain.storage import Storage, masked

Outcome = Mapping[str, Any]
"""A cell's record, or what a search or a measurement found."""


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
    cells, contract = _checked_cells(study, chosen, job_overrides, path)
    trials = trials_of(study, chosen, job_overrides, path)
    runner = CellRunner(storage, console, train)
    searched = None
    if trials:
        searched = search(study, trials, runner)
        _say_what_was_chosen(searched, console)
        cells = cells_of(study, chosen, job_overrides, path, chosen_overrides(searched))
    outcomes = runner.run(cells)
    cost = None if study.cost is None else measure_costs(study.cost, cells, storage, console, measure_cost)
    result = {
        "name": study.name,
        "preset": preset,
        "command": masked(shlex.join(["raytrain", "study", path, "--preset", preset, *overrides])),
        "seeds": list(chosen.seeds),
        "unit": study.unit,
        "num_resamples": study.num_resamples,
        "metrics": list(study.metrics),
        "search": searched,
        **_findings(study, cells, _finished(cells, outcomes, storage), contract, console),
        "failed": _failed(cells, outcomes, searched, cost),
    }
    if cost is not None:
        result["cost"] = cost
    output = Storage(chosen.output or directory)
    write_study_report(output, result)
    _say_how_it_ended(result, output, console)
    return result


def _checked_cells(study: Study, preset: Preset, overrides: Sequence[str], path: str) -> tuple[list[Cell], Contract | None]:
    """Every cell as it stands, once all that can be refused before the runs has been; the contract that by_history reads."""
    cells = cells_of(study, preset, overrides, path)
    if study.cost is not None:
        costed_cells(cells)
    contract = None if study.by_history is None else check_by_history(study.by_history, [cell.job.data.path for cell in cells])
    return cells, contract


def _finished(cells: Sequence[Cell], outcomes: Sequence[Outcome], storage: Storage) -> list[FinishedCell]:
    return [
        FinishedCell(cell.variant, cell.seed, cell.domain, Storage(storage.join(record["run"])), record["result"])
        for cell, record in zip(cells, outcomes, strict=True)
        if record["status"] == "finished"
    ]


def _failed(cells: Sequence[Cell], outcomes: Sequence[Outcome], searched: Outcome | None, cost: Outcome | None) -> list[dict[str, str]]:
    """Trials, then cells, then measurements: cell and error of each."""
    own = [
        {"cell": cell.name, "error": record["error"]} for cell, record in zip(cells, outcomes, strict=True) if record["status"] == "failed"
    ]
    return [*(searched["failed"] if searched else ()), *own, *(cost["failed"] if cost else ())]


def _findings(
    study: Study, cells: Sequence[Cell], finished: Sequence[FinishedCell], contract: Contract | None, console: Console
) -> dict[str, Any]:
    """What the finished runs say: arms, comparisons, and the sections that this study has besides."""
    pairs, names = pairs_of(study), [variant.name for variant in variants_of(study)]
    deterministic = {variant.name for variant in variants_of(study) if variant.deterministic}
    console.print(f"comparing {len(pairs)} pairs of arms, {study.num_resamples:,} resamples of {study.unit}s each", highlight=False)
    rows = Predictions()
    comparisons, not_compared = compare(pairs, finished, deterministic, study.metrics, study.num_resamples, rows)
    found = summarise(names, finished, deterministic, study.metrics)
    found |= {"comparisons": comparisons, "not_compared": not_compared}
    ledgers = ledger_ends(names, finished, {cell.variant: cell.job.data.path for cell in cells})
    besides = {"ltv": ltv_figures(names, finished), "ledger": ledgers}
    found |= {key: section for key, section in besides.items() if section is not None}
    if study.by_history is not None and contract is not None:
        console.print("the same by length of history", highlight=False)
        found["by_history"] = compare_by_history(
            study.by_history, contract, cells[0].job.data.path, pairs, finished, deterministic, study.num_resamples, rows
        )
    return found


def _say_what_was_chosen(searched: Mapping[str, Any], console: Console) -> None:
    for name, arm in searched["arms"].items():
        best = next(trial for trial in arm if trial["chosen"])
        value = "no value" if best["value"] is None else f"{best['value']:.4f}"
        what = " ".join(best["overrides"]) or "as it stands"
        console.print(f"{name}: {what} is the best of {len(arm)} trials, valid {searched['metric']} {value}", markup=False, highlight=False)


def _say_how_it_ended(result: Mapping[str, Any], output: Storage, console: Console) -> None:
    for comparison in result["comparisons"]:
        console.print(comparison["sentence"], markup=False, highlight=False)
    console.print(f"wrote {', '.join(masked(output.join(f'result.{kind}')) for kind in ('json', 'md', 'html'))}", highlight=False)
    if result["failed"]:
        names = ", ".join(failure["cell"] for failure in result["failed"])
        text = f"failed: {names}. The same command runs what failed again; cells/*.json beside the runs says why."
        console.print(text, style="red", markup=False, highlight=False)
