"""What a study of rolls found: result.json for machines, result.md to quote, result.html to show."""

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator

from pipelines.roll_config import REFERENCE
from pipelines.roll_figures import seeds_disagree
from raytrain.json_text import json_text
from raytrain.metrics.bootstrap import CLICK_METRICS
from raytrain.storage import Storage
from raytrain.training.figures import BAD, GOOD, MUTED, figure, svg
from raytrain.training.report import METRIC_TITLES, number, render, signed

Result = Mapping[str, Any]
METRIC = "gauc"
"""Of the tables' differences: what ads are ranked by within a user."""
_COLOURS = {"better": GOOD, "worse": BAD, "undecided": MUTED}


def write_report(storage: Storage, result: Result) -> None:
    """Writes result.json, result.md and result.html."""
    storage.write_text("result.json", json_text(result))
    storage.write_text("result.md", markdown(result))
    charts = {name: _chart(name, case) for name, case in result["cases"].items()}
    storage.write_text(
        "result.html",
        render(
            "rolls.html.j2",
            result=result,
            across=across(result),
            cases={name: {"setting": setting(case), "table": table(case), "chart": charts[name]} for name, case in result["cases"].items()},
            note=_note(result),
        ),
    )


def markdown(result: Result) -> str:
    """Every table as GitHub Markdown, with the command that made them."""
    lines = [f"# {result['name']} ({result['preset']})", "", "```", result["command"], "```", "", _note(result)]
    rows = across(result)
    if rows is not None:
        lines += ["", "The chain less an arm, in GAUC, case by case:", "", *_markdown(rows)]
    for name, case in result["cases"].items():
        lines += ["", f"## {name}", "", setting(case), "", *_markdown(table(case))]
    if result["failed"]:
        lines += ["", "Failed: " + "; ".join(f"{failure['case']}: {failure['error']}" for failure in result["failed"])]
    return "\n".join(lines) + "\n"


def setting(case: Result) -> str:
    """What the case is made of, in a sentence."""
    parts = [f"`{case['roll']}`"]
    if case["overrides"]:
        parts.append(f"with {' '.join(case['overrides'])}")
    if case["recipe"]:
        parts.append(f"on a data set with {' '.join(case['recipe'])}")
    return f"{' '.join(parts)}: {case['num_days']} days, {case['num_rows']:,} rows of ads."


def across(result: Result) -> list[list[str]] | None:
    """Titles, then a row a case: the chain's GAUC, and what each arm that several cases have lacks of it. None where no arm is shared."""
    cases = result["cases"]
    shared = [
        arm
        for arm in dict.fromkeys(arm for case in cases.values() for arm in case["arms"])
        if arm != REFERENCE and sum(arm in case["arms"] for case in cases.values()) > 1
    ]
    if not shared:
        return None
    rows = [["Case", "Chain", *(f"less {arm}" for arm in shared)]]
    for name, case in cases.items():
        cells = [_difference(case, arm) for arm in shared]
        if any(cells):
            rows.append([name, _mean(case["arms"][REFERENCE], METRIC), *(cell or "\u2013" for cell in cells)])
    return rows


def table(case: Result) -> list[list[str]]:
    """Titles, then a row an arm, the chain first."""
    titles = ["Arm", *(METRIC_TITLES[metric] for metric in CLICK_METRICS), "The chain less it, GAUC", "Forgetting index less the chain's"]
    rows = [titles]
    for name, arm in case["arms"].items():
        more = case["forgetting"]["arms"].get(name, {}).get("more_than_full")
        forgets = f"{signed(more['difference'])} [{signed(more['low'])}, {signed(more['high'])}]" if more else "\u2013"
        rows.append([name, *(_mean(arm, metric) for metric in CLICK_METRICS), _difference(case, name) or "\u2013", forgets])
    return rows


def _mean(arm: Result, metric: str) -> str:
    value, spread = arm["pooled"][metric], arm["spread"][metric]
    return number(value) if spread is None else f"{number(value)} \u00b1 {number(spread)}"


def _difference(case: Result, arm: str) -> str:
    """ "" where they were not compared."""
    found = next((pair for pair in case["comparisons"] if pair["b"] == arm and pair["metric"] == METRIC), None)
    if found is None:
        return ""
    disagree = ", seeds disagree" if seeds_disagree(found) else ""
    return f"{signed(found['difference'])} [{signed(found['low'])}, {signed(found['high'])}] {found['verdict']}{disagree}"


def _note(result: Result) -> str:
    seeds = ", ".join(map(str, result["seeds"]))
    spread = "; mean \u00b1 standard deviation over seeds" if len(result["seeds"]) > 1 else ""
    return (
        f"Seeds {seeds}{spread}. Differences with the 95 % interval of a paired bootstrap over users: they cover the draw of users, not of "
        "seeds, and are not corrected for the number of comparisons. An interval that includes 0 is undecided."
    )


def _markdown(rows: list[list[str]]) -> list[str]:
    head, *body = rows
    line = "| --- |" + " ---: |" * (len(head) - 1)
    return [f"| {' | '.join(head)} |", line, *(f"| {' | '.join(row)} |" for row in body)]


def _chart(name: str, case: Result) -> dict[str, Any] | None:
    """The chain less each arm, with its interval, in the file's order from the top."""
    pairs = [pair for pair in case["comparisons"] if pair["metric"] == METRIC and pair["difference"] is not None][::-1]
    if not pairs:
        return None
    drawn = figure(6.4, 0.9 + 0.24 * len(pairs))
    axes = drawn.axes[0]
    for lane, pair in enumerate(pairs):
        colour = _COLOURS[pair["verdict"]]
        axes.plot([pair["low"], pair["high"]], [lane, lane], color=colour, linewidth=1.4)
        axes.plot([pair["difference"]], [lane], marker="o", markersize=4.5, color=colour)
    axes.axvline(0.0, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(pairs)), [pair["b"] for pair in pairs])
    axes.set_ylim(-0.7, len(pairs) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    title = "The chain less each arm, GAUC"
    caption = "Dot: difference. Whisker: 95 % interval over users; grey where it includes 0."
    return {"title": title, "caption": caption, "svg": svg(drawn, f"rolls-{name}", f"{name}: {title}")}
