"""``spend``: what a user has spent goes on, as a number of the data set times a factor. Every model of amounts has to beat it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from raytrain.data.stored_columns import StoredColumns
from raytrain.errors import ContractError
from raytrain.ltv_config import SpendModel
from raytrain.settings import nearest

SPEND_FILE = "spend.json"


@dataclass(frozen=True)
class FittedSpend:
    """max(0, factor x the feature, in the units it had before the recipe's transform)."""

    feature: str
    factor: float
    is_log1p: bool

    def predict(self, rows: StoredColumns) -> dict[str, npt.NDArray[np.float32]]:
        """ "ltv" -> float32 [N], in units of the feature; it knows no probability of paying."""
        values = rows.columns((self.feature,))[:, 0]
        amount = np.expm1(values) if self.is_log1p else values
        return {"ltv": np.maximum(0.0, self.factor * amount).astype(np.float32)}

    def save(self) -> dict[str, bytes]:
        return {SPEND_FILE: (json.dumps(asdict(self), indent=1) + "\n").encode()}


def fit_spend(model: SpendModel, train: StoredColumns, valid: StoredColumns, seed: int) -> FittedSpend:
    """Nothing is fitted.

    Raises:
        ContractError: the feature is not a number of the data set.
    """
    numbers = [name for name in train.names if name not in train.categorical]
    if model.feature not in numbers:
        raise ContractError(
            f"model.feature has to be a dense feature of the data set. Received: {model.feature}. {nearest(model.feature, numbers)}"
        )
    return FittedSpend(model.feature, model.factor, model.transform == "log1p")


def load_spend(files: Mapping[str, bytes]) -> FittedSpend:
    return FittedSpend(**json.loads(files[SPEND_FILE]))
