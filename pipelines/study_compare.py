"""What a study found: each arm over its seeds, and pairs of arms by a paired bootstrap over users or customers."""

import io
import math
import statistics
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.errors import DataError
from raytrain.metrics.bootstrap import Metric, paired_bootstrap, prediction_column
from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.storage import Storage
from raytrain.training.report import METRIC_TITLES

PREDICTIONS = "predictions/test"

Column = npt.NDArray[Any]

PREDICTION_COLUMNS = ("prediction", "ltv", "pay")
"""A predictions file holds the first, or the others where labels are amounts."""

_KEYS = ("fragment", "row", "group", "time", "label")
"""What has to be equal, row by row, in runs that are compared."""


@dataclass(frozen=True, eq=False)
class FinishedCell:
    """A run that ended well."""

    variant: str
    seed: int
    domain: str
    storage: Storage
    """The run directory."""
    result: dict[str, Any]

    @property
    def metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = self.result["test"][self.domain]
        return metrics


def summarise(
    variants: Sequence[str], finished: Sequence[FinishedCell], deterministic: Collection[str], metrics: Sequence[Metric]
) -> dict[str, Any]:
    """dataset, domain, num_rows and, by arm, mean, sd (None below two seeds) and every seed's value of each metric.

    Where arms have data sets of their own, dataset, content_hash, domain and num_rows are the first one's.
    """
    first = finished[0] if finished else None
    return {
        "dataset": first.result["dataset"] if first else None,
        "num_datasets": len({cell.result.get("content_hash") for cell in finished}),
        "content_hash": first.result.get("content_hash") if first else None,
        "domain": first.domain if first else None,
        "num_rows": int(first.metrics["num_rows"]) if first else None,
        "arms": {name: _arm([cell for cell in finished if cell.variant == name], name in deterministic, metrics) for name in variants},
    }


