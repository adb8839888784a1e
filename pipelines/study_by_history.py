"""Where does an arm win? The comparison of a study's arms by the length of each test row's history, as of the row's time."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.study_by_history_plan import HistoryPlan
from pipelines.study_compare import Column, FinishedCell, Predictions, known, paired_cells, verdict_of
from raytrain.data.contract import Contract
from raytrain.data.history import load_histories
from raytrain.data.manifest_cache import list_data_files
from raytrain.metrics.bootstrap import ComparedMetric, metric_of, paired_bootstrap, prediction_column
from raytrain.storage import Storage

Ints = npt.NDArray[np.int64]


def history_lengths(contract: Contract, data_path: str, domain: str, users: Ints, times: Ints) -> Ints:
    """[N]: events of each row's user in one domain strictly before the row's time; 0 for a user without a history.

    users: [N]. times: [N], seconds. Raises DataError where a history file is missing or breaks its contract.
    """
    history = contract.domains[domain].history
    assert history is not None, domain
    storage = Storage(data_path)
    files = [file.name for file in list_data_files(storage, history.path)]
    num_items = contract.tables[history.table].num_rows
    return load_histories(storage, history, files, users, times, history.max_events, num_items).lengths


def compare_by_history(
    plan: HistoryPlan,
    contract: Contract,
    data_path: str,
    pairs: Sequence[tuple[str, str]],
    finished: Sequence[FinishedCell],
    deterministic: Collection[str],
    num_resamples: int,
    predictions: Predictions,
) -> dict[str, Any]:
    """The ``by_history`` of result.json.

    metrics, and by domain a list of buckets: first and last length (last None for "and more"), num_rows, num_users, arms (mean over
    seeds of each metric, None where undefined) and comparisons (a, b, metric, difference, low, high, verdict; only where there is a
    row). A user's rows may lie in several buckets; in each the bootstrap draws the users who have rows there.

    Raises:
        DataError: two runs scored different rows, or a history file is missing or breaks its contract.
    """
    if not finished:
        return {"metrics": list(plan.metrics), "domains": {}}
    rows = predictions.of(finished[0], finished[0])
    users, times = rows["group"].astype(np.int64), rows["time"].astype(np.int64)
    domains = {}
    for domain, edges in plan.lengths.items():
        bucket = np.searchsorted(np.array(edges), history_lengths(contract, data_path, domain, users, times), side="right")
        domains[domain] = [
            {
                "first": 0 if index == 0 else edges[index - 1],
                "last": edges[index] - 1 if index < len(edges) else None,
                "num_rows": int((bucket == index).sum()),
                "num_users": len(np.unique(users[bucket == index])),
                "arms": _arms(plan.metrics, finished, predictions, bucket == index),
                "comparisons": _comparisons(plan.metrics, pairs, finished, deterministic, num_resamples, predictions, bucket == index),
            }
            for index in range(len(edges) + 1)
        ]
    return {"metrics": list(plan.metrics), "domains": domains}


def _arms(
    metrics: Sequence[ComparedMetric], finished: Sequence[FinishedCell], predictions: Predictions, chosen: npt.NDArray[np.bool_]
) -> dict[str, dict[str, float | None]]:
    """arm -> metric -> mean over its seeds on the chosen rows."""
    found: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(cell.variant for cell in finished):
        runs = [predictions.of(cell, finished[0]) for cell in finished if cell.variant == name]
        found[name] = {metric: _mean(metric, runs, chosen) if chosen.any() else None for metric in metrics}
    return found


def _mean(metric: ComparedMetric, runs: Sequence[Mapping[str, Column]], chosen: npt.NDArray[np.bool_]) -> float | None:
    values = [metric_of(run[prediction_column(metric)][chosen], run["label"][chosen], run["group"][chosen], metric) for run in runs]
    return known(float(np.mean(values)))


def _comparisons(
    metrics: Sequence[ComparedMetric],
    pairs: Sequence[tuple[str, str]],
    finished: Sequence[FinishedCell],
    deterministic: Collection[str],
    num_resamples: int,
    predictions: Predictions,
    chosen: npt.NDArray[np.bool_],
) -> list[dict[str, Any]]:
    comparisons = []
    for a, b in pairs:
        cells = paired_cells(a, b, finished, deterministic)
        if not cells or not chosen.any():
            continue
        rows = predictions.of(cells[0][0], cells[0][0])
        for metric in metrics:
            of_a, of_b = ([vector[chosen] for vector in vectors] for vectors in predictions.vectors(cells, metric))
            difference, low, high = paired_bootstrap(of_a, of_b, rows["label"][chosen], rows["group"][chosen], metric, num_resamples)
            comparisons.append(
                {
                    "a": a,
                    "b": b,
                    "metric": metric,
                    "difference": known(difference),
                    "low": known(low),
                    "high": known(high),
                    "verdict": verdict_of(metric, low, high),
                }
            )
    return comparisons
