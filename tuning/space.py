"""What a sweep draws from: dotted keys of a job -> distributions. Torch-free."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, model_validator

from raytrain.settings import Section

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Params = dict[str, Any]
"""Dotted key -> value, as in an override"""


class Distribution(Section):
    """One of these; bounds belong to the range."""

    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None
    """Uniform in the logarithm."""
    integer: tuple[int, int] | None = None
    log_integer: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = Field(default=None, min_length=1)
    """Values of any kind, each as likely; what a grid goes through."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError(
                f"A distribution is one of {', '.join(type(self).model_fields)}. "
                f"Received: {', '.join(sorted(self.model_fields_set)) or 'nothing'}. Write for example {{log_uniform: [0.001, 1]}}."
            )
        if self.choice is not None:
            try:
                json.dumps(self.choice)
            except TypeError:
                raise ValueError(f"Choices have to be what JSON knows. Received: {self.choice}. Quote dates.") from None
            return self
        low, high = self.bounds
        if low >= high or (self.is_log and low <= 0):
            raise ValueError(
                f"The bounds of a range have to rise{' and be above 0' if self.is_log else ''}. Received: [{low:g}, {high:g}]. Change them."
            )
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Of a range."""
        found = self.uniform or self.log_uniform or self.integer or self.log_integer
        assert found is not None
        return found

    @property
    def is_log(self) -> bool:
        return (self.log_uniform or self.log_integer) is not None

    @property
    def is_integer(self) -> bool:
        return (self.integer or self.log_integer) is not None

    @property
    def corners(self) -> tuple[Any, ...]:
        """The values that are likeliest to be refused: every choice, or both bounds."""
        return self.bounds if self.choice is None else self.choice

    def draw(self, random: np.random.Generator) -> Any:
        """One value, for checking jobs; searching is Optuna's."""
        if self.choice is not None:
            return self.choice[random.integers(len(self.choice))]
        low, high = self.bounds
        if self.is_log:
            value = math.exp(random.uniform(math.log(low), math.log(high)))
            return min(max(round(value), int(low)), int(high)) if self.is_integer else min(max(value, low), high)
        return int(random.integers(int(low), int(high) + 1)) if self.is_integer else random.uniform(low, high)

    def holds(self, value: Any) -> bool:
        """Whether the search could have drawn ``value``."""
        if self.choice is not None:
            return any(_same(value, one) for one in self.choice)
        if isinstance(value, bool) or not isinstance(value, int if self.is_integer else int | float):
            return False
        low, high = self.bounds
        return low <= value <= high

    def own(self, value: Any) -> Any:
        """``value``, which it holds, as it writes it: of the choices 1 and 2 the first one where ``value`` is 1.0."""
        return value if self.choice is None else next(one for one in self.choice if _same(value, one))

    def place(self, value: Any) -> float:
        """Where ``value`` lies between 0 and 1, for charts: choices in their order, logarithmic ranges by the logarithm."""
        if self.choice is not None:
            return next(index for index, one in enumerate(self.choice) if _same(value, one)) / max(1, len(self.choice) - 1)
        low, high = self.bounds
        if self.is_log:
            return float(math.log(value / low) / math.log(high / low))
        return float((value - low) / (high - low))

    def to_optuna(self) -> "BaseDistribution":
        """Choices go as JSON: Optuna takes no lists and no sections."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice is not None:
            return CategoricalDistribution([json.dumps(value, sort_keys=True) for value in self.choice])
        low, high = self.bounds
        return IntDistribution(int(low), int(high), log=self.is_log) if self.is_integer else FloatDistribution(low, high, log=self.is_log)

    def encode(self, value: Any) -> Any:
        return value if self.choice is None else json.dumps(value, sort_keys=True)

    def decode(self, value: Any) -> Any:
        return value if self.choice is None else json.loads(value)


Space = Mapping[str, Distribution]


def overrides_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """``section.key=value``, one for each key of a knob; JSON is YAML, the grammar of overrides, but for its pairs of escapes."""
    return tuple(f"{key.strip()}={json.dumps(value, ensure_ascii=False)}" for knob, value in params.items() for key in knob.split(","))


def grid_of(space: Space) -> list[Params]:
    """Every combination of choices, the last key fastest."""
    values: list[Sequence[Any]] = [distribution.choice or () for distribution in space.values()]
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]


def points_to_check(space: Space, num_draws: int) -> list[Params]:
    """Each key at its corners with the others drawn, then ``num_draws`` points drawn over the whole space; the same every time."""
    random = np.random.default_rng(0)
    drawn = [{key: distribution.draw(random) for key, distribution in space.items()} for _ in range(num_draws)]
    corners = [
        {key: corner if key == fixed else other.draw(random) for key, other in space.items()}
        for fixed, distribution in space.items()
        for corner in distribution.corners
    ]
    return [*corners, *drawn]


def _same(a: Any, b: Any) -> bool:
    """1 and 1.0 are one value, True is another."""
    if not isinstance(a, bool) and not isinstance(b, bool) and isinstance(a, int | float) and isinstance(b, int | float):
        return float(a) == float(b)
    return json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
