"""Names beside the points of a scatter plot, none over another."""

from collections.abc import Iterator, Sequence
from math import cos, pi, sin

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

NUM_DIRECTIONS = 16
_REACHES_PT = (9.0, 16.0, 24.0, 34.0, 46.0, 60.0, 78.0, 100.0)
"""Distances from a point to its label that are tried, in points, the nearest first."""
_LINE_FROM_PT = 16.0
"""From here on a thin line leads to the point."""
_POINT_PT = 5.0
_GAP_PT = 1.0


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
    scale, frame = axes.figure.figure.dpi / 72, axes.get_window_extent()
    at = [tuple(axes.transData.transform(point)) for point in points]
    taken = [_box(x, y, _POINT_PT * scale, _POINT_PT * scale) for x, y in at]
    for index in sorted(range(len(points)), key=lambda index: (-at[index][1], at[index][0])):
        x, y = at[index]
        text = axes.annotate(names[index], points[index], color=colour, fontsize=size, ha="center", va="center")
        extent = text.get_window_extent(renderer)
        width, height = extent.width + 2 * _GAP_PT * scale, extent.height + 2 * _GAP_PT * scale
        places = [(reach, dx, dy, _box(x + dx, y + dy, width, height)) for reach, dx, dy in _places(width, height, scale)]
        reach, dx, dy, box = min(places, key=lambda place: _covered(place[3], taken, frame))
        text.remove()
        axes.annotate(
            names[index],
            points[index],
            xytext=(dx / scale, dy / scale),
            textcoords="offset points",
            color=colour,
            fontsize=size,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": muted, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 3}
            if reach >= _LINE_FROM_PT
            else None,
        ).set_in_layout(False)
        taken.append(box)


def _places(width: float, height: float, scale: float) -> Iterator[tuple[float, float, float]]:
    """(reach in points, offset of the label's centre in pixels), right first, then around, then farther out."""
    for reach in _REACHES_PT:
        for turn in range(NUM_DIRECTIONS):
            # 0, +1, -1, +2, -2, ...: right and left of the point before above and below.
            angle = (turn + 1) // 2 * (1 if turn % 2 else -1) * 2 * pi / NUM_DIRECTIONS
            across, up = cos(angle), sin(angle)
            yield reach, across * (reach * scale + width / 2), up * (reach * scale + height / 2)


def _covered(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> float:
    """Area that the box shares with others or has outside the frame, in pixels."""
    area = box.width * box.height
    return sum(_shared(box, other) for other in taken) + area - _shared(box, frame)


def _shared(a: Bbox, b: Bbox) -> float:
    both = Bbox.intersection(a, b)
    return 0.0 if both is None else float(both.width * both.height)


def _box(x: float, y: float, width: float, height: float) -> Bbox:
    return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)
