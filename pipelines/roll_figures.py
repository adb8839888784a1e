"""What a roll's served rows say: metrics by day and over all days, arms against the chain, who was forgotten, what it costs."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.roll_config import REFERENCE, Forgetting, Kind
from pipelines.roll_run import Outcome
from pipelines.roll_scores import ServedRows
from pipelines.study_compare import known, verdict_of
from raytrain.data.contract import Contract
from raytrain.metrics.bootstrap import CLICK_METRICS, Multiplicity, Scorer, interval, metric_of, paired_bootstrap, scorer

MIN_ROWS = 50
"""Of steady users and of those who are back each, or forgetting is not measured."""


def by_day(rows: ServedRows) -> list[dict[str, Any]]:
    """One record a day: its rows and each metric, null where it is not defined."""
    found = []
    for day in np.unique(rows.day):
        part = rows.take(rows.day == day)
        found.append({"day": str(date(1970, 1, 1) + timedelta(days=int(day))), "num_rows": len(part), **metrics_of(part)})
    return found


def metrics_of(rows: ServedRows) -> dict[str, float | None]:
    """Over all rows, as means over seeds; GAUC groups by user, whatever the day."""
    if not len(rows):
        return dict.fromkeys(CLICK_METRICS)
    return {metric: known(float(values.mean())) for metric, values in _of_seeds(rows).items()}


def spread_of(rows: ServedRows) -> dict[str, float | None]:
    """Standard deviation of each metric over seeds; null where there is one seed."""
    if not len(rows) or len(rows.predictions) < 2:
        return dict.fromkeys(CLICK_METRICS)
    return {metric: known(float(values.std(ddof=1))) for metric, values in _of_seeds(rows).items()}


def by_seed(rows: ServedRows) -> dict[str, list[float | None]]:
    """Metric -> its value with each seed."""
    return {metric: [known(float(value)) for value in values] for metric, values in _of_seeds(rows).items()} if len(rows) else {}


def _of_seeds(rows: ServedRows) -> dict[str, npt.NDArray[np.float64]]:
    """Metric -> [S]"""
    return {
        metric: np.array([metric_of(prediction, rows.label, rows.group, metric) for prediction in rows.predictions])
        for metric in CLICK_METRICS
    }


def compared(rows: Mapping[str, ServedRows], num_resamples: int) -> list[dict[str, Any]]:
    """The chain against every other arm, on the days that both have served, by a paired bootstrap over users. Metrics are means over
    seeds."""
    found = []
    for name, (ours, theirs) in sides(rows)[0].items():
        for metric in CLICK_METRICS:
            difference, low, high = paired_bootstrap(
                list(ours.predictions), list(theirs.predictions), ours.label, ours.group, metric, num_resamples
            )
            values: dict[str, Any] = {"difference": known(difference), "low": known(low), "high": known(high)}
            values["seed_differences"] = [known(float(value)) for value in _of_seeds(ours)[metric] - _of_seeds(theirs)[metric]]
            found.append({"a": REFERENCE, "b": name, "metric": metric, **values, "verdict": verdict_of(metric, low, high)})
    return found


def seeds_disagree(pair: Mapping[str, Any]) -> bool:
    """Whether a seed's difference has another sign than the mean over seeds, where an interval over users has decided."""
    if pair["verdict"] == "undecided":
        return False
    return any(value is not None and value * pair["difference"] <= 0 for value in pair["seed_differences"])


def sides(rows: Mapping[str, ServedRows]) -> tuple[dict[str, tuple[ServedRows, ServedRows]], dict[str, str]]:
    """(arm -> the chain's rows and its own of the days that both have served, arm -> why it cannot be compared)."""
    full, found, refused = rows[REFERENCE], {}, {}
    for name, other in rows.items():
        if name == REFERENCE:
            continue
        common = np.intersect1d(full.day, other.day)
        ours, theirs = (side.take(np.isin(side.day, common)) for side in (full, other))
        if not len(ours):
            refused[name] = "it and the chain have no scored day in common"
        elif not _same_rows(ours, theirs):
            refused[name] = "it has scored other rows of the same days, as where a day was prepared anew in between"
        else:
            found[name] = ours, theirs
    return found, refused


