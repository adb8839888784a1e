"""Names beside the points of a scatter plot, none over another.

Boxes are float [N, 4]: left, bottom, right, top in pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

Floats = npt.NDArray[np.float64]

NUM_DIRECTIONS = 16
REACHES_PT = (9.0, 16.0, 24.0, 34.0, 46.0, 60.0, 78.0, 100.0)
"""Distances from a point to its name that are tried, in typographic points, the nearest first."""
LINE_FROM_PT = 16.0
"""From here on a thin line leads to the point."""
POINT_PT, GAP_PT = 5.0, 1.0


def label_points(
    axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], colour: str, muted: str, size: float = 8.5
) -> None:
    """Writes each name at the nearest place around its point that is inside the axes and free of points and other names.

    Greedy, from the top down and from left to right: the same points give the same picture. A name that finds no free place
    takes the one that covers least. Fixes the limits of the axes: call it last.
    """
    canvas = FigureCanvasAgg(axes.figure.figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    # Positions hold while the figure keeps its size and layout.
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    renderer = canvas.get_renderer()  # type: ignore[no-untyped-call]
    scale, window = axes.figure.figure.dpi / 72, axes.get_window_extent()
    frame = np.array([[window.x0, window.y0, window.x1, window.y1]])
    at = np.asarray(axes.transData.transform(points), dtype=np.float64)
    taken = _boxes(at, POINT_PT * scale, POINT_PT * scale)
    style: dict[str, Any] = {"color": colour, "fontsize": size, "ha": "center", "va": "center"}
    for index in sorted(range(len(points)), key=lambda index: (-at[index, 1], at[index, 0])):
        width, height = _size(axes, names[index], style, renderer)
        offsets = _offsets(width / scale, height / scale)
        places = _boxes(at[index] + offsets * scale, width, height)
        covered = _shared(places, taken).sum(1) + width * height - _shared(places, frame)[:, 0]
        # Whole pixels: rounding errors must not send a name away.
        best = int(np.argmin(np.round(covered)))
        far = REACHES_PT[best // NUM_DIRECTIONS] >= LINE_FROM_PT
        name = axes.annotate(
            names[index],
            points[index],
            xytext=tuple(offsets[best]),
            textcoords="offset points",
            arrowprops={"arrowstyle": "-", "color": muted, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3} if far else None,
            **style,
        )
        name.set_in_layout(False)
        taken = np.vstack([taken, places[best]])


def _size(axes: Axes, name: str, style: dict[str, Any], renderer: Any) -> tuple[float, float]:
    """(width, height) of a name with the gap around it, pixels."""
    text = axes.text(0, 0, name, **style)
    extent, gap = text.get_window_extent(renderer), 2 * GAP_PT * axes.figure.figure.dpi / 72
    text.remove()
    return extent.width + gap, extent.height + gap


def _offsets(width: float, height: float) -> Floats:
    """[places, 2] from the point to the middle of its name: right first, then around to the left, then farther out."""
    turns = np.arange(NUM_DIRECTIONS)
    # 0, +1, -1, +2, -2, ...
    angle = (turns + 1) // 2 * np.where(turns % 2, 1, -1) * 2 * np.pi / NUM_DIRECTIONS
    reach = np.array(REACHES_PT)[:, None]
    return np.stack([np.cos(angle) * (reach + width / 2), np.sin(angle) * (reach + height / 2)], axis=-1).reshape(-1, 2)


def _boxes(middles: Floats, width: float, height: float) -> Floats:
    half = np.array([width, height]) / 2
    return np.hstack([middles - half, middles + half])


def _shared(a: Floats, b: Floats) -> Floats:
    """[A, B]: the area that two boxes have in common, square pixels."""
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    return np.asarray(np.prod(np.clip(high - low, 0, None), axis=2))
