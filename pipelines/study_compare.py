"""What a study found: each arm over its seeds, and pairs of arms by a paired bootstrap over users."""

import io
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.errors import DataError
from raytrain.metrics.bootstrap import Metric, paired_bootstrap
from raytrain.metrics.order import HIGHER_IS_BETTER
from raytrain.storage import Storage
from raytrain.training.report import METRIC_TITLES

PREDICTIONS = "predictions/test"

_KEYS = ("fragment", "row", "group", "label")
"""What has to be equal, row by row, in all runs that are compared."""


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
    """dataset, domain, num_rows and, by arm, mean, sd (None below two seeds) and every seed's value of each metric."""
    first = finished[0] if finished else None
    return {
        "dataset": first.result["dataset"] if first else None,
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
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """(comparisons, pairs that could not be compared with the reason).

    A comparison: a, b, metric, difference (a less b, mean over seeds), low, high (95 % over users), num_seeds,
    seed_differences, verdict (better, worse or undecided: is a better than b), sentence.

    Raises:
        DataError: two runs scored different rows, users or labels, or a prediction is NaN.
    """
    by_variant: dict[str, dict[int, FinishedCell]] = {}
    for cell in finished:
        by_variant.setdefault(cell.variant, {})[cell.seed] = cell
    rows = _Predictions()
    comparisons: list[dict[str, Any]] = []
    not_compared: list[dict[str, str]] = []
    for a, b in pairs:
        cells = _paired(by_variant.get(a, {}), by_variant.get(b, {}), a in deterministic, b in deterministic)
        if not cells:
            not_compared.append({"a": a, "b": b, "reason": "no seed that both finished"})
            continue
        columns = rows.of(cells[0][0])
        # A deterministic arm is the same run for every seed: one vector says as much as several.
        vectors_a, vectors_b = ([rows.of(cell)["prediction"] for cell in dict.fromkeys(side)] for side in zip(*cells, strict=True))
        for metric in metrics:
            found = paired_bootstrap(vectors_a, vectors_b, columns["label"], columns["group"], metric, num_resamples)
            differences = [one.metrics[metric] - other.metrics[metric] for one, other in cells]
            comparisons.append(_comparison(a, b, metric, found, differences))
    return comparisons, not_compared


class _Predictions:
    """Predictions of runs, each read once, and all checked to be of the same rows."""

    def __init__(self) -> None:
        self._columns: dict[FinishedCell, dict[str, npt.NDArray[Any]]] = {}

    def of(self, cell: FinishedCell) -> dict[str, npt.NDArray[Any]]:
        """fragment, row, group, label and prediction, [N] each, ordered by (fragment, row)."""
        if cell not in self._columns:
            self._columns[cell] = self._checked(cell)
        return self._columns[cell]

    def _checked(self, cell: FinishedCell) -> dict[str, npt.NDArray[Any]]:
        columns = _read(cell)
        if np.isnan(columns["prediction"]).any():
            raise DataError(
                f"Predictions have to be numbers. Received: NaN in {cell.storage.uri}. Lower its learning rate, or leave the arm out."
            )
        if self._columns:
            other, known = next(iter(self._columns.items()))
            different = [name for name in _KEYS if not np.array_equal(known[name], columns[name])]
            if different:
                raise DataError(
                    "Runs that are compared have to score the same test rows. "
                    f"Received: different {', '.join(different)} in {cell.storage.uri} and {other.storage.uri}. "
                    "Compare arms on one prepared data set only."
                )
            # One copy of the keys is kept for all runs.
            columns = known | {"prediction": columns["prediction"]}
        return columns


def _read(cell: FinishedCell) -> dict[str, npt.NDArray[Any]]:
    names = [
        name for name in cell.storage.list_files(PREDICTIONS, ".parquet") if name.rpartition("/")[2].startswith(f"{cell.domain}-part-")
    ]
    if not names:
        raise DataError(
            f"A run of a study has to hold predictions of domain {cell.domain}. Received: none in {cell.storage.uri}. Run it again."
        )
    parts = [pq.read_table(io.BytesIO(cell.storage.read_bytes(name)), columns=[*_KEYS, "prediction"]) for name in names]
    table = pa.concat_tables(parts)
    columns = {name: table[name].to_numpy() for name in (*_KEYS, "prediction")}
    order = np.lexsort((columns["row"], columns["fragment"]))
    return {name: values[order] for name, values in columns.items()}


def _paired(
    a: Mapping[int, FinishedCell], b: Mapping[int, FinishedCell], a_is_fixed: bool, b_is_fixed: bool
) -> list[tuple[FinishedCell, FinishedCell]]:
    """One pair a seed; a deterministic arm lends its only run to every seed of the other."""
    if not a or not b:
        return []
    if a_is_fixed:
        return [(next(iter(a.values())), other) for _, other in sorted(b.items())]
    if b_is_fixed:
        return [(one, next(iter(b.values()))) for _, one in sorted(a.items())]
    return [(a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())]


def _comparison(a: str, b: str, metric: str, found: tuple[float, float, float], differences: list[float]) -> dict[str, Any]:
    difference, low, high = found
    verdict = "undecided"
    # An interval of NaN decides nothing either.
    if low > 0 or high < 0:
        verdict = "better" if (low > 0) == HIGHER_IS_BETTER[metric] else "worse"
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
        "difference": _known(difference),
        "low": _known(low),
        "high": _known(high),
        "num_seeds": len(differences),
        "seed_differences": [_known(value) for value in differences],
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
            metric: _spread([cell.metrics[metric] for cell in cells])
            | {"values": {str(cell.seed): _known(cell.metrics[metric]) for cell in cells}}
            for metric in metrics
        },
        "rows_trained": results[0]["rows_trained"] if results else None,
        "every_row_trained": all(
            result["rows_trained"].get(domain, 0) + result["rows_quarantined"].get(domain, 0) == expected
            for result in results
            for domain, expected in result["rows_expected"].items()
        ),
        "train_samples_per_s": _spread([result["train_samples_per_s"] for result in results]),
        "wall_s": _spread([result["wall_s"] for result in results]),
    }


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    """Mean, and standard deviation of the sample."""
    if not values or any(math.isnan(value) for value in values):
        return {"mean": None, "sd": None}
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else float(value)
