"""The plain baselines by name, and what each has to offer: fitted in memory, saved as bytes.

The models a network has to beat. ``raytrain.training.tabular`` reads the rows, fits and scores.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from raytrain.data.asof.features import Features
from raytrain.models.baselines.gradient_boosting import fit_trees, load_trees
from raytrain.models.baselines.item_mean import fit_item_mean, load_item_mean
from raytrain.models.baselines.logistic import fit_logistic, load_logistic


class Fitted(Protocol):
    """A fitted plain model."""

    def predict(self, features: Features) -> npt.NDArray[np.float32]:
        """float32 [N], probabilities."""
        ...

    def save(self) -> dict[str, bytes]:
        """File name -> content, in formats that run no code when loaded."""
        ...


@dataclass(frozen=True)
class TabularModel:
    """An entry of the registry that is fitted in memory."""

    fit: Callable[[Any, Features, Features, int], Fitted]
    """(its own config section, training rows, validation rows, seed)"""
    load: Callable[[Mapping[str, bytes]], Fitted]
    """The inverse of ``Fitted.save``."""
    uses_past: bool
    """Whether it wants the as-of columns, and with them every split of every domain."""


TABULAR_MODELS: dict[str, TabularModel] = {
    "item_mean": TabularModel(fit_item_mean, load_item_mean, uses_past=False),
    "logistic": TabularModel(fit_logistic, load_logistic, uses_past=True),
    "lightgbm": TabularModel(fit_trees, load_trees, uses_past=True),
}
