"""First look at every row: distinct values, the target's times, and what has to be dropped.

A task reduces its block to a ``BlockScan``; the driver merges those. Merging is commutative, so blocks may come in any order.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raytrain.data.contract import SPLITS
from raytrain.data.prepare.days import Days, day_of, days_of
from raytrain.data.prepare.events import NO_SPLIT, Events, clean, id_values
from raytrain.data.prepare.spec import EventSpec, SplitRule
from raytrain.errors import DataError

_PENDING_ROWS = 4_000_000
_YEAR_2200 = 7_258_118_400

Part = TypeVar("Part", bound=Sized)


@dataclass(frozen=True)
class BlockScan:
    """What one block holds."""

    num_rows: int
    dropped: Counter[str]
    values: dict[str, pa.Array]
    """vocabulary -> its distinct values"""
    times: npt.NDArray[np.int64]
    """[T] distinct seconds of usable rows"""
    time_rows: npt.NDArray[np.int64]
    """[T] rows at each"""
    time_positives: npt.NDArray[np.int64]
    split_rows: npt.NDArray[np.int64]
    """[3, 2] rows and positives of each split that a column declares; of rows kept by day, those that a column calls samples, as one"""
    days: npt.NDArray[np.int64]
    """distinct days of samples that are kept by day, ascending"""
    num_bad_labels: int
    bad_label: float | None
    """an example of a label that is neither 0 nor 1, or no amount"""
    currencies: Counter[str]
    """rows in another currency than the amount's"""


