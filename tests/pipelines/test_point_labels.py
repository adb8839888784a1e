"""Names in a scatter plot can be read: none over another, over a point, or outside."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from pipelines.point_labels import label_points
from raytrain.training.figures import figure


def labelled(points: list[tuple[float, float]]) -> tuple[Axes, list[Bbox]]:
    """(axes, the rectangle of each name in pixels)"""
    made = figure(5.2, 3.9)
    axes = made.axes[0]
    axes.plot(*zip(*points, strict=True), marker="o", linestyle="none")
    axes.margins(0.14)
    label_points(axes, points, [f"an_arm_of_{index}" for index in range(len(points))], "black", "grey")
    made.draw_without_rendering()
    # An annotation's own extent has its line in it.
    return axes, [Text.get_window_extent(text) for text in axes.texts]


@pytest.mark.parametrize("seed", range(4))
def test_names_of_crowded_points_stay_apart(seed: int) -> None:
    draw = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in draw.normal(size=(14, 2)) * (0.3, 0.02)]
    axes, boxes = labelled(points)
    assert len(boxes) == 14
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    frame = axes.get_window_extent()
    assert all(frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1 for box in boxes)
    places = axes.transData.transform(points)
    assert not [box for box in boxes for x, y in places if box.contains(x, y)]


def test_equal_points_have_a_name_each_and_one_point_needs_no_room() -> None:
    _, boxes = labelled([(1.0, 1.0)] * 5)
    assert not [pair for pair in combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    assert len(labelled([(3.0, 0.8)])[1]) == 1


def test_a_lonely_point_has_its_name_beside_it() -> None:
    # From the top down and from left to right.
    points = [(2.0, 1.0), (1.0, 0.0), (3.0, 0.0)]
    axes, boxes = labelled(points)
    for box, (x, y) in zip(boxes, axes.transData.transform(points), strict=True):
        across, up = max(box.x0 - x, x - box.x1, 0), max(box.y0 - y, y - box.y1, 0)
        assert across + up < 18, "pixels, at 100 an inch"
