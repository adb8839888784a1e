"""The metrics of a split by what its labels are: clicks or amounts."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor

from raytrain.config import AMOUNT_METRICS, CLICK_METRICS
from raytrain.data.batch import Batch
from raytrain.metrics.gini_by_size import SizeIntervals
from raytrain.metrics.ltv_suite import LtvSuite
from raytrain.metrics.suite import MetricSuite
from raytrain.training.label_facts import LabelFacts


class Suite(Protocol):
    """Rows in, metrics of all ranks out."""

    headline: tuple[str, ...]
    """Metrics that a second network's are told by."""

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Takes B rows; returns what a predictions file holds of them, column -> [B]."""
        ...

    def reduce(self) -> dict[str, float]:
        """A collective."""
        ...


class ClickSuite:
    """Of "click", a probability."""

    headline: tuple[str, ...] = (*CLICK_METRICS, "pcoc")

    def __init__(self) -> None:
        self._suite = MetricSuite()

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        self._suite.update(predictions["click"], batch.label, batch.group, batch.weight)
        return {"prediction": predictions["click"]}

    def reduce(self) -> dict[str, float]:
        return self._suite.reduce()


class AmountSuite:
    """Of "ltv", an amount, and "pay", a probability; a head without it is asked to rank payers by the amount."""

    headline: tuple[str, ...] = (*AMOUNT_METRICS, "total_ratio")

    def __init__(self, slice_rows: Mapping[int, int]) -> None:
        """slice_rows: slice -> internal training rows, the same on every rank."""
        self._suite = LtvSuite(SizeIntervals.of(slice_rows) if slice_rows else None)

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        ltv = predictions["ltv"]
        found = {"ltv": ltv, "pay": predictions.get("pay", ltv)}
        slices = batch.slice if batch.slice is not None else batch.domain.new_zeros(batch.num_rows)
        self._suite.update(found, batch.label, batch.group, batch.weight, slices)
        return found

    def reduce(self) -> dict[str, float]:
        return self._suite.reduce()


def suite_of(facts: LabelFacts | None) -> Suite:
    """New metrics of what the labels are: amounts where there are facts of them."""
    return ClickSuite() if facts is None else AmountSuite(facts.slice_rows)