def compare(
    pairs: Sequence[tuple[str, str]],
    finished: Sequence[FinishedCell],
    deterministic: Collection[str],
    metrics: Sequence[Metric],
    num_resamples: int,
    rows: "Predictions | None" = None,
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(comparisons, pairs that could not be compared with the reason).

    ``rows`` keeps the predictions that are read, for whoever needs them again.

    A comparison: a, b, metric, difference (a less b, mean over seeds), low, high (95 % over users), num_seeds,
    seed_differences, verdict (better, worse or undecided: is a better than b), sentence.

    Raises:
        DataError: two runs scored different rows, users or labels, or a prediction is NaN.
    """
    rows = rows or Predictions()
    comparisons: list[dict[str, Any]] = []
    not_compared: list[dict[str, str]] = []
    for a, b in pairs:
        cells = paired_cells(a, b, finished, deterministic)
        if not cells:
            not_compared.append({"a": a, "b": b, "reason": "no seed that both finished"})
            continue
        columns = rows.of(cells[0][0], cells[0][0])
        for metric in metrics:
            vectors_a, vectors_b = rows.vectors(cells, metric)
            found = paired_bootstrap(vectors_a, vectors_b, columns["label"], columns["group"], metric, num_resamples)
            differences = [one.metrics[metric] - other.metrics[metric] for one, other in cells]
            comparisons.append(_comparison(a, b, metric, found, differences))
    return comparisons, not_compared


class Predictions:
    """Predictions of runs, each read once; runs that are compared are checked to be of the same rows."""

    def __init__(self) -> None:
        self._columns: dict[FinishedCell, dict[str, Column]] = {}

    def of(self, cell: FinishedCell, like: FinishedCell) -> dict[str, Column]:
        """fragment, row, group, time, label and those of PREDICTION_COLUMNS that there are, [N] each, ordered by (fragment, row).

        Raises:
            DataError: the rows are not those of ``like``, or a prediction is NaN.
        """
        if cell not in self._columns:
            self._columns[cell] = _numbers(cell.storage, read_predictions(cell.storage, cell.domain))
        columns, known = self._columns[cell], self._columns.get(like) or self.of(like, like)
        # One copy of the keys is kept for all runs on the same rows.
        different = [name for name in _KEYS if known[name] is not columns[name] and not np.array_equal(known[name], columns[name])]
        if different:
            raise DataError(
                "Runs that are compared have to score the same test rows. "
                f"Received: different {', '.join(different)} in {cell.storage.uri} and {like.storage.uri}. "
                "Compare arms on one prepared data set only."
            )
        self._columns[cell] = columns | {name: known[name] for name in _KEYS}
        return self._columns[cell]

    def vectors(self, pairs: Sequence[tuple[FinishedCell, FinishedCell]], metric: Metric) -> tuple[list[Column], list[Column]]:
        """The predictions of both sides that ``metric`` scores, [N] each.

        Raises:
            DataError: as ``of``, or a run has no such predictions.
        """
        first = pairs[0][0]
        # A deterministic arm is the same run for every seed: one vector says as much as several.
        of_a, of_b = ([self._scored(cell, first, metric) for cell in dict.fromkeys(side)] for side in zip(*pairs, strict=True))
        return of_a, of_b

    def _scored(self, cell: FinishedCell, like: FinishedCell, metric: Metric) -> Column:
        columns, name = self.of(cell, like), prediction_column(metric)
        if name not in columns:
            raise DataError(
                f"{METRIC_TITLES[metric]} is scored on predictions in a column {name}. "
                f"Received: {', '.join(columns)} in {cell.storage.uri}. Compare by metrics of what the model predicts."
            )
        return columns[name]


def read_predictions(run: Storage, domain: str) -> dict[str, Column]:
    """fragment, row, group, time, label and those of PREDICTION_COLUMNS that there are, of a run's test rows, by (fragment, row).

    Raises:
        DataError: there are none.
    """
    names = [name for name in run.list_files(PREDICTIONS, ".parquet") if name.rpartition("/")[2].startswith(f"{domain}-part-")]
    if not names:
        raise DataError(f"A run that is compared has to hold predictions of domain {domain}. Received: none in {run.uri}. Run it again.")
    table = pa.concat_tables([pq.read_table(io.BytesIO(run.read_bytes(name))) for name in names])
    predicted = [name for name in PREDICTION_COLUMNS if name in table.column_names]
    columns = {name: table[name].to_numpy() for name in (*_KEYS, *predicted)}
    order = np.lexsort((columns["row"], columns["fragment"]))
    return {name: values[order] for name, values in columns.items()}


def _numbers(run: Storage, columns: dict[str, Column]) -> dict[str, Column]:
    if any(np.isnan(columns[name]).any() for name in PREDICTION_COLUMNS if name in columns):
        raise DataError(f"Predictions have to be numbers. Received: NaN in {run.uri}. Lower its learning rate, or leave the arm out.")
    return columns


def paired_cells(
    a: str, b: str, finished: Sequence[FinishedCell], deterministic: Collection[str]
) -> list[tuple[FinishedCell, FinishedCell]]:
    """One pair of runs a seed; a deterministic arm lends its only run to every seed of the other. Empty without a common seed."""
    of_a, of_b = ({cell.seed: cell for cell in finished if cell.variant == name} for name in (a, b))
    if not of_a or not of_b:
        return []
    if a in deterministic:
        return [(next(iter(of_a.values())), other) for _, other in sorted(of_b.items())]
    if b in deterministic:
        return [(one, next(iter(of_b.values()))) for _, one in sorted(of_a.items())]
    return [(of_a[seed], of_b[seed]) for seed in sorted(of_a.keys() & of_b.keys())]


def verdict_of(metric: Metric, low: float, high: float) -> str:
    """better, worse or undecided: what an interval of A less B says of A. An interval of NaN decides nothing either."""
    if low > 0 or high < 0:
        return "better" if (low > 0) == HIGHER_IS_BETTER[metric] else "worse"
    return "undecided"


def _comparison(a: str, b: str, metric: Metric, found: tuple[float, float, float], differences: list[float]) -> dict[str, Any]:
    difference, low, high = found
    verdict = verdict_of(metric, low, high)
    title = METRIC_TITLES[metric]
    interval = f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]"
    if verdict == "undecided":
        sentence = f"{title}: undecided between {a} and {b}, {interval}; the interval includes 0."
    else:
        sentence = f"{title}: {a} is {verdict} than {b}, {interval}."
    if len({value > 0 for value in differences}) > 1:
        sentence += " Seeds disagree on the sign."
    return {
        "a": a,
        "b": b,
        "metric": metric,
        "difference": known(difference),
        "low": known(low),
        "high": known(high),
        "num_seeds": len(differences),
        "seed_differences": [known(value) for value in differences],
        "verdict": verdict,
        "sentence": sentence,
    }


def _arm(cells: Sequence[FinishedCell], is_deterministic: bool, metrics: Sequence[Metric]) -> dict[str, Any]:
    results = [cell.result for cell in cells]
    return {
        "model": results[0]["model"] if results else None,
        "deterministic": is_deterministic,
        "seeds": [cell.seed for cell in cells],
        "metrics": {
            metric: spread([cell.metrics[metric] for cell in cells])
            | {"values": {str(cell.seed): known(cell.metrics[metric]) for cell in cells}}
            for metric in metrics
        },
        "rows_trained": results[0]["rows_trained"] if results else None,
        "every_row_trained": all(
            result["rows_trained"].get(domain, 0) + result["rows_quarantined"].get(domain, 0) == expected
            for result in results
            for domain, expected in result["rows_expected"].items()
        ),
        "train_samples_per_s": spread([result["train_samples_per_s"] for result in results]),
        "wall_s": spread([result["wall_s"] for result in results]),
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, and standard deviation of the sample."""
    if not values or any(math.isnan(value) for value in values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def known(value: float) -> float | None:
    """None for NaN, which JSON has not."""
    return None if math.isnan(value) else float(value)
