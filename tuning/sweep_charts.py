"""The pictures of a sweep: parallel coordinates, importance, a slice a knob, quality against cost."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from raytrain.training.figures import BAD, FIRST, GOOD, MUTED, SECOND, figure, svg
from tuning.space import Distribution, Space
from tuning.trial_log import TrialRecord

_STATUS_COLOURS = {"finished": FIRST, "stopped": MUTED, "failed": BAD}
NUM_GRADES = 5
Chart = dict[str, Any]


def parallel_chart(records: Sequence[TrialRecord], space: Space, objective: str, higher: bool, best: str) -> Chart | None:
    """A line a trial through its knobs to its value; the best fifth stand out, trials that were stopped stay pale."""
    done = [record for record in records if record.status == "finished"]
    if len(done) < 2:
        return None
    drawn = figure(7.4, 3.6)
    axes = drawn.axes[0]
    columns = [*space, objective]
    values = [record.value for record in done]
    low, high = min(values), max(values)
    sign = 1 if higher else -1
    order = sorted(done, key=lambda record: sign * record.value)
    for rank, record in enumerate(order):
        share = (record.value - low) / (high - low) if high > low else 0.5
        heights = [space[key].place(record.params[key]) for key in space] + [share]
        top = rank >= len(order) - max(1, len(order) // NUM_GRADES)
        colour, width, alpha = (GOOD, 2.6, 1.0) if record.name == best else (FIRST, 1.6, 0.9) if top else (MUTED, 1.0, 0.45)
        axes.plot(range(len(columns)), heights, color=colour, linewidth=width, alpha=alpha)
    axes.set_xticks(range(len(columns)), [_short(key) for key in space] + [objective])
    axes.set_yticks([])
    axes.set_ylim(-0.08, 1.08)
    for column, key in enumerate(space):
        _ends(axes, column, space[key])
    axes.text(len(columns) - 1, 1.1, f"{high:.4f}", ha="center", va="bottom", fontsize=8, color=MUTED)
    axes.text(len(columns) - 1, -0.1, f"{low:.4f}", ha="center", va="top", fontsize=8, color=MUTED)
    axes.tick_params(axis="x", pad=16)
    axes.grid(axis="y", visible=False)
    caption = "A line a finished trial: green the chosen one, dark the best fifth. Logarithmic ranges by the logarithm"
    return {"title": "Every trial", "caption": caption, "svg": svg(drawn, "parallel", "Parallel coordinates of all finished trials")}


def importance_chart(found: Mapping[str, float]) -> Chart | None:
    """A bar a knob."""
    if not found:
        return None
    drawn = figure(5.2, 0.7 + 0.36 * len(found))
    axes = drawn.axes[0]
    names = list(found)[::-1]
    axes.barh(range(len(names)), [found[name] for name in names], color=FIRST, height=0.6)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1)
    caption = "Share of the variance between finished trials, fANOVA. With few trials, a hint"
    return {"title": "Which knob matters", "caption": caption, "svg": svg(drawn, "importance", "Importance of each knob")}


def slice_charts(records: Sequence[TrialRecord], space: Space, objective: str, best: str) -> list[Chart]:
    """A chart a knob: value of the objective at the knob's values, over all trials."""
    charts = []
    shown = [record for record in records if record.status in ("finished", "stopped") and record.values]
    for number, (key, distribution) in enumerate(space.items()):
        drawn = figure()
        axes = drawn.axes[0]
        for record in shown:
            where = _x(distribution, record.params[key])
            chosen = record.name == best
            colour = GOOD if chosen else _STATUS_COLOURS[record.status]
            axes.plot([where], [record.value], "o", color=colour, markersize=7 if chosen else 5, alpha=1.0 if chosen else 0.75)
        if distribution.choice is not None:
            axes.set_xticks(range(len(distribution.choice)), [_label(value) for value in distribution.choice])
            axes.set_xlim(-0.5, len(distribution.choice) - 0.5)
        elif distribution.is_log:
            axes.set_xscale("log")
        axes.set_ylabel(objective)
        caption = "Blue finished, grey stopped early (the best they had come to), green chosen"
        charts.append({"title": key, "caption": caption, "svg": svg(drawn, f"slice-{number}", f"{objective} by {key}")})
    return charts


def cost_chart(records: Sequence[TrialRecord], objectives: Sequence[str], front: Sequence[str], best: str) -> Chart | None:
    """Quality against what it took; the trials that none beats in both are joined."""
    done = [record for record in records if record.status == "finished"]
    if len(done) < 2:
        return None
    second = objectives[1] if len(objectives) > 1 else None
    drawn = figure()
    axes = drawn.axes[0]
    joined = sorted((cost_of(record, second), record.value) for record in done if record.name in front)
    axes.plot([cost for cost, _ in joined], [value for _, value in joined], color=SECOND, linewidth=1.2)
    for record in done:
        axes.plot([cost_of(record, second)], [record.value], "o", color=GOOD if record.name == best else FIRST, markersize=6)
    axes.set_xlabel(second or "seconds of the trial, start-up included")
    axes.set_ylabel(objectives[0])
    caption = "Finished trials; the line joins those that no other beats in both"
    return {"title": "Quality against cost", "caption": caption, "svg": svg(drawn, "cost", "Quality of each trial against its cost")}


def cost_of(record: TrialRecord, second: str | None) -> float:
    """The second objective, or the trial's seconds where there is none."""
    return record.wall_s if second is None else record.values[second]


def _x(distribution: Distribution, value: Any) -> float:
    if distribution.choice is None:
        return float(value)
    return float(np.round(distribution.place(value) * max(1, len(distribution.choice) - 1)))


def _ends(axes: Axes, column: int, distribution: Distribution) -> None:
    """The two ends of a knob's axis, or its choices."""
    if distribution.choice is None:
        low, high = (f"{bound:g}" for bound in distribution.bounds)
    else:
        low, high = _label(distribution.choice[0]), _label(distribution.choice[-1])
    axes.text(column, 1.1, high, ha="center", va="bottom", fontsize=8, color=MUTED)
    axes.text(column, -0.1, low, ha="center", va="top", fontsize=8, color=MUTED)


def _label(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 14 else f"{text[:12]}\u2026"


def _short(key: str) -> str:
    """model.contrast.weight -> contrast.weight, on two lines where it is long."""
    short = ".".join(key.split(".")[-2:])
    return short.replace(".", ".\n") if len(short) > 12 else short
