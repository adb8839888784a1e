"""The pictures of look.html: bars beside chance, and maps of items."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pipelines.lcn_map import ItemMap
from raytrain.training.figures import FIRST, GRID, INK, MUTED, SECOND, figure, svg

_CATEGORY_COLOURS = ("#4e79a7", "#e15759", "#59a14f", "#f28e2b", "#b07aa1", "#2fa7a0", "#d4a90c", "#9c6b4f")
"""Tableau's, of a lightness that stands out from a white page and from a black one; the same in both themes."""
_MARKERS = {False: "o", True: "^"}
"""of the source, of the target"""
_SPACES = {"before": "Before the projection", "after": "After the projection"}


@dataclass(frozen=True)
class Bar:
    label: str
    value: float
    colour: str
    chance: float | None = None


def bars(drawn: Sequence[Bar], name: str, description: str) -> Markup:
    """Shares as horizontal bars, the first on top, each with its figure; a mark where chance is."""
    shown = [bar for bar in drawn if not math.isnan(bar.value)][::-1]
    made = figure(5.2, 0.55 + 0.29 * max(1, len(shown)))
    axes = made.axes[0]
    axes.barh(range(len(shown)), [bar.value for bar in shown], color=[bar.colour for bar in shown], height=0.62)
    for height, bar in enumerate(shown):
        if bar.chance is not None:
            axes.plot([bar.chance, bar.chance], [height - 0.42, height + 0.42], color=INK, linewidth=1.8)
        axes.annotate(
            f"{bar.value:.1%}", (max(bar.value, bar.chance or 0.0), height), (5, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_yticks(range(len(shown)), [bar.label for bar in shown])
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_xlim(0, 1.22 * max([0.01, *(max(bar.value, bar.chance or 0.0) for bar in shown)]))
    axes.set_ylim(-0.6, max(1, len(shown)) - 0.4)
    return svg(made, name, description)


def maps_of(found: ItemMap, name: str, tag: str) -> list[dict[str, Any]]:
    """title, caption, svg: before and after, by domain; and by category where items have one."""
    kinds = ["domain"] if found.category is None else ["domain", found.category_title]
    charts = []
    for kind in kinds:
        for space, title in _SPACES.items():
            colours = _domain_colours(found) if kind == "domain" else _category_colours(found)
            heading = tag + title
            caption = f"Coloured by {kind}."
            drawn = svg(_scatter(found, space, colours), f"{name}-{kind}-{space}", f"Map of items. {heading}. {caption}")
            charts.append({"title": heading, "caption": caption, "svg": drawn})
    return charts


def legend_of(found: ItemMap, source: str) -> dict[str, list[dict[str, str]]]:
    """kind -> entries of colour (CSS), sign and name."""
    legend = {
        "domain": [
            {"colour": "var(--first)", "sign": "\u25cf", "name": source},
            {"colour": "var(--second)", "sign": "\u25b2", "name": "target"},
        ]
    }
    if found.category is not None:
        shown = _shown_categories(found.category)
        names = [{"colour": colour, "sign": "\u25a0", "name": found.category_names.get(code, str(code))} for code, colour in shown.items()]
        legend[found.category_title] = [*names, {"colour": "var(--muted)", "sign": "\u25a0", "name": "other"}]
    return legend


def _scatter(found: ItemMap, space: str, colours: npt.NDArray[np.str_]) -> Any:
    made = figure(4.8, 4.3)
    axes: Axes = made.axes[0]
    places = found.places[space]
    # Drawn in an order that has nothing to do with domain or category: neither lies on top of the other.
    order = np.random.default_rng(0).permutation(len(places))
    for block in np.array_split(order, 8):
        for is_target, marker in _MARKERS.items():
            chosen = block[found.is_target[block] == is_target]
            for colour in np.unique(colours[chosen]):
                points = places[chosen[colours[chosen] == colour]]
                axes.plot(points[:, 0], points[:, 1], marker, color=colour, markersize=3.2, markeredgewidth=0, linestyle="none", alpha=0.75)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(GRID)
    axes.set_aspect("equal", adjustable="datalim")
    return made


def _domain_colours(found: ItemMap) -> npt.NDArray[np.str_]:
    return np.where(found.is_target, SECOND, FIRST)


def _category_colours(found: ItemMap) -> npt.NDArray[np.str_]:
    assert found.category is not None
    shown = _shown_categories(found.category)
    return np.array([shown.get(int(code), MUTED) for code in found.category])


def _shown_categories(category: npt.NDArray[np.int64]) -> dict[int, str]:
    """The most common codes with a colour each, the most common first."""
    codes, counts = np.unique(category[category > 0], return_counts=True)
    order = np.argsort(-counts, kind="stable")[: len(_CATEGORY_COLOURS)]
    return {int(code): colour for code, colour in zip(codes[order], _CATEGORY_COLOURS, strict=False)}
