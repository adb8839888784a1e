"""What planted drifting data is worth, measured on its files: what the truth predicts of the last days' ads, and what a plain learner.

The learner is a logistic regression on users, items, categories and pairs of user and category, as plain as can be: that natural rows
help or harm, and that users who were away are forgotten, has to be there without any model of ours. It learns from the rows of days
before the measured ones: of the last week, of the last month, or of all.
"""

from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from raytrain.data.contract import Contract, load_contract
from raytrain.data.planted_drift import DOMAINS, PlantedDriftSpec, Rule
from raytrain.data.planted_drift.rows import DAY_S
from raytrain.metrics.auc import auc
from raytrain.metrics.gauc import gauc
from raytrain.storage import Storage

MEASURED_DAYS = 35
"""The last days of the data set; of a short one the last fifth."""
SPANS = {"week": 7, "month": 30}
"""Days before the measured ones that a learner sees."""
RETURNED_DAYS = 2
"""Of a burst, that its user counts as come back."""
INVERSE_RIDGE = 0.3
PRIOR_ROWS = 10.0
"""Rows that a mean is pulled to the overall mean by."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scores:
    """Of a way to rank the measured rows; None where these have one class only."""

    auc: float | None
    gauc: float | None
    """by user"""
    auc_always: float | None
    """of users who are there every day"""
    auc_returned: float | None
    """of users in the first days of a burst"""

    @classmethod
    def of(cls, rule: Rule, rows: pd.DataFrame, prediction: Floats) -> Self:
        label, user = rows["label"].to_numpy(), rows["user"].to_numpy()
        dormant = rule.dormant[user - 1]
        returned = dormant & (rule.day_of_burst(user, rows["day"].to_numpy()) < RETURNED_DAYS)
        return cls(
            auc=_known(auc(prediction, label)),
            gauc=_known(gauc(prediction, label, user)),
            auc_always=_known(auc(prediction[~dormant], label[~dormant])),
            auc_returned=_known(auc(prediction[returned], label[returned])),
        )

    def __str__(self) -> str:
        auc, gauc, always, returned = ("none" if value is None else f"{value:.3f}" for value in astuple(self))
        return f"{auc} {gauc}, {always} {returned}"


@dataclass(frozen=True)
class PlantedDriftFigures:
    num_rows: dict[str, int]
    """domain -> rows, of all days"""
    num_positives: dict[str, int]
    measured_days: int
    truth: dict[str, Scores]
    """domain -> scores of the true probability: nothing has larger ones, chance aside"""
    item_mean: dict[str, Scores]
    """of the item's mean label on earlier days"""
    user_mean: dict[str, Scores]
    learnt: dict[str, Scores]
    """training rows -> scores of a logistic regression on the measured ads"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        counts = (f"{name} {rows:,} rows, {self.num_positives[name] / rows:.2%} clicked" for name, rows in self.num_rows.items())
        found = ["; ".join(counts), f"AUC and GAUC of the last {self.measured_days} days' ads, AUC of users always there and come back:"]
        ways = {"truth": self.truth["ads"], "item mean": self.item_mean["ads"], "user mean": self.user_mean["ads"]}
        for way, scores in (ways | {f"learnt from {name}": scores for name, scores in self.learnt.items()}).items():
            found.append(f"{way}: {scores}")
        return found


def measure(spec: PlantedDriftSpec, path: str) -> PlantedDriftFigures:
    """Reads a data set that was prepared of ``spec``."""
    contract, storage, rule = load_contract(path), Storage(path), Rule.of(spec)
    samples = {domain: _samples(spec, contract, storage, domain) for domain in DOMAINS}
    measured_days = min(MEASURED_DAYS, -(-spec.num_days // 5))
    until = spec.num_days - measured_days
    past = {domain: rows[rows["day"] < until] for domain, rows in samples.items()}
    measured = {domain: rows[rows["day"] >= until] for domain, rows in samples.items()}
    training = _training_rows(past, until)
    return PlantedDriftFigures(
        num_rows={domain: len(rows) for domain, rows in samples.items()},
        num_positives={domain: int(rows["label"].sum()) for domain, rows in samples.items()},
        measured_days=measured_days,
        truth={domain: Scores.of(rule, rows, _truth(rule, domain, rows)) for domain, rows in measured.items()},
        item_mean={domain: Scores.of(rule, rows, _mean_of("item", past[domain], rows)) for domain, rows in measured.items()},
        user_mean={domain: Scores.of(rule, rows, _mean_of("user", past[domain], rows)) for domain, rows in measured.items()},
        learnt={name: Scores.of(rule, measured["ads"], _learn(rows, measured["ads"])) for name, rows in training.items()},
    )


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _training_rows(past: dict[str, pd.DataFrame], until: int) -> dict[str, pd.DataFrame]:
    """Rows by domain and span; a span without a click of ads is left out, as nothing is learnt from one class."""
    found: dict[str, pd.DataFrame] = {}
    for span, num_days in (SPANS | {"all": until}).items():
        ads, natural = (past[domain][past[domain]["day"] >= until - num_days] for domain in ("ads", "natural"))
        rows = {f"ads, {span}": ads}
        if span != "week":
            rows |= {f"natural, {span}": natural, f"both, {span}": pd.concat([natural, ads])}
        found |= {name: part for name, part in rows.items() if part["label"].nunique() == 2}
    return found


def _learn(train: pd.DataFrame, rows: pd.DataFrame) -> Floats:
    """[N] log odds of ``rows``."""
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(C=INVERSE_RIDGE, max_iter=200))
    model.fit(_design(train), train["label"])
    return np.asarray(model.decision_function(_design(rows)))


def _design(rows: pd.DataFrame) -> pd.DataFrame:
    pair = rows["user"].astype(np.int64) * (1 << 31) + rows["category"]
    return rows[["user", "item", "category"]].assign(pair=pair)


def _truth(rule: Rule, domain: str, rows: pd.DataFrame) -> Floats:
    return rule.probability(domain, rows["user"].to_numpy(), rows["item"].to_numpy(), rows["day"].to_numpy())


def _mean_of(column: str, past: pd.DataFrame, rows: pd.DataFrame) -> Floats:
    """[N] mean label of the earlier rows with the same ``column``, pulled to the mean of all."""
    prior = past["label"].mean()
    sums = past.groupby(column)["label"].agg(["sum", "count"])
    means = (sums["sum"] + PRIOR_ROWS * prior) / (sums["count"] + PRIOR_ROWS)
    return rows[column].map(means).fillna(prior).to_numpy(np.float64)


def _samples(spec: PlantedDriftSpec, contract: Contract, storage: Storage, domain: str) -> pd.DataFrame:
    """All rows in the order of their days, with ``day`` counted from ``spec.start``."""
    columns = ["user", "item", "category", "time", "label"]
    parts = [
        pq.read_table(storage.path(day.path), filesystem=storage.filesystem, columns=columns)
        for _, day in sorted(contract.domains[domain].days.items())
    ]
    rows: pd.DataFrame = pa.concat_tables(parts).to_pandas()
    rows["day"] = rows["time"] // DAY_S - int(np.datetime64(spec.start, "D").astype(np.int64))
    return rows
