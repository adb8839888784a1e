"""What a roll comes to: roll.json for machines, roll.html to show."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console

from pipelines.roll_charts import day_charts, drift_charts, lineage_chart
from pipelines.roll_config import REFERENCE, Roll
from pipelines.roll_figures import by_day, by_seed, compared, cost, forgetting, metrics_of, seeds_disagree, sides, spread_of
from pipelines.roll_run import Outcome
from pipelines.roll_scores import days_away, served_rows
from pipelines.roll_snapshots import drift, known_users
from pipelines.roll_stage import RollPlan
from pipelines.roll_store import RollStore
from raytrain.json_text import json_text
from raytrain.metrics.bootstrap import CLICK_METRICS
from raytrain.storage import masked
from raytrain.training.report import METRIC_TITLES, number, render, signed

Result = dict[str, Any]


def write_roll_report(
    store: RollStore,
    roll: Roll,
    plan: RollPlan,
    outcomes: Mapping[str, Sequence[Sequence[Outcome]]],
    console: Console,
) -> Result:
    """Measures what the arms have served on the days that were asked for and writes both files; returns what roll.json holds.

    Args:
        plan: of the chain itself.
        outcomes: arm -> its stages, once a seed.
    """
    contract = plan.contract
    # A model that goes on from yesterday's needs the days before the first one: those are nobody's question here.
    asked = {
        name: [[outcome for outcome in found if outcome.planned.stage.day >= plan.first] for found in seeds]
        for name, seeds in outcomes.items()
    }
    served = {name: served_rows(store, found) for name, found in asked.items()}
    rows = {name: found for name, (found, _) in served.items()}
    if roll.num_resamples and len(rows) > 1:
        console.print(f"comparing {len(rows)} arms, {roll.num_resamples:,} resamples of users each", highlight=False)
    away = {name: days_away(contract, roll.data_path, own, roll.forgetting.back_days) for name, own in rows.items()}
    every = {outcome.planned.name: outcome for seeds in outcomes.values() for found in seeds for outcome in found}
    # Pictures, drift and costs are of one chain; figures are of all seeds.
    first = {name: seeds[0] for name, seeds in outcomes.items()}
    result: Result = {
        "name": roll.name,
        "dataset": contract.dataset,
        "natural": plan.natural,
        "ads": contract.target,
        "mode": roll.calendar.actr.mode,
        "seeds": list(roll.all_seeds),
        "arms": {
            name: {
                "changes": list(roll.arms.get(name, ())),
                "stages": [outcome.planned.name for outcome in found],
                "num_days": len({int(day) for day in rows[name].day}),
                "num_rows": len(rows[name]),
                "days_left_out": served[name][1],
                "pooled": metrics_of(rows[name]),
                "spread": spread_of(rows[name]),
                "by_seed": by_seed(rows[name]),
                "days": by_day(rows[name]),
                "cost": cost(contract, plan.natural, found),
            }
            for name, found in first.items()
        },
        "comparisons": compared(rows, roll.num_resamples),
        "not_compared": sides(rows)[1],
        "forgetting": {
            "pause_days": roll.forgetting.pause_days,
            "back_days": roll.forgetting.back_days,
            "arms": forgetting(rows, away, roll.forgetting, roll.num_resamples),
        },
        "known_users": known_users(store, contract, first[REFERENCE], rows[REFERENCE]),
        "drift": drift(store, [outcome for found in first.values() for outcome in found]),
        "stages": [_stage(outcome) for outcome in every.values()],
        "failed": [
            {"stage": name, "state": outcome.state, "error": outcome.error}
            for name, outcome in every.items()
            if outcome.state != "finished"
        ],
        "num_resamples": roll.num_resamples,
    }
    store.storage.write_text("roll.json", json_text(result))
    store.storage.write_text("roll.html", page(result))
    return result


def page(result: Result) -> str:
    """The report of what roll.json holds."""
    return render(
        "roll.html.j2",
        result=result,
        summary=summary(result),
        titles=[METRIC_TITLES[metric] for metric in CLICK_METRICS],
        arms=_arm_rows(result),
        pairs=_pair_rows(result),
        days=_day_rows(result),
        forgetting=_forgetting_rows(result),
        known=[{**month, **{key: f"{month[key]:.0%}" for key in ("newest", "any")}} for month in result["known_users"]],
        cost=_cost_rows(result),
        charts=[*day_charts(result), *drift_charts(result)],
        lineage=lineage_chart(result),
    )


def summary(result: Result) -> str:
    """The findings in words; only an interval that leaves out 0 lets one arm be called better."""
    full = result["arms"][REFERENCE]
    if not full["num_rows"]:
        return "No day has been scored yet."
    num_seeds = len(result["seeds"])
    of_seeds = f", with {num_seeds} seeds" if num_seeds > 1 else ""
    parts = [f"The chain served {full['num_days']} days, {full['num_rows']:,} rows{of_seeds}: GAUC {number(full['pooled']['gauc'])}."]
    for found in result["comparisons"]:
        if found["metric"] == "gauc":
            disagree = ", though seeds disagree" if seeds_disagree(found) else ""
            verdict = {"better": "better than", "worse": "worse than"}.get(found["verdict"], "undecided against")
            parts.append(f"It is {verdict} {found['b']} ({signed(found['difference'])}{disagree}).")
    if result["known_users"]:
        num_rows = sum(month["num_rows"] for month in result["known_users"])
        share = sum(month["num_rows"] * month["any"] for month in result["known_users"]) / num_rows
        parts.append(f"Of {num_rows:,} rows served with monthly snapshots, one of these knows the user in {share:.0%}.")
    if left_out := {name: len(arm["days_left_out"]) for name, arm in result["arms"].items() if arm["days_left_out"]}:
        parts.append(f"Days that do not count: {', '.join(f'{count} of {name}' for name, count in left_out.items())}.")
    if result["not_compared"]:
        parts.append(f"Not compared: {', '.join(result['not_compared'])}.")
    if result["failed"]:
        parts.append(f"{len(result['failed'])} stages are missing.")
    return " ".join(parts)


def _stage(outcome: Outcome) -> Result:
    stage, manifest = outcome.planned.stage, outcome.manifest
    found: Result = {
        "name": outcome.planned.name,
        "kind": stage.kind,
        "day": str(stage.day),
        "train": [str(stage.train.start), str(stage.train.stop)],
        "parents": [parent.name for parent in outcome.planned.parents],
        "state": outcome.state,
    }
    if manifest is not None:
        found |= {"rows": manifest.result["rows_trained"], "wall_s": manifest.result.get("wall_s"), "steps": manifest.result["num_steps"]}
    return found | ({"error": masked(outcome.error)} if outcome.error else {})


def _arm_rows(result: Result) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "changes": ", ".join(arm["changes"]) or "the file as it stands",
            "num_days": arm["num_days"],
            "num_rows": f"{arm['num_rows']:,}",
            "cells": [_with_spread(arm["pooled"][metric], arm["spread"][metric]) for metric in CLICK_METRICS],
        }
        for name, arm in result["arms"].items()
    ]


def _with_spread(value: float | None, spread: float | None) -> str:
    return number(value) if spread is None else f"{number(value)} \u00b1 {number(spread)}"


def _pair_rows(result: Result) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for found in result["comparisons"]:
        row = rows.setdefault(found["b"], {"name": f"{found['a']} \u2212 {found['b']}", "cells": []})
        row["cells"].append(
            {
                "difference": signed(found["difference"]),
                "interval": f"[{signed(found['low'])}, {signed(found['high'])}]",
                "verdict": found["verdict"] + (", seeds disagree" if seeds_disagree(found) else ""),
                "colour": found["verdict"],
            }
        )
    return list(rows.values())


def _day_rows(result: Result) -> list[list[str]]:
    """A row a day that any arm has served: its rows, and every arm's GAUC."""
    days = sorted({day["day"] for arm in result["arms"].values() for day in arm["days"]})
    found = {name: {day["day"]: day for day in arm["days"]} for name, arm in result["arms"].items()}
    return [
        [
            day,
            f"{max(of_arm[day]['num_rows'] for of_arm in found.values() if day in of_arm):,}",
            *(number(of_arm[day]["gauc"]) if day in of_arm else "\u2013" for of_arm in found.values()),
        ]
        for day in days
    ]


