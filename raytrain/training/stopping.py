"""When training ends before its last epoch: early stopping on a validation metric, or somebody who watches."""

import math
from collections.abc import Callable
from typing import Any

from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.training_config import EarlyStoppingSection

Watch = Callable[[dict[str, Any]], bool]
"""Takes every validation record and says whether training goes on."""


class EarlyStopping:
    """Which evaluation is the best so far, and when patience is over. The best is the best by any margin; patience asks for
    ``min_delta`` more than at the last evaluation that satisfied it."""

    def __init__(self, section: EarlyStoppingSection) -> None:
        self._section = section
        self._sign = 1.0 if HIGHER_IS_BETTER[section.metric] else -1.0
        self._best = self._satisfied = -math.inf
        self._num_bad = 0

    def is_better(self, metrics: dict[str, float]) -> bool:
        """Takes an evaluation into account; NaN is never better."""
        value = self._sign * metrics[self._section.metric]
        if value > self._satisfied + self._section.min_delta:
            self._satisfied, self._num_bad = value, 0
        else:
            self._num_bad += 1
        better = value > self._best
        self._best = value if better else self._best
        return better

    def state(self) -> list[float]:
        """For a checkpoint."""
        return [self._best, self._satisfied, self._num_bad]

    def restore(self, state: list[float]) -> None:
        self._best, self._satisfied, self._num_bad = state[0], state[1], int(state[2])

    def is_over(self) -> bool:
        return self._section.patience is not None and self._num_bad >= self._section.patience