def forgetting(
    rows: Mapping[str, ServedRows], away: Mapping[str, npt.NDArray[np.float64]], section: Forgetting, num_resamples: int
) -> dict[str, Any]:
    """Arm -> AUC of rows of steady users and of those who are back after a pause, and the index: how much lower the second is, with
    intervals over users.

    Beside each arm but the chain itself: its index less the chain's. Our choice; an index of 0 says that no pause costs anything.
    """
    found: dict[str, Any] = {}
    for name, own in rows.items():
        is_steady = away[name] <= section.back_days + section.pause_days
        # A user without a past has nothing that could be forgotten.
        is_back = ~is_steady & np.isfinite(away[name])
        counts = {"num_steady_rows": int(is_steady.sum()), "num_back_rows": int(is_back.sum())}
        found[name] = counts
        if min(counts.values()) < MIN_ROWS:
            continue
        groups, user = np.unique(own.group, return_inverse=True)
        index = _index_of(own, user, is_steady, is_back)
        value, low, high = interval(index, len(groups), num_resamples)
        steady, back = (_mean_auc(own, user, part) for part in (is_steady, is_back))
        every = np.ones(len(groups))
        found[name] |= {"steady_auc": known(steady(every)), "back_auc": known(back(every))}
        found[name] |= {"index": known(value), "low": known(low), "high": known(high)}
        full = rows[REFERENCE]
        if name != REFERENCE and _same_rows(full, own):
            more, low, high = interval(_less(index, _index_of(full, user, is_steady, is_back)), len(groups), num_resamples)
            found[name]["more_than_full"] = {"difference": known(more), "low": known(low), "high": known(high)}
    return found


def _index_of(rows: ServedRows, user: npt.NDArray[np.intp], is_steady: npt.NDArray[np.bool_], is_back: npt.NDArray[np.bool_]) -> Scorer:
    steady, back = (_mean_auc(rows, user, part) for part in (is_steady, is_back))

    def index(multiplicity: Multiplicity) -> float:
        return steady(multiplicity) - back(multiplicity)

    return index


def _mean_auc(rows: ServedRows, user: npt.NDArray[np.intp], part: npt.NDArray[np.bool_]) -> Scorer:
    """Of the rows of ``part``, as a mean over seeds."""
    scorers = [scorer("auc", prediction[part], rows.label[part], user[part]) for prediction in rows.predictions]
    return lambda multiplicity: sum(score(multiplicity) for score in scorers) / len(scorers)


def _less(one: Scorer, other: Scorer) -> Scorer:
    return lambda multiplicity: one(multiplicity) - other(multiplicity)


def cost(contract: Contract, natural: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Rows and seconds by kind of stage, beside the rows that training all three models anew every day would take.

    train_s: of wall_s, what the loop took; the rest is start-up, scoring and saving.
    """
    kinds: dict[str, dict[str, float]] = {}
    daily: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.manifest is None:
            continue
        kind = outcome.planned.stage.kind
        entry = kinds.setdefault(kind, {"num_stages": 0, "rows": 0, "wall_s": 0.0, "train_s": 0.0})
        entry["num_stages"] += 1
        rows, speed = sum(outcome.manifest.result["rows_trained"].values()), outcome.manifest.result.get("train_samples_per_s")
        entry["rows"] += rows
        entry["wall_s"] += outcome.manifest.result.get("wall_s", 0.0)
        entry["train_s"] += rows / speed if speed else 0.0
    served = [outcome.planned for outcome in outcomes if outcome.planned.stage.kind == "actr" and outcome.manifest]
    widest: dict[Kind, int] = {}
    for outcome in outcomes:
        span = outcome.planned.stage.train
        widest[outcome.planned.stage.kind] = max(widest.get(outcome.planned.stage.kind, 0), (span.stop - span.start).days)
    for kind, num_days in widest.items():
        days = contract.domains[contract.target if kind == "actr" else natural].days
        for planned in served:
            first, last = planned.stage.day - timedelta(days=num_days), planned.stage.day
            daily[kind] = daily.get(kind, 0) + sum(split.num_rows for day, split in days.items() if first <= date.fromisoformat(day) < last)
    return {"kinds": kinds, "all_daily_rows": daily}


def _same_rows(one: ServedRows, other: ServedRows) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a, b) for a, b in ((one.day, other.day), (one.group, other.group), (one.time, other.time), (one.label, other.label))
    )
