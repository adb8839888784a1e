"""The search before a study's seeds: every searched arm's trials, and the one that validation likes best."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.study_cells import CellRunner
from pipelines.study_plan import Cell, Study
from raytrain.metrics.order import HIGHER_IS_BETTER


def search(study: Study, trials: Mapping[str, Sequence[Cell]], runner: CellRunner) -> dict[str, Any]:
    """Runs what is missing and chooses, an arm at a time, without a look at the test split.

    Returns:
        metric, seed, num_trials (of each arm, the arm as it stands included) and arms: name -> a list with a trial's
        ``overrides``, ``value`` (None where it failed or was undefined), ``chosen`` (one of them, the arm as it stands if every
        trial failed); failed: cell and error of each trial that did.
    """
    cells = [cell for arm in trials.values() for cell in arm]
    records = runner.run(cells)
    values = {cell.name: _value(record, study.search.metric) for cell, record in zip(cells, records, strict=True)}
    arms = {}
    for name, own in trials.items():
        scores = [values[cell.name] for cell in own]
        best = _best(scores, study.search.metric)
        arms[name] = [
            {"overrides": list(overrides), "value": score, "chosen": number == best}
            for number, (overrides, score) in enumerate(zip(((), *study.arms[name].trials), scores, strict=True))
        ]
    return {
        "metric": study.search.metric,
        "seed": study.search.seed,
        "num_trials": max(len(own) for own in trials.values()),
        "arms": arms,
        "failed": [
            {"cell": cell.name, "error": record["error"]}
            for cell, record in zip(cells, records, strict=True)
            if record["status"] == "failed"
        ],
    }


def chosen_overrides(found: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Searched arm -> the overrides of its best trial."""
    return {name: tuple(next(trial["overrides"] for trial in arm if trial["chosen"])) for name, arm in found["arms"].items()}


def _value(record: Mapping[str, Any], metric: str) -> float | None:
    value = record["result"]["valid"].get(metric) if record["status"] == "finished" else None
    return None if value is None or math.isnan(value) else float(value)


def _best(scores: Sequence[float | None], metric: str) -> int:
    """The first of equals, and 0 where there is no score."""
    sign = 1.0 if HIGHER_IS_BETTER[metric] else -1.0
    return max(range(len(scores)), key=lambda number: (-math.inf if (score := scores[number]) is None else sign * score, -number))
