"""``logistic``: logistic regression on standardised as-of means and a few of their products."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from raytrain.data.asof.features import Features
from raytrain.model_config import LogisticModel

LOGISTIC_FILE = "logistic.json"


@dataclass(frozen=True)
class FittedLogistic:
    """p = sigmoid(intercept + sum over columns of weight * (x - mean) / std), products of columns following them."""

    names: tuple[str, ...]
    """F names"""
    products: tuple[tuple[int, int], ...]
    """P pairs of standardised columns"""
    mean: tuple[float, ...]
    """[F]"""
    std: tuple[float, ...]
    """[F]"""
    weight: tuple[float, ...]
    """[F + P]"""
    intercept: float

    def predict(self, features: Features) -> dict[str, npt.NDArray[np.float32]]:
        """ "click" -> float32 [N], probabilities."""
        inputs = _inputs(features.columns(self.names), np.array(self.mean), np.array(self.std), self.products)
        logit = inputs @ np.array(self.weight) + self.intercept
        # The sigmoid by way of tanh, which does not overflow.
        return {"click": np.asarray(0.5 + 0.5 * np.tanh(0.5 * logit), dtype=np.float32)}

    def save(self) -> dict[str, bytes]:
        return {LOGISTIC_FILE: (json.dumps(asdict(self), indent=1) + "\n").encode()}


def fit_logistic(model: LogisticModel, train: Features, valid: Features, seed: int) -> FittedLogistic:
    """Newton's method to the optimum of the L2-penalised loss: ``valid`` and ``seed`` change nothing."""
    from sklearn.linear_model import LogisticRegression

    products = products_of(train.names)
    mean = train.values.mean(axis=0, dtype=np.float64)
    std = train.values.std(axis=0, dtype=np.float64)
    std[std < 1e-9] = 1.0
    regression = LogisticRegression(C=model.c, solver="newton-cholesky")
    regression.fit(_inputs(train.values, mean, std, products), train.label)
    return FittedLogistic(
        names=train.names,
        products=products,
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        weight=tuple(regression.coef_[0].tolist()),
        intercept=float(regression.intercept_[0]),
    )


def load_logistic(files: Mapping[str, bytes]) -> FittedLogistic:
    values = json.loads(files[LOGISTIC_FILE])
    products = tuple((first, second) for first, second in values.pop("products"))
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return FittedLogistic(**(values | lists), products=products)


def products_of(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Indices of each residual with the log of its number of events (the more there are, the more it says), and of the user's
    residual with the item's."""
    pairs = []
    for index, name in enumerate(names):
        key, _, statistic = name.rpartition("/")
        if statistic == "residual":
            pairs.append((index, names.index(f"{key}/log_count")))
    if "user/all/residual" in names and "item/all/residual" in names:
        pairs.append((names.index("user/all/residual"), names.index("item/all/residual")))
    return tuple(pairs)


def _inputs(
    values: npt.NDArray[np.float32], mean: npt.NDArray[np.float64], std: npt.NDArray[np.float64], products: tuple[tuple[int, int], ...]
) -> npt.NDArray[np.float64]:
    """[N, F] -> [N, F + P]"""
    scaled = (values - mean) / std
    first, second = (np.array([pair[side] for pair in products], dtype=np.int64) for side in (0, 1))
    return np.concatenate([scaled, scaled[:, first] * scaled[:, second]], axis=1)
