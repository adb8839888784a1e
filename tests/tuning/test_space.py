"""What a sweep draws: bounds, choices, places in a chart, and the way there and back through Optuna."""

import math
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from raytrain.errors import ConfigError
from tuning.space import Distribution, grid_of, overrides_of, points_to_check

RANGES = st.one_of(
    st.tuples(st.just("uniform"), st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)),
    st.tuples(st.just("log_uniform"), st.floats(1e-6, 1e3), st.floats(1e-3, 1e6)),
    st.tuples(st.just("integer"), st.integers(-1000, 1000), st.integers(1, 1000)),
    st.tuples(st.just("log_integer"), st.integers(1, 1000), st.integers(1, 1000)),
).map(lambda drawn: Distribution.model_validate({drawn[0]: [drawn[1], drawn[1] + drawn[2]]}))
WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8)
CHOICES = st.lists(
    st.one_of(st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3), st.booleans()), min_size=1, max_size=5
).map(lambda values: Distribution(choice=tuple(values)))


@given(st.one_of(RANGES, CHOICES), st.integers(0, 2**32))
def test_whatever_is_drawn_is_held_and_comes_back_from_optuna(distribution: Distribution, seed: int) -> None:
    value = distribution.draw(np.random.default_rng(seed))
    assert distribution.holds(value)
    assert -1e-9 <= distribution.place(value) <= 1 + 1e-9
    assert distribution.decode(distribution.encode(value)) == value
    assert distribution.to_optuna()._contains(distribution.to_optuna().to_internal_repr(distribution.encode(value)))


@given(RANGES)
def test_the_ends_of_a_range_are_the_ends_of_its_axis(distribution: Distribution) -> None:
    low, high = distribution.corners
    assert distribution.place(low) == pytest.approx(0.0)
    assert distribution.place(high) == pytest.approx(1.0)


def test_a_logarithmic_range_has_its_middle_at_the_geometric_mean() -> None:
    assert Distribution(log_uniform=(0.01, 100.0)).place(1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "Received: nothing"),
        ({"uniform": [0, 1], "choice": [1]}, "Received: choice, uniform"),
        ({"uniform": [1, 1]}, r"have to rise. Received: \[1, 1\]"),
        ({"log_uniform": [0, 1]}, r"rise and be above 0. Received: \[0, 1\]"),
        ({"log_uniforn": [0.1, 1]}, "Did you mean log_uniform"),
        ({"choice": []}, "choice"),
    ],
    ids=["nothing", "two kinds", "a point", "a logarithm of 0", "a misspelt kind", "no choice"],
)
def test_a_distribution_that_is_none_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Distribution.parse(values, "test")


def test_the_bases_own_value_is_the_choice_that_it_equals() -> None:
    distribution = Distribution(choice=(1, 2))
    assert (repr(distribution.own(1.0)), repr(distribution.own(2))) == ("1", "2")
    assert distribution.encode(distribution.own(1.0)) in distribution.to_optuna().choices  # type: ignore[attr-defined]


def test_a_grid_is_every_combination_the_last_key_fastest() -> None:
    space = {"a": Distribution(choice=(1, 2)), "b": Distribution(choice=("x", "y"))}
    assert grid_of(space) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_every_bound_and_every_choice_is_among_the_points_that_are_checked() -> None:
    space = {"a": Distribution(log_uniform=(0.1, 10.0)), "b": Distribution(choice=("x", "y", "z"))}
    points = points_to_check(space, 50)
    assert {0.1, 10.0} <= {point["a"] for point in points}
    assert {point["b"] for point in points} == {"x", "y", "z"}
    assert points == points_to_check(space, 50)
    middle = [math.log10(point["a"]) for point in points[5:]]
    assert abs(sum(middle) / len(middle)) < 0.3


@given(st.dictionaries(st.sampled_from(["a.b", "c"]), st.one_of(st.floats(allow_nan=False, allow_infinity=False), WORDS, st.booleans())))
def test_overrides_are_read_back_as_they_were(params: dict[str, Any]) -> None:
    read = {text.partition("=")[0]: yaml.safe_load(text.partition("=")[2]) for text in overrides_of(params)}
    for key, value in params.items():
        # YAML 1.1 takes 1e16, which has no dot, for a word; pydantic reads it as the number that it is.
        assert read[key] == value or (isinstance(value, float) and float(read[key]) == value)
