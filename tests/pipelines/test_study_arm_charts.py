"""An arm far off does not squeeze the others: it stands at the axis's end, with an arrow and its value."""

from typing import Any

import pytest

from pipelines.study_arm_charts import arm_charts, far_lanes


def spans(*middles: float) -> list[tuple[float, float, float]]:
    """A tenth to either side."""
    return [(middle - 0.1, middle, middle + 0.1) for middle in middles]


@pytest.mark.parametrize(
    ("middles", "far"),
    [
        # The nearer half, 10 to 12, spans 9.9 to 12.1; three times 2.2 below it is 3.3.
        ((12, 11, 10, 3.4, 5), set()),
        ((12, 11, 10, 3.2, 5), {3}),
        ((12, 11, 10, -50, -60), {3, 4}),
        ((12, 11, 10, -60), set()),
    ],
    ids=["just inside", "just outside", "two", "too few to say"],
)
def test_what_lies_three_widths_beyond_the_nearer_half_is_off(middles: tuple[float, ...], far: set[int]) -> None:
    assert far_lanes(spans(*middles), list(range(len(middles)))) == far


def result_of(values: list[float], metric: str) -> dict[str, Any]:
    """Arms a, b, ... with two seeds each, and each less the last."""
    names = "abcdefg"[: len(values)]
    arms = {
        name: {"metrics": {metric: {"mean": value, "values": {"0": value - 0.001, "1": value + 0.001}}}}
        for name, value in zip(names, values, strict=True)
    }
    last = names[-1]
    pairs = [
        {
            "a": name,
            "b": last,
            "metric": metric,
            "difference": value - values[-1],
            "low": value - values[-1] - 0.002,
            "high": value - values[-1] + 0.002,
            "verdict": "better",
        }
        for name, value in zip(names[:-1], values[:-1], strict=True)
    ]
    return {"arms": arms, "comparisons": pairs}


def test_an_arm_and_a_difference_far_off_are_given_as_text() -> None:
    arms, pairs = arm_charts(result_of([0.7412, 0.81, 0.811, 0.812, 0.813, 0.814], "auc"), "auc", list("fedcba"))
    assert ">0.7412<" in arms["svg"]
    assert ">0.81<" not in arms["svg"].replace("0.8100", ""), "ticks are finer than that"
    assert arms["caption"].endswith("Arrow: off the axis, at the value beside it.")
    assert "0.0728 [-0.0748, -0.0708]" in pairs["svg"].replace("\u2212", "-")


def test_arms_close_to_each_other_are_all_on_the_axis() -> None:
    arms, pairs = arm_charts(result_of([0.810, 0.811, 0.812, 0.813, 0.814, 0.815], "auc"), "auc", list("fedcba"))
    assert "Arrow" not in arms["caption"] + pairs["caption"]


def test_where_lower_is_better_the_far_arm_is_at_the_other_end() -> None:
    (arms, _) = arm_charts(result_of([0.9, 0.51, 0.511, 0.512, 0.513, 0.514], "logloss"), "logloss", list("bcdefa"))
    assert ">0.9000<" in arms["svg"]
    assert "text-anchor: end" in arms["svg"].split(">0.9000<")[0].rpartition("<text")[2]
