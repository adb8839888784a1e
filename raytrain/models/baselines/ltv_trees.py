"""``lightgbm_ltv``: gradient boosted trees of amounts (Ke et al., NeurIPS 2017) on a data set's own columns.

tweedie: one model of the mean, zeros and amounts together. two_stage: the probability of paying (log loss) x the amount among payers,
whose logarithm is fitted by squared error and brought back by smearing, the payers' mean of exp(residual) (Duan, JASA 1983). A gamma
deviance would need no way back, but lets the few largest payers decide the trees. Our choice.
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

AMOUNT_FILE, PAY_FILE, FITTED_FILE = "lightgbm_amount.txt", "lightgbm_pay.txt", "fitted.json"


@dataclass(frozen=True)
class FittedLtvTrees:
    """LightGBM's own text format, and the columns it was fitted on in order."""

    names: tuple[str, ...]
    amount: str
    """Trees of the amount; of two stages, of its logarithm among payers"""
    pay: str | None = None
    """Trees of the probability of paying; None for tweedie"""
    smearing: float = 1.0
    """Of two stages: what exp(logarithm) is short of the mean"""

    def predict(self, rows: StoredColumns) -> dict[str, npt.NDArray[np.float32]]:
        """ "ltv" -> float32 [N], an amount; "pay", a probability, of two stages alone."""
        values = rows.columns(self.names)
        score = _score(self.amount, values)
        if self.pay is None:
            return {"ltv": score.astype(np.float32)}
        pay = _score(self.pay, values)
        return {"ltv": (pay * self.smearing * np.exp(score)).astype(np.float32), "pay": pay.astype(np.float32)}

    def save(self) -> dict[str, bytes]:
        # LightGBM refuses some characters in column names, so it gets none and they are kept beside it.
        fitted = json.dumps({"names": self.names, "smearing": self.smearing}, indent=1) + "\n"
        files = {AMOUNT_FILE: self.amount.encode(), FITTED_FILE: fitted.encode()}
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
        return FittedLtvTrees(names, _fit(model, objective, names, train, valid, seed))
    pay = _fit(model, {"objective": "binary"}, names, _paying(train), _paying(valid), seed)
    payers, held_out = (_logarithms(rows.rows(rows.label > 0)) for rows in (train, valid))
    amount = _fit(model, {"objective": "regression"}, names, payers, held_out, seed)
    # The level is the internal rows' wherever they are fitted on: external payers differ most in how much they pay.
    own = payers.rows(~payers.is_source) if model.reads_target else payers.rows(payers.is_source)
    return FittedLtvTrees(names, amount, pay, float(np.exp(own.label - _score(amount, own.columns(names))).mean()))


def load_ltv_trees(files: Mapping[str, bytes]) -> FittedLtvTrees:
    pay = files[PAY_FILE].decode() if PAY_FILE in files else None
    fitted = json.loads(files[FITTED_FILE])
    return FittedLtvTrees(tuple(fitted["names"]), files[AMOUNT_FILE].decode(), pay, fitted["smearing"])


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


def _logarithms(payers: StoredColumns) -> StoredColumns:
    return replace(payers, label=np.log(payers.label))


def _score(trees: str, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    import lightgbm

    return np.asarray(lightgbm.Booster(model_str=trees).predict(values), dtype=np.float64)
