"""The cost of a study's arms beside their quality: a table, the words that say what it holds, and one chart."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from pipelines.point_labels import label_points
from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.training.figures import FIRST, INK, MUTED, figure, svg
from raytrain.training.report import METRIC_TITLES, number

Result = Mapping[str, Any]


def cost_titles(result: Result) -> list[tuple[str, str]]:
    """Columns after the arm's name, (what, of what or in which unit)."""
    cost, metric = result["cost"], METRIC_TITLES[result["metrics"][0]]
    reference = [] if cost["reference"] is None else [("Speed", f"of {cost['reference']}")]
    sizes = [("MFLOP", "a sample"), ("Dense", "weights"), ("Tables", "MiB"), ("Memory", "MiB")]
    return [(metric, ""), ("Training", "samples/s"), *reference, *sizes, (f"{cost['num_candidates']:,} items", "ms")]


def cost_table(result: Result, order: Sequence[str]) -> list[dict[str, Any]]:
    """A row an arm: name and cells of text and range, a dash where there is nothing to measure."""
    return [{"name": name, "cells": _cells(result, name)} for name in order]


def cost_markdown(result: Result, order: Sequence[str]) -> list[list[str]]:
    """Rows of the same table, titles first."""
    rows = [
        [row["name"], *(" ".join(filter(None, (cell["text"], cell["range"]))) for cell in row["cells"])]
        for row in cost_table(result, order)
    ]
    return [["Arm", *(" ".join(filter(None, title)) for title in cost_titles(result))], *rows]


def cost_note(result: Result) -> str:
    """What was measured, how and under which load."""
    cost = result["cost"]
    measured = [arm for arm in cost["arms"].values() if arm is not None]
    if not measured:
        return "No cost was measured."
    batches = sorted({round(arm["batch_rows"]) for arm in measured})
    loads = [arm["load"][end] for arm in measured for end in ("min", "max")]
    return (
        "Medians over rounds that measure every arm in turn, and the range; each measurement is a process of its own with "
        f"{cost['num_threads']} thread(s) on {measured[0]['num_cpus']} cores whose load was {min(loads):.1f} to {max(loads):.1f}. "
        f"Samples/s: steps of {' or '.join(f'{rows:,}' for rows in batches)} rows from memory, no reading. "
        + (f"Of {cost['reference']}: ratio of these speeds inside a round. " if cost["reference"] else "")
        + "MFLOP: matrix products of one training step, as executed; look-ups, gathers, softmax, top-k and optimizer count 0. "
        "Memory: peak in training over what the process held before the model was built. "
        f"ms: median and 95th percentile of scoring {cost['num_candidates']:,} items for one user, features in memory, nothing "
        "cached across items. "
        "A dash: a plain baseline, which takes no training steps, or no measurement."
    )


def cost_chart(result: Result) -> dict[str, Any] | None:
    """The first metric's mean over seeds against training speed, a labelled point an arm; None where no arm has both."""
    metric = result["metrics"][0]
    points = {
        name: (arm["samples_per_s"]["median"], result["arms"][name]["metrics"][metric]["mean"])
        for name, arm in result["cost"]["arms"].items()
        if arm is not None and result["arms"][name]["metrics"][metric]["mean"] is not None
    }
    if not points:
        return None
    made = figure(5.2, 3.9)
    axes = made.axes[0]
    axes.set_xscale("log")
    speeds, qualities = zip(*points.values(), strict=True)
    axes.plot(speeds, qualities, color=FIRST, marker="o", markersize=6, linestyle="none", markeredgewidth=0)
    axes.margins(x=0.14, y=0.14)
    if not HIGHER_IS_BETTER[metric]:
        axes.invert_yaxis()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("training samples/s, log scale (right: cheaper)")
    axes.set_ylabel(f"{METRIC_TITLES[metric]} (up: better)")
    label_points(axes, list(points.values()), list(points), INK, MUTED)
    title, caption = f"{METRIC_TITLES[metric]} and cost", "Dot: an arm, mean over seeds against median training speed."
    return {"title": title, "caption": caption, "svg": svg(made, "cost", f"{title}. {caption}")}


def _cells(result: Result, name: str) -> list[dict[str, str]]:
    cost, arm = result["cost"], result["cost"]["arms"].get(name)
    quality = _plain(number(result["arms"][name]["metrics"][result["metrics"][0]]["mean"]))
    if arm is None:
        return [quality, *(_plain(number(None)) for _ in cost_titles(result)[1:])]
    return [
        quality,
        _spread(arm["samples_per_s"], 0),
        *([] if cost["reference"] is None else [_spread(arm["of_reference"], 2)]),
        _plain(number(arm["flops_per_sample"] / 1e6, 3)),
        _plain(number(arm["num_dense_parameters"], 0)),
        _plain(number(arm["table_mib"], 1)),
        _spread(arm["peak_rss_mib"], 0),
        {"text": number(arm["request_ms_p50"]["median"], 1), "range": f"(p95 {number(arm['request_ms_p95']['median'], 1)})"},
    ]


def _plain(text: str) -> dict[str, str]:
    return {"text": text, "range": ""}


def _spread(spread: Mapping[str, float] | None, digits: int) -> dict[str, str]:
    """The median, and the range where rounding leaves one."""
    if spread is None:
        return _plain(number(None))
    least, middle, most = (number(spread[name], digits) for name in ("min", "median", "max"))
    return {"text": middle, "range": "" if least == most else f"({least}\u2013{most})"}
