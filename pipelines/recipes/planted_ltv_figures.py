"""What a planted lifetime-value data set is worth, measured on its files: external rows can help, and mixing all of them hurts.

The learner is a ridge regression of the amount on one-hot ids and dense values, as plain as can be: the data set is made for
comparing how rows are chosen, so what a learner gains or loses by the choice has to be there without any model of ours.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from sklearn.compose import make_column_transformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from raytrain.data.contract import Contract, load_contract
from raytrain.data.planted_ltv import TRUTH_FILE
from raytrain.data.planted_ltv.rows import DOMAINS, GOOD, HARMFUL, NEUTRAL
from raytrain.data.prepare.write import bucket_file, sample_path
from raytrain.metrics.auc import auc
from raytrain.metrics.gini import norm_gini
from raytrain.storage import Storage

RIDGE = 10.0
"""Rows that an effect is pulled to 0 by."""


@dataclass(frozen=True)
class PlantedLtvFigures:
    slices: dict[str, list[int]]
    """role -> slices"""
    paying_share: dict[str, float]
    """domain -> share of training rows above 0"""
    mean_amount: dict[str, float]
    """domain -> mean label of training rows"""
    bayes_norm_gini: float
    """Of the expected amount, on internal test rows: nothing has a larger one, chance aside"""
    bayes_pay_auc: float
    """The same for AUC of paying"""
    ridge_norm_gini: dict[str, float]
    """Training rows -> normalised Gini of a ridge regression on internal test rows"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        roles = ", ".join(f"{len(found)} {role}" for role, found in self.slices.items())
        learnt = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.ridge_norm_gini.items())
        internal, external = DOMAINS
        return [
            f"slices: {roles}; harmful: {', '.join(map(str, self.slices[HARMFUL]))}",
            f"paying: {self.paying_share[internal]:.1%} internal, {self.paying_share[external]:.1%} external; mean amount "
            f"{self.mean_amount[internal]:.1f} and {self.mean_amount[external]:.1f}",
            f"internal test, normalised Gini: truth {self.bayes_norm_gini:.3f}; ridge on {learnt}",
        ]


def measure(path: str) -> PlantedLtvFigures:
    """Reads a planted lifetime-value data set with its truth."""
    contract, storage = load_contract(path), Storage(path)
    truth = _read(storage, TRUTH_FILE)
    internal, external = (_samples(storage, truth, domain, "train") for domain in DOMAINS)
    test = _samples(storage, truth, DOMAINS[0], "test")
    good = external[external["role"] == GOOD]
    trained_on = {"internal": internal, "internal_and_good": pd.concat([internal, good]), "all": pd.concat([internal, external])}
    labels = {name: rows["label"].to_numpy(np.float64) for name, rows in zip(DOMAINS, (internal, external), strict=True)}
    by_role = truth.groupby("slice_role")["slice"].unique()
    return PlantedLtvFigures(
        slices={role: sorted(by_role.get(role, np.zeros(0, np.int32)).tolist()) for role in (GOOD, NEUTRAL, HARMFUL)},
        paying_share={name: float(np.mean(amounts > 0)) for name, amounts in labels.items()},
        mean_amount={name: float(np.mean(amounts)) for name, amounts in labels.items()},
        bayes_norm_gini=norm_gini(test["expected"].to_numpy(), test["label"].to_numpy()),
        bayes_pay_auc=auc(test["pay"].to_numpy(), test["label"].to_numpy()),
        ridge_norm_gini={name: _ridge(contract, rows, test) for name, rows in trained_on.items()},
    )


def _ridge(contract: Contract, train: pd.DataFrame, test: pd.DataFrame) -> float:
    ids = [feature.name for feature in contract.features if feature.kind == "id"]
    dense = [feature.name for feature in contract.features if feature.kind == "dense"]
    columns = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ids), ("passthrough", dense))
    model = make_pipeline(columns, Ridge(alpha=RIDGE)).fit(train, train["label"])
    return norm_gini(model.predict(test), test["label"].to_numpy())


def _samples(storage: Storage, truth: pd.DataFrame, domain: str, split: str) -> pd.DataFrame:
    """A split's rows, each beside its truth."""
    own = truth[(truth["domain"] == domain) & (truth["split"] == split)].reset_index(drop=True)
    files = [bucket_file(sample_path(domain, split), number) for number in own["bucket"].unique()]
    samples = pd.concat([_read(storage, file) for file in files], ignore_index=True)
    return pd.concat([samples.drop(columns="slice"), own], axis=1)


def _read(storage: Storage, file: str) -> pd.DataFrame:
    with storage.filesystem.open_input_file(storage.path(file)) as source:
        found: pd.DataFrame = pq.read_table(source).to_pandas()
    return found
