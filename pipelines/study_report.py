"""What a study found, three times: result.json for machines, result.md to quote, result.html to show."""

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pipelines.study_arm_charts import arm_charts
from pipelines.study_by_history_report import history_chart, history_markdown, history_note, history_table
from pipelines.study_cost_report import cost_chart, cost_markdown, cost_note, cost_table, cost_titles
from pipelines.study_ltv_report import ltv_tables
from pipelines.study_search_report import search_markdown, search_note, search_table
from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.storage import Storage
from raytrain.training.report import METRIC_TITLES, best_of, number, render, signed

Result = Mapping[str, Any]


def write_study_report(storage: Storage, result: Result) -> None:
    """Writes result.json, result.md and result.html."""
    storage.write_text("result.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
    storage.write_text("result.md", markdown(result))
    storage.write_text("result.html", _html(result))


def markdown(result: Result) -> str:
    """The tables of a study as GitHub Markdown, with the command that made them."""
    arms, pairs = arm_table(result), pair_table(result)
    titles = [METRIC_TITLES[metric] for metric in result["metrics"]]
    lines = [f"# {result['name']} ({result['preset']})", "", "```", result["command"], "```", "", _setting(result), ""]
    lines += _rows(["Arm", "Seeds", *titles, "Rows/s", "Time a run"])
    for row in arms:
        cells = [f"**{cell['text']}**" if cell["best"] else cell["text"] for cell in row["cells"]]
        lines.append(_line([row["name"], row["seeds"], *cells, row["samples_per_s"], row["wall"]]))
    if pairs:
        lines += ["", _interval_note(result), "", *_rows(["A less B", "Seeds", *titles])]
        lines += [
            _line(
                [
                    row["name"],
                    str(row["num_seeds"]),
                    *(f"{cell['difference']} {cell['interval']} {cell['verdict']}" for cell in row["cells"]),
                ]
            )
            for row in pairs
        ]
    for table in ltv_tables(result, _order(result)):
        lines += ["", f"{table['heading']}. {table['note']}", "", *_rows(table["titles"]), *(_line(row) for row in table["rows"])]
    if result["search"]:
        titles, *rows = search_markdown(result["search"])
        lines += ["", search_note(result["search"]), "", *_rows(titles), *(_line(row) for row in rows)]
    if "cost" in result:
        titles, *rows = cost_markdown(result, _order(result))
        lines += ["", cost_note(result), "", *_rows(titles), *(_line(row) for row in rows)]
    for domain in _history_domains(result):
        for titles, *rows in history_markdown(result, domain, _order(result)):
            lines += ["", *_rows(titles), *(_line(row) for row in rows)]
    if _history_domains(result):
        lines += ["", history_note()]
    lines += ["", *(f"- Not compared: {pair['a']} and {pair['b']} ({pair['reason']})." for pair in result["not_compared"])]
    lines += [f"- Failed: {failure['cell']}." for failure in result["failed"]]
    return "\n".join(lines).rstrip() + "\n"


def arm_table(result: Result) -> list[dict[str, Any]]:
    """A row of text an arm, best first by the first metric."""
    arms = result["arms"]
    means = {metric: [arm["metrics"][metric]["mean"] for arm in arms.values()] for metric in result["metrics"]}
    best = {metric: best_of(metric, values) for metric, values in means.items()}
    rows = []
    for index, (name, arm) in enumerate(arms.items()):
        cells = [_arm_cell(arm["metrics"][metric], best[metric] == index) for metric in result["metrics"]]
        seeds = "fixed" if arm["deterministic"] else str(len(arm["seeds"]))
        wall_s = arm["wall_s"]["mean"]
        rows.append(
            {
                "name": name,
                "seeds": seeds if arm["seeds"] else "none",
                "cells": cells,
                "samples_per_s": number(arm["train_samples_per_s"]["mean"], 0),
                "wall": "\u2013" if wall_s is None else str(timedelta(seconds=round(wall_s))),
                "rows_trained": ", ".join(f"{domain} {count:,}" for domain, count in (arm["rows_trained"] or {}).items()),
                "every_row_trained": arm["every_row_trained"],
            }
        )
    order = _order(result)
    return sorted(rows, key=lambda row: order.index(row["name"]))


def pair_table(result: Result) -> list[dict[str, Any]]:
    """A row of text a pair, with a cell a metric."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for found in result["comparisons"]:
        name = f"{found['a']} \u2212 {found['b']}"
        row = rows.setdefault((found["a"], found["b"]), {"name": name, "num_seeds": found["num_seeds"], "cells": []})
        interval = f"[{signed(found['low'])}, {signed(found['high'])}]"
        row["cells"].append({"difference": signed(found["difference"]), "interval": interval, "verdict": found["verdict"]})
    return list(rows.values())


def _html(result: Result) -> str:
    return render(
        "study.html.j2",
        result=result,
        titles=[METRIC_TITLES[metric] for metric in result["metrics"]],
        summary=_summary(result),
        setting=_setting(result),
        arms=arm_table(result),
        pairs=pair_table(result),
        interval_note=_interval_note(result),
        search_note=search_note(result["search"]) if result["search"] else None,
        trials=search_table(result["search"]) if result["search"] else [],
        ltv_tables=ltv_tables(result, _order(result)),
        cost=_cost(result) if "cost" in result else None,
        by_history=[
            history_table(result, domain, _order(result)) | {"chart": history_chart(result, domain)} for domain in _history_domains(result)
        ],
        history_note=history_note(),
        charts=[chart for metric in result["metrics"] for chart in arm_charts(result, metric, _order(result))],
    )


def _cost(result: Result) -> dict[str, Any]:
    return {
        "titles": cost_titles(result),
        "rows": cost_table(result, _order(result)),
        "note": cost_note(result),
        "chart": cost_chart(result),
    }


def _history_domains(result: Result) -> list[str]:
    return list(result["by_history"]["domains"]) if "by_history" in result else []


def _summary(result: Result) -> str:
    """The findings in words; only an interval that leaves out 0 lets one arm be called better."""
    metric = result["metrics"][0]
    ranked = [name for name in _order(result) if result["arms"][name]["metrics"][metric]["mean"] is not None]
    if not ranked:
        return "No arm has finished yet."
    best = ranked[0]
    value = _mean_and_sd(result["arms"][best]["metrics"][metric])
    parts = [f"{best} has the best mean {METRIC_TITLES[metric]}, {value}."]
    rivals: dict[str, list[str]] = {"better": [], "worse": [], "undecided": []}
    for found in result["comparisons"]:
        if found["metric"] == metric and best in (found["a"], found["b"]):
            is_a = found["a"] == best
            verdict = found["verdict"] if is_a else {"better": "worse", "worse": "better"}.get(found["verdict"], "undecided")
            rivals[verdict].append(found["b"] if is_a else found["a"])
    parts += [f"It is {verdict} than {', '.join(names)}." for verdict, names in rivals.items() if names and verdict != "undecided"]
    if rivals["undecided"]:
        parts.append(f"Whether it is better than {', '.join(rivals['undecided'])} is undecided.")
    num_open = sum(found["verdict"] == "undecided" for found in result["comparisons"])
    if result["comparisons"]:
        parts.append(f"Over all metrics, {num_open} of {len(result['comparisons'])} comparisons are undecided.")
    if result["failed"]:
        parts.append(f"Failed and missing here: {', '.join(failure['cell'] for failure in result['failed'])}.")
    return " ".join(parts)


def _setting(result: Result) -> str:
    if result["num_rows"] is None:
        return "No run has finished."
    seeds = ", ".join(str(seed) for seed in result["seeds"])
    others = result["num_datasets"] - 1
    more = f", and {others} more that other arms have" if others else ""
    return (
        f"Data set {result['dataset']} (content {str(result['content_hash'])[:12]}{more}), test split of domain {result['domain']}: "
        f"{result['num_rows']:,} rows. Seeds {seeds}; mean \u00b1 standard deviation over seeds, deterministic (fixed) arms run once. "
        "Best mean in bold."
    )


def _interval_note(result: Result) -> str:
    return (
        f"A less B, mean over seeds, with the 95 % interval of a paired bootstrap over {result['unit']}s "
        f"({result['num_resamples']:,} resamples). "
        f"An interval that includes 0 is undecided. Intervals cover the draw of test {result['unit']}s, not of seeds, "
        "and are not corrected for the number of comparisons."
    )


def _order(result: Result) -> list[str]:
    """Arms, best first by the first metric; arms without a value come last."""
    metric = result["metrics"][0]
    sign = -1 if HIGHER_IS_BETTER[metric] else 1
    means = {name: arm["metrics"][metric]["mean"] for name, arm in result["arms"].items()}
    return sorted(means, key=lambda name: (means[name] is None, sign * (means[name] or 0.0)))


def _arm_cell(spread: Mapping[str, Any], is_best: bool) -> dict[str, Any]:
    sd = "" if spread["sd"] is None else f"\u00b1 {spread['sd']:.4f}"
    return {"text": _mean_and_sd(spread), "mean": number(spread["mean"]), "sd": sd, "best": is_best}


def _mean_and_sd(spread: Mapping[str, Any]) -> str:
    return number(spread["mean"]) + ("" if spread["sd"] is None else f" \u00b1 {spread['sd']:.4f}")


def _rows(titles: Sequence[str]) -> list[str]:
    return [_line(titles), _line(["---", *(["---:"] * (len(titles) - 1))])]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
