"""``item_mean``: the candidate item's smoothed mean label in training rows, and nothing about the user."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raytrain.data.asof.features import Features
from raytrain.model_config import ItemMeanModel

ITEM_MEAN_FILE = "item_mean.npz"


@dataclass(frozen=True)
class FittedItemMean:
    """Means by item id; an item past the largest id seen gets the mean of all rows."""

    means: npt.NDArray[np.float64]
    """[largest item id in training + 1]"""
    overall: float

    def predict(self, features: Features) -> dict[str, npt.NDArray[np.float32]]:
        """ "click" -> float32 [N], probabilities."""
        known = features.item < len(self.means)
        means = np.where(known, self.means[np.where(known, features.item, 0)], self.overall)
        return {"click": means.astype(np.float32)}

    def save(self) -> dict[str, bytes]:
        buffer = io.BytesIO()
        np.savez(buffer, means=self.means, overall=np.float64(self.overall))
        return {ITEM_MEAN_FILE: buffer.getvalue()}


def fit_item_mean(model: ItemMeanModel, train: Features, valid: Features, seed: int) -> FittedItemMean:
    """(sum + prior_rows * overall mean) / (count + prior_rows) of each item; ``valid`` and ``seed`` change nothing."""
    overall = float(train.label.mean(dtype=np.float64))
    count = np.bincount(train.item)
    total = np.bincount(train.item, train.label)
    return FittedItemMean((total + model.prior_rows * overall) / (count + model.prior_rows), overall)


def load_item_mean(files: Mapping[str, bytes]) -> FittedItemMean:
    with np.load(io.BytesIO(files[ITEM_MEAN_FILE]), allow_pickle=False) as arrays:
        return FittedItemMean(arrays["means"], float(arrays["overall"]))
