"""What a sweep comes to: sweep.json for machines, sweep.html to show, best.yaml to train with."""

import json
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from raytrain.json_text import json_text
from raytrain.storage import Storage, masked
from raytrain.training.report import METRIC_TITLES, number, render
from tuning.importance import importances
from tuning.plan import SweepPlan
from tuning.space import overrides_of
from tuning.sweep_charts import cost_chart, cost_of, importance_chart, parallel_chart, slice_charts
from tuning.sweep_config import higher_is_better
from tuning.trial_log import TrialLog, TrialRecord, ranked

Result = dict[str, Any]


def write_sweep_report(
    plan: SweepPlan, log: TrialLog, storage: Storage, test: Mapping[str, Any] | None, path: str, overrides: Sequence[str], no_test: str = ""
) -> Result:
    """Writes sweep.json, sweep.html and, where a trial finished, best.yaml; returns what sweep.json holds.

    Args:
        test: figures of the chosen trial's runs on the test split.
        no_test: why there are none.
    """
    records = [log.records[key] for key in sorted(log.records)]
    order = ranked(records, higher_is_better(plan.objectives[0]))
    best = order[0] if order else None
    second = plan.objectives[1] if len(plan.objectives) > 1 else None
    result: Result = {
        "name": plan.sweep.name,
        "command": masked(shlex.join(["raytrain", "sweep", path, *overrides])),
        "model": plan.model_name,
        "dataset": plan.contract.dataset,
        "method": plan.sweep.method,
        "objectives": list(plan.objectives),
        "seeds": list(plan.sweep.seeds),
        "num_trials": len(records),
        "counts": {status: sum(record.status == status for record in records) for status in ("finished", "stopped", "failed")},
        "trials": [json.loads(record.to_json()) | {"name": record.name} for record in records],
        "leaderboard": [record.name for record in order],
        "pareto_front": pareto_front(order, plan.objectives, second),
        "importances": importances(records, plan.sweep.space),
        "as_it_stands": next((record.name for record in records if record.params == plan.default_params), None),
        "chosen": best.name if best else None,
        "test": dict(test) if test else None,
        "no_test": no_test,
        "failed": [{"trial": record.name, "error": masked(record.error)} for record in records if record.status == "failed"],
    }
    if best is not None:
        storage.write_text("best.yaml", plan.best_yaml(best.params))
        result["best_command"] = masked(shlex.join(["raytrain", plan.kind, storage.join("best.yaml")]))
        result["best_overrides"] = list(overrides_of(best.params))
    result["summary"] = summary(result, order)
    storage.write_text("sweep.json", json_text(result))
    storage.write_text("sweep.html", page(plan, result, records))
    return result


def pareto_front(order: Sequence[TrialRecord], objectives: Sequence[str], second: str | None) -> list[str]:
    """Names of the finished trials that none beats in quality and cost at once, the best quality first."""
    lower = second is None or not higher_is_better(second)
    front, least = [], float("inf")
    # By quality; of equals the cheaper one, so that the other is beaten.
    sign = -1.0 if higher_is_better(objectives[0]) else 1.0
    for record in sorted(order, key=lambda one: (sign * one.value, (1 if lower else -1) * cost_of(one, second))):
        cost = cost_of(record, second) * (1 if lower else -1)
        if cost < least:
            front.append(record.name)
            least = cost
    return front


def summary(result: Mapping[str, Any], order: Sequence[TrialRecord]) -> str:
    """The findings in words."""
    counts = result["counts"]
    told = f"{counts['finished']} of {result['num_trials']} trials finished, "
    told += f"{counts['stopped']} stopped early, {counts['failed']} failed."
    if not order:
        return f"{told} There is nothing to choose."
    objective, best = result["objectives"][0], order[0]
    told += f" The best on validation is {best.name}, {objective} {best.value:.4f}"
    spread = [found[objective] for found in best.seed_values]
    if len(spread) > 1:
        told += f" (mean of {len(spread)} seeds, {min(spread):.4f} to {max(spread):.4f})"
    stands = next((record for record in order if record.name == result["as_it_stands"]), None)
    if stands is not None:
        told += ", the job as it stands." if stands is best else f"; the job as it stands came to {stands.value:.4f}."
    else:
        told += "."
    if result["no_test"]:
        told += f" Its test figures are missing: {result['no_test']}"
    test = result["test"]
    values = [one.get(objective, math.nan) for one in test["metrics"]] if test and test["trial"] == best.name else [math.nan]
    if not math.isnan(sum(values)):
        seen = test["seen"]
        others = f"; the test split was seen for {', '.join(seen)} before" if seen else ", looked at for this trial alone"
        told += f" Its test {objective} is {statistics.fmean(values):.4f}{others}."
    return told


def page(plan: SweepPlan, result: Result, records: Sequence[TrialRecord]) -> str:
    """The report of what sweep.json holds."""
    objective, best = plan.objectives[0], result["chosen"] or ""
    space, higher = plan.sweep.space, higher_is_better(objective)
    places = {name: place for place, name in enumerate(result["leaderboard"], start=1)}
    shown = sorted(records, key=lambda record: (places.get(record.name, len(records) + 1), record.status == "failed", record.number))
    charts = [importance_chart(result["importances"]), cost_chart(records, plan.objectives, result["pareto_front"], best)]
    return render(
        "sweep.html.j2",
        result=result,
        knobs=list(space),
        rows=[_row(plan, record, places.get(record.name), result) for record in shown],
        parallel=parallel_chart(records, space, objective, higher, best),
        charts=[chart for chart in charts if chart is not None],
        slices=slice_charts(records, space, objective, best),
        test=_test_rows(result),
    )


def _row(plan: SweepPlan, record: TrialRecord, place: int | None, result: Result) -> dict[str, Any]:
    marks = [
        mark
        for mark, holds in (("chosen", record.name == result["chosen"]), ("as it stands", record.name == result["as_it_stands"]))
        if holds
    ]
    return {
        "place": place or "\u2013",
        "name": record.name,
        "status": record.status,
        "mark": ", ".join(marks),
        "params": [_shown(record.params.get(key)) for key in plan.sweep.space],
        "values": [number(record.values.get(objective)) for objective in plan.objectives],
        "evaluations": len(record.evaluations),
        "wall": number(record.wall_s, 0),
        "error": masked(record.error),
    }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _test_rows(result: Result) -> list[dict[str, str]]:
    """Metric, mean over seeds, spread."""
    if not result["test"]:
        return []
    scored = result["test"]["metrics"]
    rows = []
    for metric, title in METRIC_TITLES.items():
        values = [float(one[metric]) for one in scored if one.get(metric) is not None and not math.isnan(one[metric])]
        if not values:
            continue
        spread = f"{number(min(values))} to {number(max(values))}" if len(values) > 1 else "\u2013"
        rows.append({"metric": title, "mean": number(statistics.fmean(values)), "spread": spread})
    return rows