def _forgetting_rows(result: Result) -> list[dict[str, Any]]:
    rows = []
    for name, found in result["forgetting"]["arms"].items():
        more = found.get("more_than_full")
        has = "index" in found
        rows.append(
            {
                "name": name,
                "steady": f"{number(found.get('steady_auc'))} ({found['num_steady_rows']:,} rows)",
                "back": f"{number(found.get('back_auc'))} ({found['num_back_rows']:,} rows)",
                "index": f"{signed(found['index'])} [{signed(found['low'])}, {signed(found['high'])}]" if has else "too few rows",
                "more": f"{signed(more['difference'])} [{signed(more['low'])}, {signed(more['high'])}]" if more else "\u2013",
            }
        )
    return rows


def _cost_rows(result: Result) -> list[dict[str, Any]]:
    found = result["arms"][REFERENCE]["cost"]
    return [
        {
            "kind": kind,
            "num_stages": int(values["num_stages"]),
            "rows": f"{values['rows']:,.0f}",
            "wall": str(timedelta(seconds=round(values["wall_s"]))),
            "start": f"{max(0.0, 1 - values['train_s'] / values['wall_s']):.0%}" if values["wall_s"] else "\u2013",
            "daily": f"{found['all_daily_rows'].get(kind, 0):,}",
            "share": number(values["rows"] / found["all_daily_rows"][kind], 3) if found["all_daily_rows"].get(kind) else "\u2013",
        }
        for kind, values in found["kinds"].items()
    ]
