"""The days that a roll has served: every row's prediction, and how long its user had been away.

A stage scores its day right after training where the day's rows are there; where they come later, the next roll scores them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Console

from pipelines.roll_run import Outcome
from pipelines.roll_store import RollStore
from pipelines.study_compare import PREDICTIONS, read_predictions
from raytrain.data.contract import Contract
from raytrain.data.manifest_cache import list_data_files
from raytrain.errors import RaytrainError
from raytrain.json_text import json_text
from raytrain.storage import Storage, masked

LATE_SCORES = "late_scores.json"
"""Metrics of a day whose rows came after its model was trained."""
Column = npt.NDArray[Any]

_EPOCH = date(1970, 1, 1)
_KEY = 1 << 34
"""Above every time in seconds"""


def score_late_days(store: RollStore, contract: Contract, outcomes: Sequence[Outcome], console: Console) -> None:
    """Scores the day of every finished daily model that has not been scored and whose rows have come."""
    for outcome in {outcome.planned.name: outcome for outcome in outcomes}.values():
        stage, manifest = outcome.planned.stage, outcome.manifest
        if manifest is None or stage.kind != "actr" or scored(store, outcome) is not None:
            continue
        if stage.day.isoformat() not in contract.domains[contract.target].days:
            continue
        run = store.run(outcome.planned)
        stop = stage.day + timedelta(days=1)
        console.print(f"scoring {stage.day} with {outcome.planned.name}", highlight=False)
        try:
            run.delete_dir(PREDICTIONS)
            from raytrain.run import predict

            overrides = (f"data.days.test={{start: {stage.day}, stop: {stop}}}",)
            metrics = predict(run.uri, "test", None, overrides, run.join(PREDICTIONS), console)
        except RaytrainError as err:
            console.print(f"{stage.day} could not be scored: {masked(str(err))}", style="red", markup=False, highlight=False)
            continue
        run.write_text(LATE_SCORES, json_text(metrics))


def scored(store: RollStore, outcome: Outcome) -> dict[str, Any] | None:
    """Metrics of the day that a daily model served; None where it has not been scored, or its predictions are gone."""
    run = store.run(outcome.planned)
    if outcome.manifest is None or not run.list_files(PREDICTIONS, ".parquet"):
        return None
    test: dict[str, dict[str, Any]] = outcome.manifest.result.get("test") or {}
    if not test and run.exists(LATE_SCORES):
        test = json.loads(run.read_text(LATE_SCORES))
    return next(iter(test.values()), None)


@dataclass(frozen=True, eq=False)
class ServedRows:
    """The N rows of the days that an arm has served with every one of S seeds, by (day, fragment, row): columns of N."""

    day: Column
    """int64, days since 1970"""
    group: Column
    time: Column
    label: Column
    predictions: Column
    """[S, N]"""

    def take(self, rows: Column) -> "ServedRows":
        return ServedRows(self.day[rows], self.group[rows], self.time[rows], self.label[rows], self.predictions[:, rows])

    def __len__(self) -> int:
        return len(self.label)


def served_rows(store: RollStore, seeds: Sequence[Sequence[Outcome]]) -> tuple[ServedRows, dict[str, str]]:
    """(rows of the daily models that have been scored, by day; day -> why it does not count although a seed has scored it).

    Args:
        seeds: the outcomes of an arm, once a seed.
    """
    found = [_scored_days(store, outcomes) for outcomes in seeds]
    parts: list[dict[str, Column]] = []
    left_out: dict[str, str] = {}
    for day in sorted(set().union(*found)):
        of_seeds = [days[day] for days in found if day in days]
        if why := "not every seed has scored it" if len(of_seeds) < len(found) else _unusable(of_seeds):
            left_out[str(date.fromordinal(_EPOCH.toordinal() + day))] = why
            continue
        predictions = np.stack([columns["prediction"] for columns in of_seeds])
        parts.append(of_seeds[0] | {"day": np.full(len(of_seeds[0]["label"]), day), "predictions": predictions})
    if not parts:
        nothing = np.zeros(0)
        return ServedRows(nothing, nothing, nothing, nothing, np.zeros((len(found), 0))), left_out
    names = ("day", "group", "time", "label", "predictions")
    day_, group, time, label, predictions = (np.concatenate([part[name] for part in parts], axis=-1) for name in names)
    return ServedRows(day_, group, time, label, predictions), left_out


def _unusable(of_seeds: Sequence[dict[str, Column]]) -> str:
    """Why a day that every seed has scored does not count, or ""."""
    first, *others = of_seeds
    if not all(np.array_equal(first[name], other[name]) for other in others for name in ("group", "time", "label")):
        return "seeds have scored other rows of it"
    return "" if all(np.isfinite(columns["prediction"]).all() for columns in of_seeds) else "a prediction of it is NaN"


def _scored_days(store: RollStore, outcomes: Sequence[Outcome]) -> dict[int, dict[str, Column]]:
    """Day since 1970 -> columns of its rows."""
    return {
        day_number(outcome.planned.stage.day): read_predictions(store.run(outcome.planned), str(outcome.planned.job.data.domain))
        for outcome in outcomes
        if outcome.planned.stage.kind == "actr" and scored(store, outcome) is not None
    }


def day_number(day: date) -> int:
    """Days since 1970, as ``ServedRows.day`` counts."""
    return (day - _EPOCH).days


def days_away(contract: Contract, data_path: str, rows: ServedRows, back_days: int = 0) -> npt.NDArray[np.float64]:
    """[N] days since the newest event of a row's user that is more than ``back_days`` older, in any domain's history.

    Infinite without one: so whoever has come back within ``back_days`` is as far away as the event before the pause.
    NaN where rows are grouped by something else than the user, who is not known then.
    """
    if contract.group != contract.user:
        return np.full(len(rows), np.nan)
    storage = Storage(data_path)
    newest = np.full(len(rows), -np.inf)
    latest = rows.time - back_days * 86_400
    for domain in contract.domains.values():
        files = [] if domain.history is None else list_data_files(storage, domain.history.path)
        for file in files:
            with storage.filesystem.open_input_file(storage.path(file.name)) as handle:
                table = pq.ParquetFile(handle).read(columns=["user", "time"]).combine_chunks()
            users, lists = table.column("user").to_numpy(), table.column("time").chunk(0) if len(table) else None
            if lists is None:
                continue
            # Users ascend and their times do, so (place of the user, time) is one ascending key.
            place = np.repeat(np.arange(len(users)), np.diff(lists.offsets.to_numpy()))
            times = lists.flatten().to_numpy()
            own = np.searchsorted(users, rows.group)
            is_here = (own < len(users)) & (users[np.minimum(own, len(users) - 1)] == rows.group)
            event = np.searchsorted(place * _KEY + times, own[is_here] * _KEY + latest[is_here]) - 1
            found = (event >= 0) & (place[np.maximum(event, 0)] == own[is_here])
            index = np.flatnonzero(is_here)[found]
            newest[index] = np.maximum(newest[index], times[event[found]])
    return np.asarray((rows.time - newest) / 86_400)