@dataclass(frozen=True)
class Cut:
    """The two times (seconds) that cut every domain into train, valid and test."""

    valid_time: int
    test_time: int

    def split_of(self, time: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """[N] index into ``SPLITS``"""
        return ((time >= self.valid_time).astype(np.int8) + (time >= self.test_time)).astype(np.int8)


def scan_block(block: pa.Table, spec: EventSpec) -> BlockScan:
    """Reads one block of raw events."""
    events, dropped = clean(block, spec)
    values: dict[str, pa.Array] = {}
    for table, columns in spec.vocabularies().items():
        # Nulls alone, as of a feature that the domain does not have, say nothing of the type of the values.
        found = [part for part in (_values(events.block[column]) for column in columns) if part.null_count < len(part)]
        if found:
            values[table] = _distinct(found)
    times, index, rows = np.unique(events.time, return_inverse=True, return_counts=True)
    usable = (events.label == 0) | (events.label == 1) if spec.label.amount is None else np.isfinite(events.label) & (events.label >= 0)
    bad = events.label[~usable]
    return BlockScan(
        num_rows=block.num_rows,
        dropped=dropped,
        values=values,
        times=times,
        time_rows=rows,
        time_positives=np.bincount(index, weights=events.label > 0, minlength=len(times)).astype(np.int64),
        split_rows=_rows_of_splits(events),
        days=_days_of_samples(events) if spec.split.by_day else np.empty(0, np.int64),
        num_bad_labels=len(bad),
        bad_label=float(bad[0]) if len(bad) else None,
        currencies=_other_currencies(events, spec),
    )


class Merging(Generic[Part]):
    """Parts reduced to one now and then: the driver neither sorts after every block nor holds all blocks."""

    def __init__(self, reduce: Callable[[list[Part]], Part]) -> None:
        self._reduce = reduce
        self._parts: list[Part] = []
        self._num_pending = 0

    def add(self, part: Part) -> None:
        self._parts.append(part)
        self._num_pending += len(part)
        if self._num_pending > max(_PENDING_ROWS, len(self._parts[0])):
            self._parts, self._num_pending = [self.result()], 0

    def result(self) -> Part:
        return self._reduce(self._parts)


@dataclass
class Scan:
    """The merged scans of all blocks of all domains."""

    spec: EventSpec
    num_rows: Counter[str] = field(default_factory=Counter)
    """domain -> rows read"""
    dropped: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """domain -> reason -> rows"""
    _num_bad_labels: Counter[str] = field(default_factory=Counter)
    _bad_label: dict[str, float] = field(default_factory=dict)
    _values: dict[str, Merging[Any]] = field(default_factory=lambda: defaultdict(lambda: Merging(_distinct)))
    _times: Merging[npt.NDArray[np.int64]] = field(default_factory=lambda: Merging(_summed_times))
    """[T, 3] parts of the target: second, rows, positives"""
    _split_rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros((len(SPLITS), 2), np.int64))
    """[3, 2] of the target: rows, positives"""
    _days: dict[str, npt.NDArray[np.int64]] = field(default_factory=lambda: defaultdict(lambda: np.empty(0, np.int64)))
    """domain -> distinct days of samples that are kept by day, ascending"""
    _num_positives: Counter[str] = field(default_factory=Counter)
    """domain -> samples with a label above 0"""
    _currencies: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, domain: str, block: BlockScan) -> None:
        self.num_rows[domain] += block.num_rows
        self.dropped[domain].update(block.dropped)
        self._num_bad_labels[domain] += block.num_bad_labels
        self._currencies[domain].update(block.currencies)
        self._num_positives[domain] += int((block.split_rows[:, 1] if self.spec.split.marks_samples else block.time_positives).sum())
        self._days[domain] = np.union1d(self._days[domain], block.days)
        if block.bad_label is not None:
            self._bad_label[domain] = block.bad_label
        for table, values in block.values.items():
            self._values[table].add(values)
        if domain == self.spec.target:
            self._times.add(np.stack([block.times, block.time_rows, block.time_positives], axis=1))
            self._split_rows += block.split_rows

    def check(self) -> None:
        """Raises DataError: a label is neither 0 nor 1, or no amount of the currency; a domain has no usable row, or no amount above 0."""
        column, amount = self.spec.label.column, self.spec.label.amount
        for domain in self.spec.domains:
            if domain in self._bad_label:
                wanted, advice = "0 or 1", f"Write label: {{column: {column}, at_least: VALUE}}, or label.amount for money."
                if amount is not None:
                    wanted, advice = "amounts, finite and at least 0", "Net returns and floor the result at 0, or leave these rows out."
                raise DataError(
                    f"Labels have to be {wanted}. Received: {self._num_bad_labels[domain]} rows of domain {domain} with another "
                    f"{column}, for example {self._bad_label[domain]:g}. {advice}"
                )
            if amount is not None and self._currencies[domain]:
                others = ", ".join(f"{count:,} rows in {name}" for name, count in self._currencies[domain].most_common(3))
                raise DataError(
                    f"Amounts have to be in one currency, {amount.currency}. Received: {others}, domain {domain}. Convert them first."
                )
            if self.num_rows[domain] == self.dropped[domain].total():
                reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped[domain].most_common())
                raise DataError(f"A domain has to have usable rows. Received: {domain} with {reasons or 'none'}. Check keys and label.")
            if amount is not None and not self._num_positives[domain]:
                raise DataError(
                    f"A domain has to have a sample that pays. Received: {domain}, where every {column} is 0. "
                    "Check label.column, or drop the domain."
                )

    def vocabularies(self) -> dict[str, pa.Array]:
        """table -> its distinct values, ascending: the value at index i has id i + 1."""
        empty = pa.array([], pa.large_string())
        return {table: _ascending(self._values[table].result()) if table in self._values else empty for table in self.spec.vocabularies()}

    def cut(self) -> Cut | Days | None:
        """The times that split every domain, or its days; None where a column says the split of each row.

        Raises:
            DataError: a split of the target domain (by day: its rows) would be empty, or would lack one of the two labels.
        """
        rule, label = self.spec.split, self.spec.label
        times, num_rows, num_positives = self._times.result().T
        if times[-1] >= _YEAR_2200:
            raise DataError(
                f"Times have to lie before the year 2200. Received: {times[-1]} s after 1970, keys.time.unit={self.spec.keys.time.unit}. "
                "Set keys.time.unit to that of the column."
            )
        cut: Cut | Days | None = None
        names: tuple[str, ...] = SPLITS
        if rule.by_day:
            marked, every = self._split_rows[0], np.array([num_rows.sum(), num_positives.sum()])
            rows, positives = ([int(count)] for count in (marked if rule.marks_samples else every))
            names, by, advice = ("samples",), f"split.sample={rule.sample}", "or check label"
        elif rule.column is None:
            cut = cut_times(times, num_rows, rule)
            split = cut.split_of(times)
            rows = [int(num_rows[split == code].sum()) for code in range(len(SPLITS))]
            positives = [int(num_positives[split == code].sum()) for code in range(len(SPLITS))]
            by, advice = f"{len(times)} distinct times and valid_from={rule.valid_from}, test_from={rule.test_from}", "or check keys.time"
        else:
            rows, positives = self._split_rows.T.tolist()
            by, advice = f"split.column={rule.column}", f"or write {', '.join(SPLITS)} into that column"
        counts = ", ".join(f"{name}={rows[code]} rows, {positives[code]} of them positive" for code, name in enumerate(names))
        if not all(rows):
            raise DataError(f"Every split of the target domain has to have rows. Received: {counts}, by {by}. Change split, {advice}.")
        # Amounts may all be above 0, as where only payers are known.
        if not all(0 < positive < total + (label.amount is not None) for positive, total in zip(positives, rows, strict=True)):
            wanted = "both labels" if label.amount is None else "an amount above 0"
            raise DataError(
                f"Every split of the target domain has to have {wanted}. Received: {counts}, by label column={label.column}, "
                f"at_least={label.at_least}. Change label."
            )
        return days_of({name: self._days[name] for name in self.spec.domains}, rule, self.spec.target) if rule.by_day else cut


