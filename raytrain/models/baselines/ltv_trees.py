"""``lightgbm_ltv``: gradient boosted trees of amounts (Ke et al., NeurIPS 2017) on a data set's own columns.

tweedie: one model of the mean, zeros and amounts together. two_stage: the probability of paying (log loss) x the mean amount among
payers (gamma deviance). Gamma rather than squared error of the logarithm: with its log link it has the mean itself for a target, which
is what revenue adds up to, where a fit of logarithms has to be corrected by the spread of its residuals (smearing), of which a few
large payers decide. Our choice.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from raytrain.data.stored_columns import StoredColumns
from raytrain.errors import ContractError
from raytrain.ltv_config import LightGbmLtvModel
from raytrain.settings import nearest

AMOUNT_FILE, PAY_FILE, COLUMNS_FILE = "lightgbm_amount.txt", "lightgbm_pay.txt", "columns.json"


@dataclass(frozen=True)
class FittedLtvTrees:
    """LightGBM's own text format, and the columns it was fitted on in order."""

    names: tuple[str, ...]
    amount: str
    """Trees of the amount; of two stages, of the amount among payers"""
    pay: str | None
    """Trees of the probability of paying; None for tweedie"""

    def predict(self, rows: StoredColumns) -> dict[str, npt.NDArray[np.float32]]:
        """ "ltv" -> float32 [N], an amount; "pay", a probability, of two stages alone."""
        values = rows.columns(self.names)
        ltv, pay = _score(self.amount, values), None if self.pay is None else _score(self.pay, values)
        return {"ltv": ltv.astype(np.float32)} if pay is None else {"ltv": (pay * ltv).astype(np.float32), "pay": pay.astype(np.float32)}

    def save(self) -> dict[str, bytes]:
        # LightGBM refuses some characters in column names, so it gets none and they are kept beside it.
        files = {AMOUNT_FILE: self.amount.encode(), COLUMNS_FILE: (json.dumps(self.names, indent=1) + "\n").encode()}
        return files if self.pay is None else {**files, PAY_FILE: self.pay.encode()}


def fit_ltv_trees(model: LightGbmLtvModel, train: StoredColumns, valid: StoredColumns, seed: int) -> FittedLtvTrees:
    """Adds trees until the loss of ``valid``, internal rows, has not fallen for ``patience_rounds``; keeps those up to its lowest.

    The same seed gives the same trees at any number of threads.

    Raises:
        ContractError: a feature to skip is unknown, or none is left.
    """
    for name in model.skip_features:
        if name not in train.names:
            raise ContractError(f"model.skip_features has to name features of the data set. Received: {name}. {nearest(name, train.names)}")
    names = tuple(name for name in train.names if name not in model.skip_features)
    if not names:
        raise ContractError(
            f"A model has to have a feature left. Received: model.skip_features={list(model.skip_features)}, which are all. Skip fewer."
        )
    if model.objective == "tweedie":
        objective = {"objective": "tweedie", "tweedie_variance_power": model.tweedie_variance_power}
        return FittedLtvTrees(names, _fit(model, objective, names, train, valid, seed), None)
    pay = _fit(model, {"objective": "binary"}, names, _paying(train), _paying(valid), seed)
    amount = _fit(model, {"objective": "gamma"}, names, train.rows(train.label > 0), valid.rows(valid.label > 0), seed)
    return FittedLtvTrees(names, amount, pay)


def load_ltv_trees(files: Mapping[str, bytes]) -> FittedLtvTrees:
    pay = files[PAY_FILE].decode() if PAY_FILE in files else None
    return FittedLtvTrees(tuple(json.loads(files[COLUMNS_FILE])), files[AMOUNT_FILE].decode(), pay)


def _fit(
    model: LightGbmLtvModel, objective: dict[str, Any], names: tuple[str, ...], train: StoredColumns, valid: StoredColumns, seed: int
) -> str:
    """One ensemble, in as many fits as ``model.rows`` has stages."""
    import lightgbm

    parameters = {
        **objective,
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
    internal = ~train.is_source
    everything = np.ones_like(internal)
    stages = {"internal": [internal], "external": [~internal], "mixed": [everything], "pretrained": [~internal, internal]}[model.rows]
    categorical = [index for index, name in enumerate(names) if name in train.categorical]
    booster = None
    for chosen in stages:
        own = train.rows(chosen)
        # What comes first is a starting point: its raw scores are added to, and its trees stay in the ensemble.
        rows = lightgbm.Dataset(own.columns(names), own.label, categorical_feature=categorical, free_raw_data=False)
        held_out = lightgbm.Dataset(valid.columns(names), valid.label, reference=rows, free_raw_data=False)
        grown = lightgbm.train(
            parameters,
            rows,
            num_boost_round=model.max_rounds,
            valid_sets=[held_out],
            init_model=booster,
            callbacks=[lightgbm.early_stopping(model.patience_rounds, verbose=False)],
        )
        booster = lightgbm.Booster(model_str=grown.model_to_string(num_iteration=grown.best_iteration))
    assert booster is not None
    return str(booster.model_to_string())


def _paying(rows: StoredColumns) -> StoredColumns:
    return replace(rows, label=(rows.label > 0).astype(np.float32))


def _score(trees: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    import lightgbm

    return np.asarray(lightgbm.Booster(model_str=trees).predict(values), dtype=np.float64)
