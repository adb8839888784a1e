"""A study's two charts a metric: arms over their seeds, and differences with their intervals."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.training.figures import BAD, FIRST, GOOD, MUTED, figure, svg
from raytrain.training.report import METRIC_TITLES, number, signed

Result = Mapping[str, Any]
Span = tuple[float, float, float]
"""Least, middle and most of what a lane shows."""

_COLOURS = {"better": GOOD, "worse": BAD, "undecided": MUTED}
_PAIRS_CAPTION = "Dot: A less B. Whisker: 95 % interval; grey where it includes 0."
_LEAST_LANES = 5
"""With fewer, the nearer half is too few to say what is far."""
_REACH = 3.0
"""Of the nearer half's width: who lies further beyond it would squeeze the others into a corner (our choice)."""


def arm_charts(result: Result, metric: str, order: Sequence[str]) -> list[dict[str, Any]]:
    """title, caption and svg of one metric's arms (from the top in ``order``, best first) and, beside them, of its differences."""
    title = METRIC_TITLES[metric]
    kinds = (
        ("arms", title, "Dots: seeds. Bar: their mean.", _draw_arms(result, metric, order)),
        ("pairs", f"Differences in {title}", _PAIRS_CAPTION, _draw_pairs(result, metric)),
    )
    charts = []
    for kind, heading, caption, drawn in kinds:
        if drawn is None:
            continue
        made, has_far = drawn
        said = f"{caption} Arrow: off the axis, at the value beside it." if has_far else caption
        charts.append({"title": heading, "caption": said, "svg": svg(made, f"{kind}-{metric}", f"{heading}. {said}")})
    return charts


def far_lanes(spans: Sequence[Span], nearest_first: Sequence[int]) -> frozenset[int]:
    """Positions of spans that would stretch the axis: their middle lies more than _REACH widths beyond the nearer half of all."""
    if len(spans) < _LEAST_LANES:
        return frozenset()
    near = [spans[index] for index in nearest_first[: ceil(len(spans) / 2)]]
    low, high = min(span[0] for span in near), max(span[2] for span in near)
    reach = _REACH * (high - low)
    return frozenset(index for index, (_, middle, _) in enumerate(spans) if not low - reach <= middle <= high + reach)


def _draw_arms(result: Result, metric: str, order: Sequence[str]) -> tuple[Figure, bool] | None:
    """The figure, and whether an arm is off its axis."""
    arms = [arm for arm in order if result["arms"][arm]["metrics"][metric]["mean"] is not None][::-1]
    if not arms:
        return None
    spreads = [result["arms"][arm]["metrics"][metric] for arm in arms]
    values = [[value for value in spread["values"].values() if value is not None] for spread in spreads]
    spans = [(min(own), spread["mean"], max(own)) for own, spread in zip(values, spreads, strict=True)]
    sign = -1 if HIGHER_IS_BETTER[metric] else 1
    far = far_lanes(spans, sorted(range(len(spans)), key=lambda index: sign * spans[index][1]))
    made, axes = _lanes(arms)
    for height, (own, (_, mean, _)) in enumerate(zip(values, spans, strict=True)):
        if height not in far:
            axes.plot([mean], [height], color=FIRST, marker="|", markersize=18, markeredgewidth=2.6)
            axes.plot(own, [height] * len(own), color=FIRST, marker="o", markersize=6, linestyle="none", alpha=0.55, markeredgewidth=0)
    for height in sorted(far):
        mean = spans[height][1]
        _point_off(axes, height, mean < axes.get_xlim()[0], FIRST, number(mean))
    better = "higher" if HIGHER_IS_BETTER[metric] else "lower"
    axes.set_xlabel(f"{METRIC_TITLES[metric]} ({better} is better)")
    return made, bool(far)


def _draw_pairs(result: Result, metric: str) -> tuple[Figure, bool] | None:
    """The figure, and whether a difference is off its axis."""
    found = [one for one in result["comparisons"] if one["metric"] == metric and one["low"] is not None][::-1]
    if not found:
        return None
    spans = [(one["low"], one["difference"], one["high"]) for one in found]
    far = far_lanes(spans, sorted(range(len(spans)), key=lambda index: abs(spans[index][1])))
    made, axes = _lanes([f"{one['a']} \u2212 {one['b']}" for one in found])
    axes.axvline(0, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    for height, (one, (low, difference, high)) in enumerate(zip(found, spans, strict=True)):
        if height not in far:
            colour = _COLOURS[one["verdict"]]
            axes.plot([low, high], [height, height], color=colour, linewidth=2.2)
            axes.plot([difference], [height], color=colour, marker="o", markersize=7)
    for height in sorted(far):
        one, (low, difference, high) = found[height], spans[height]
        text = f"{signed(difference)} [{signed(low)}, {signed(high)}]"
        # The axis of a metric that is better when lower is turned round.
        _point_off(axes, height, (difference < 0) == HIGHER_IS_BETTER[metric], _COLOURS[one["verdict"]], text)
    if not HIGHER_IS_BETTER[metric]:
        axes.invert_xaxis()
    axes.set_xlabel(f"difference in {METRIC_TITLES[metric]} (right: A is better)")
    return made, bool(far)


def _point_off(axes: Axes, height: int, left: bool, colour: str, text: str) -> None:
    """An arrow at one end of a lane, with the value that lies beyond."""
    place, at = axes.get_yaxis_transform(), (0.015 if left else 0.985)
    axes.plot([at], [height], color=colour, marker="<" if left else ">", markersize=8, transform=place, clip_on=False)
    beside = 0.05 if left else 0.95
    axes.text(beside, height, text, color=colour, fontsize=9, va="center", ha="left" if left else "right", transform=place)


def _lanes(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """(figure, axes) with one labelled lane a name, from the bottom up."""
    made = figure(5.2, 1.0 + 0.36 * len(labels))
    axes = made.axes[0]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(-0.7, len(labels) - 0.3)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.margins(x=0.08)
    return made, axes