def cut_times(times: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], rule: SplitRule) -> Cut:
    """The cut of rows given as distinct ascending ``times`` [T] with ``rows`` [T] at each; see ``SplitRule``."""
    last_row = np.cumsum(rows)
    total = int(last_row[-1])
    valid, test = (int(times[np.searchsorted(last_row, int(share * total), side="right")]) for share in (rule.valid_from, rule.test_from))
    return Cut(valid, test)


def _rows_of_splits(events: Events) -> npt.NDArray[np.int64]:
    if events.split is None:
        return np.zeros((len(SPLITS), 2), np.int64)
    is_sample = events.split != NO_SPLIT
    split, positive = events.split[is_sample], events.label[is_sample] > 0
    rows = [np.bincount(split, weights=weights, minlength=len(SPLITS)) for weights in (None, positive)]
    return np.stack(rows, axis=1).astype(np.int64)


def _days_of_samples(events: Events) -> npt.NDArray[np.int64]:
    return np.unique(day_of(events.time if events.split is None else events.time[events.split != NO_SPLIT]))


def _other_currencies(events: Events, spec: EventSpec) -> Counter[str]:
    label = spec.label
    if label.amount is None or label.currency_column is None:
        return Counter()
    counted = pc.value_counts(id_values(events.block[label.currency_column])).to_pylist()
    return Counter({str(one["values"]): one["counts"] for one in counted if one["values"] != label.amount.currency})


def _values(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    return id_values(pc.list_flatten(array) if is_list else array)


def _distinct(parts: list[pa.Array]) -> pa.Array:
    return pa.concat_arrays(parts).unique().drop_null()


def _ascending(values: pa.Array) -> pa.Array:
    return values.take(pc.sort_indices(values))


def _summed_times(parts: list[npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    rows = np.concatenate(parts)
    times, index = np.unique(rows[:, 0], return_inverse=True)
    counts = np.zeros((len(times), 2), np.int64)
    np.add.at(counts, index, rows[:, 1:])
    return np.column_stack([times, counts])
