"""From single measurements to what a table shows: medians, spreads, and ratios taken inside a round. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from pipelines.bench_plan import Measured


@dataclass(frozen=True)
class Run:
    """One measurement."""

    stage: str
    round: int
    table_rows: int | None
    """Total rows of the tables in the sweep; None for the config as it is."""
    measured: Measured


@dataclass(frozen=True)
class Spread:
    """Of one figure over rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        found = sorted(values)
        return cls(median(found), found[0], found[-1])


@dataclass(frozen=True)
class StageSummary:
    """One line of the table."""

    stage: str
    table_rows: int | None
    num_rounds: int
    samples_per_s: Spread
    of_compute: Spread | None
    """Share of the rate of "compute" in the same round and at the same table size."""
    of_smallest_tables: Spread | None
    """Share of its own rate at the smallest tables in the same round; None outside the sweep."""
    data_wait_share: Spread
    startup_s: Spread
    peak_rss_mib: float
    """Of the largest worker, in the largest round."""
    table_mib: tuple[float, ...]
    """Weights held by each worker."""
    largest_table_share: float
    """Of all weights, in the worker that holds most."""


def summarise(runs: Iterable[Run]) -> tuple[StageSummary, ...]:
    """A summary for each stage and table size, in the order in which they were first measured."""
    groups: dict[tuple[int | None, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.table_rows, run.stage), []).append(run)
    rates = {key: {run.round: run.measured.rate for run in group} for key, group in groups.items()}
    return tuple(_summary(key, group, rates) for key, group in groups.items())


Rates = Mapping[tuple[int | None, str], Mapping[int, float]]
"""(table rows, stage) -> round -> samples a second"""


def _summary(key: tuple[int | None, str], group: list[Run], rates: Rates) -> StageSummary:
    table_rows, stage = key
    sizes = [rows for rows, name in rates if rows is not None and name == stage]
    tables = group[0].measured.table_mib
    return StageSummary(
        stage=stage,
        table_rows=table_rows,
        num_rounds=len(group),
        samples_per_s=Spread.of(run.measured.rate for run in group),
        of_compute=_ratio(rates[key], rates.get((table_rows, "compute"), {})),
        of_smallest_tables=_ratio(rates[key], rates[min(sizes), stage]) if table_rows is not None else None,
        data_wait_share=Spread.of(run.measured.data_wait_share for run in group),
        startup_s=Spread.of(run.measured.startup_s for run in group),
        peak_rss_mib=max(max(run.measured.peak_rss_mib) for run in group),
        table_mib=tables,
        largest_table_share=max(tables) / sum(tables),
    )


def _ratio(rates: Mapping[int, float], others: Mapping[int, float]) -> Spread | None:
    """Over the rounds that have both."""
    ratios = [rate / others[number] for number, rate in rates.items() if number in others]
    return Spread.of(ratios) if ratios else None
