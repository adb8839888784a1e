"""``lightgbm``: gradient boosted trees on the as-of columns (Ke et al., NeurIPS 2017)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raytrain.data.asof.features import Features
from raytrain.model_config import LightGbmModel

TREES_FILE, COLUMNS_FILE = "lightgbm.txt", "columns.json"


@dataclass(frozen=True)
class FittedTrees:
    """LightGBM's own text format and the columns it was fitted on, in order."""

    names: tuple[str, ...]
    trees: str

    def predict(self, features: Features) -> dict[str, npt.NDArray[np.float32]]:
        """ "click" -> float32 [N], probabilities."""
        import lightgbm

        booster = lightgbm.Booster(model_str=self.trees)
        return {"click": np.asarray(booster.predict(features.columns(self.names)), dtype=np.float32)}

    def save(self) -> dict[str, bytes]:
        # LightGBM refuses some characters in column names, so it gets none and they are kept beside it.
        return {TREES_FILE: self.trees.encode(), COLUMNS_FILE: (json.dumps(self.names, indent=1) + "\n").encode()}


def fit_trees(model: LightGbmModel, train: Features, valid: Features, seed: int) -> FittedTrees:
    """Adds trees until the log loss of ``valid`` has not fallen for ``patience_rounds``; keeps those up to its lowest.

    The same seed gives the same trees at any number of threads.
    """
    import lightgbm

    parameters = {
        "objective": "binary",
        "num_leaves": model.num_leaves,
        "learning_rate": model.learning_rate,
        "min_data_in_leaf": model.min_data_in_leaf,
        "feature_fraction": model.feature_fraction,
        "num_threads": model.num_threads,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    rows = lightgbm.Dataset(train.values, train.label)
    booster = lightgbm.train(
        parameters,
        rows,
        num_boost_round=model.max_rounds,
        valid_sets=[lightgbm.Dataset(valid.values, valid.label, reference=rows)],
        callbacks=[lightgbm.early_stopping(model.patience_rounds, verbose=False)],
    )
    return FittedTrees(train.names, booster.model_to_string(num_iteration=booster.best_iteration))


def load_trees(files: Mapping[str, bytes]) -> FittedTrees:
    return FittedTrees(tuple(json.loads(files[COLUMNS_FILE])), files[TREES_FILE].decode())
