"""The plain baselines by name, and what each has to offer: fitted in memory, saved as bytes.

The models a network has to beat. ``raytrain.training.tabular`` reads the rows, fits and scores.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from raytrain.models.baselines.gradient_boosting import fit_trees, load_trees
from raytrain.models.baselines.item_mean import fit_item_mean, load_item_mean
from raytrain.models.baselines.logistic import fit_logistic, load_logistic
from raytrain.models.baselines.ltv_trees import fit_ltv_trees, load_ltv_trees
from raytrain.models.baselines.spend import fit_spend, load_spend

Reads = Literal["item", "past", "stored"]
"""item: the candidate item and the label. past: as-of columns, for which every split of every domain is read. stored: the data set's own
columns, with the sources' training rows where the model's section asks for them."""


class Fitted(Protocol):
    """A fitted plain model."""

    def predict(self, features: Any) -> Mapping[str, npt.NDArray[np.float32]]:
        """What it reads of N rows -> name -> float32 [N]: as a network names its predictions."""
        ...

    def save(self) -> dict[str, bytes]:
        """File name -> content, in formats that run no code when loaded."""
        ...


@dataclass(frozen=True)
class TabularModel:
    """An entry of the registry that is fitted in memory."""

    fit: Callable[[Any, Any, Any, int], Fitted]
    """(its own config section, training rows, validation rows, seed)"""
    load: Callable[[Mapping[str, bytes]], Fitted]
    """The inverse of ``Fitted.save``."""
    reads: Reads


TABULAR_MODELS: dict[str, TabularModel] = {
    "item_mean": TabularModel(fit_item_mean, load_item_mean, reads="item"),
    "logistic": TabularModel(fit_logistic, load_logistic, reads="past"),
    "lightgbm": TabularModel(fit_trees, load_trees, reads="past"),
    "spend": TabularModel(fit_spend, load_spend, reads="stored"),
    "lightgbm_ltv": TabularModel(fit_ltv_trees, load_ltv_trees, reads="stored"),
}
