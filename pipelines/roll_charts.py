"""The pictures of a roll: metrics by day, drift of snapshots, and what was made from what."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import matplotlib.dates as mdates
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipelines.roll_config import REFERENCE
from raytrain.training.figures import BAD, FIRST, GOOD, MUTED, SECOND, figure, svg
from raytrain.training.report import METRIC_TITLES

_COLOURS = (FIRST, SECOND, GOOD, BAD, MUTED)
_DASHES = ("-", "--", ":", "-.")
_SMOOTHED_DAYS = 7
_LANES = {"tpm": 2, "cpm": 1, "actr": 0}
_LANE_NAMES = {"tpm": "TPM, monthly", "cpm": "CPM, weekly", "actr": "A-CTR, daily"}


def day_charts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A chart a metric: each arm's mean of seven days, over the days that are served."""
    if not any(arm["days"] for arm in result["arms"].values()):
        return []
    charts = []
    for metric in ("gauc", "auc", "logloss"):
        drawn = figure()
        axes = drawn.axes[0]
        for number, (name, arm) in enumerate(result["arms"].items()):
            days, values = _smoothed(arm["days"], metric)
            width = 2.4 if name == REFERENCE else 1.3
            style = _DASHES[number // len(_COLOURS) % len(_DASHES)]
            axes.plot(days, values, color=_COLOURS[number % len(_COLOURS)], linestyle=style, linewidth=width, label=name)
        _date_axis(axes)
        axes.legend(frameon=False, fontsize=8.5, ncols=2)
        title = METRIC_TITLES[metric]
        charts.append(
            {
                "title": f"{title} by day",
                "caption": f"Mean of up to {_SMOOTHED_DAYS} days, weighted by rows",
                "svg": svg(drawn, f"day-{metric}", f"{title} of each arm by day"),
            }
        )
    return charts


def drift_charts(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """How far each snapshot lies from the one before."""
    if not result["drift"]:
        return []
    drawn = figure()
    axes = drawn.axes[0]
    features = sorted({record["feature"] for record in result["drift"]})
    for number, feature in enumerate(features):
        records = [record for record in result["drift"] if record["feature"] == feature and record["residual"] is not None]
        days = [_number(record["day"]) for record in records]
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot(days, [record["residual"] for record in records], color=colour, marker="o", markersize=4, label=f"{feature}, rotated")
        plain = [record["plain"] for record in records]
        axes.plot(days, plain, color=colour, linestyle=":", marker="o", markersize=3, label=f"{feature}, as it is")
    axes.set_ylim(bottom=0)
    _date_axis(axes)
    axes.legend(frameon=False, fontsize=8.5)
    caption = "Distance from the month before as a share of its size, over ids that both know; rotated: orthogonal Procrustes"
    return [{"title": "Drift of snapshots", "caption": caption, "svg": svg(drawn, "drift", "Procrustes residual of each snapshot")}]


def lineage_chart(result: Mapping[str, Any]) -> Any:
    """Every stage of the chain as the span of days it was trained on, with a line from each parent."""
    stages = {stage["name"]: stage for stage in result["stages"]}
    wanted = result["arms"][REFERENCE]["stages"]
    if not wanted:
        return None
    # The page shows it at 42 rem: letters are as large as in the narrower charts.
    drawn = figure(7.4, 3.6)
    axes = drawn.axes[0]
    place = {name: (_number(stages[name]["day"]), _height(stages, name, wanted)) for name in wanted}
    for name in wanted:
        stage = stages[name]
        day, height = place[name]
        begin = _number(stage["train"][0])
        colour = {"finished": FIRST, "failed": BAD, "blocked": MUTED}[stage["state"]]
        axes.plot([begin, day], [height, height], color=colour, linewidth=1.2, alpha=0.55)
        axes.plot([day], [height], marker="o", markersize=4, color=colour)
        for parent in stage["parents"]:
            if parent in place:
                axes.plot([place[parent][0], day], [place[parent][1], height], color=MUTED, linewidth=0.5, alpha=0.5)
    axes.set_yticks(list(_LANES.values()), [_LANE_NAMES[kind] for kind in _LANES])
    axes.set_ylim(-0.5, 2.5)
    _date_axis(axes)
    caption = "A bar is the days that a model was trained on, its dot the first day that it may serve; lines lead to what was made from it"
    return {"title": "Lineage", "caption": caption, "svg": svg(drawn, "lineage", "Stages of the roll and their parents")}


def _height(stages: Mapping[str, Mapping[str, Any]], name: str, wanted: Sequence[str]) -> float:
    """Neighbours of a lane lie a little apart, so that their bars can be told."""
    kind = stages[name]["kind"]
    lane = sorted((other for other in wanted if stages[other]["kind"] == kind), key=lambda other: str(stages[other]["day"]))
    return _LANES[kind] + 0.32 * ((lane.index(name) % 5) - 2) / 2


def _smoothed(days: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[float], list[float]]:
    known = [(_number(day["day"]), day[metric], day["num_rows"]) for day in days if day[metric] is not None]
    values = []
    for number in range(len(known)):
        window = known[max(0, number - _SMOOTHED_DAYS + 1) : number + 1]
        values.append(sum(value * rows for _, value, rows in window) / sum(rows for _, _, rows in window))
    return [day for day, _, _ in known], values


def _number(day: str) -> float:
    """Days since 1970, which is how Matplotlib counts."""
    return float((date.fromisoformat(day) - date(1970, 1, 1)).days)


def _date_axis(axes: Axes) -> None:
    axes.xaxis_date()
    first, last = axes.dataLim.intervalx
    # Of few days Matplotlib would mark hours, of a single one years.
    locator = mdates.DayLocator() if last - first < _SMOOTHED_DAYS else mdates.AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    if len(axes.get_yticks()) > 8:
        axes.yaxis.set_major_locator(MaxNLocator(6))
