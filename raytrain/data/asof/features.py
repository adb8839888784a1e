"""As-of columns: smoothed means of labels, of residuals and of side information over each row's strict past.

The plain baselines build them in memory; ``raytrain prepare`` writes them into the samples for networks.

Every column is of a row's strict past. Labels of all splits and all domains are past events (a row of the test split may
have seen an earlier one), as they are in the histories; what is *fitted* sees training rows alone.

A *residual* is an event's label less what was expected of it then: less the item's mean for a user's residuals (a user who
rates good items is not generous for it), less the user's mean for an item's. Its idea is the baseline predictor
b_u + b_i of Koren (KDD 2008); taking it as-of, and by (user, item-side value) too, is our choice.

Column names are ``<key>/<scope>/<statistic>``; scope is a domain's name, or ``all``. Shapes: N rows, E events, F columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raytrain.data.asof.past import AsOf, Clock, Floats, Ints, Past
from raytrain.data.contract import Contract, Feature
from raytrain.data.frame import Events, Frame
from raytrain.data.hashing import splitmix64
from raytrain.errors import DataError

ALL = "all"
NO_LABEL = 0.5
"""What is expected of a label before any event."""
MAX_AGE_S = 1e9
"""Stands for "never": about 32 years."""
_KEYS_BYTES = 40
"""user, item, time, label, group, slice, fragment, row"""
_COLUMNS_PER_FEATURE = 5
"""A feature's mean, and a residual and a count in two scopes."""
_SORT_BYTES = 80
"""Keys, ticks, places, order, owner and sums of one value while it is sorted"""

Values = dict[str, tuple[Floats, Floats]]
"""statistic -> (the events' values [E], the rows' priors [N])"""


@dataclass(frozen=True)
class Features:
    """N rows as a plain model sees them."""

    item: npt.NDArray[np.int32]
    """[N]"""
    label: npt.NDArray[np.float32]
    """[N]"""
    names: tuple[str, ...]
    """F names"""
    values: npt.NDArray[np.float32]
    """[N, F]"""

    def columns(self, names: tuple[str, ...]) -> npt.NDArray[np.float32]:
        """[N, len(names)], in the order that a model was fitted with.

        Raises:
            DataError: this data set does not give one of them.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DataError(
                f"A data set has to give every column that the model was fitted on. Received: none for {', '.join(missing)}. "
                "Score data prepared by the same recipe, or train again."
            )
        return self.values if names == self.names else self.values[:, [self.names.index(name) for name in names]]

    def rows(self, chosen: slice) -> "Features":
        return Features(self.item[chosen], self.label[chosen], self.names, self.values[chosen])


@dataclass(frozen=True)
class Known:
    """All that has happened: the samples of every split and the histories of every domain."""

    samples: Frame
    """E rows"""
    domain: npt.NDArray[np.str_]
    """[E], the domain of each"""
    histories: dict[str, Events]


def item_and_label(contract: Contract, rows: Frame) -> Features:
    """The rows without a column of their past."""
    item, label = rows.column(contract.item).astype(np.int32), rows.column(contract.label).astype(np.float32)
    return Features(item, label, (), np.empty((rows.num_rows, 0), np.float32))


def bytes_per_row(max_values: Iterable[int | None], num_domains: int, uses_past: bool) -> int:
    """What a sample takes at most: its columns twice (as read, and with the other splits), and with a past every as-of column
    and the sorting of the feature with the most values. On MovieLens-1M about twice what was seen.

    Args:
        max_values: of each feature, None for one that is not multi-valued.
    """
    widths = [values or 0 for values in max_values]
    read = 2 * (sum(4 * (1 + width) for width in widths) + _KEYS_BYTES)
    if not uses_past:
        return read
    num_columns = _COLUMNS_PER_FEATURE * (len(widths) + num_domains)
    return read + 12 * num_columns + _SORT_BYTES * max(1, *widths)


def build_features(contract: Contract, known: Known, rows: Frame, prior_rows: float) -> Features:
    """The columns of N rows.

    Args:
        prior_rows: a mean over n events is (sum + prior_rows * prior) / (n + prior_rows), its prior being the mean of the
            next wider key: (user, genre) -> user -> everything.
    """
    table = _Table(contract, known, rows, prior_rows)
    table.add_users_and_items()
    for feature in contract.features:
        if feature.kind == "dense":
            table.columns[feature.name] = (rows.column(feature.name).astype(np.float64) - feature.mean) / feature.std
        elif feature.name not in (contract.user, contract.item):
            table.add_feature(feature)
    table.add_side_information()
    values = np.empty((rows.num_rows, len(table.columns)), np.float32)
    for index, column in enumerate(table.columns.values()):
        values[:, index] = column
    return replace(item_and_label(contract, rows), names=tuple(table.columns), values=values)


def follows(rows: Frame, key: str, feature: Feature) -> bool:
    """True when rows of an equal ``key`` always have an equal ``feature``: a genre follows the item, an hour does not."""
    _, first, inverse = np.unique(rows.column(key), return_index=True, return_inverse=True)
    if feature.kind == "multi":
        # A list is told by the sum of its ids' hashes: equal for any order, and for no other list that occurs in practice.
        ids, owner = rows.lists(feature.name)
        values = np.zeros(rows.num_rows, np.uint64)
        np.add.at(values, owner, splitmix64(ids))
    else:
        values = rows.column(feature.name).astype(np.uint64)
    return bool((values[first][inverse] == values).all())


@dataclass(frozen=True)
class _Keys:
    """K keys of N rows: one a row, or one a value of a multi-valued feature."""

    key: Ints
    """[K], >= 0"""
    owner: Ints
    """[K], the row of each"""
    num_rows: int

    @classmethod
    def of(cls, rows: Frame, name: str, multi: bool = False) -> "_Keys":
        values, owner = rows.lists(name) if multi else (rows.column(name), np.arange(rows.num_rows))
        return cls(values.astype(np.int64), owner, rows.num_rows)

    def crossed(self, rows: "_Keys", size: int) -> "_Keys":
        """One key for (the key of ``rows``, which has one a row; own key, below ``size``)."""
        return _Keys(rows.key[self.owner] * size + self.key, self.owner, self.num_rows)

    def mean(self, values: Floats, empty: Floats | float) -> Floats:
        """[K] -> [N], the mean over a row's keys; ``empty`` for a row without one."""
        counts = np.bincount(self.owner, minlength=self.num_rows)
        sums = np.bincount(self.owner, values, minlength=self.num_rows)
        return np.asarray(np.where(counts > 0, sums / np.maximum(counts, 1), empty))


class _Side:
    """The key columns of the rows asked for, or of the events that answer."""

    def __init__(self, contract: Contract, rows: Frame) -> None:
        self.rows = rows
        self.time: Ints = rows.column(contract.time).astype(np.int64)
        self.anything = _Keys(np.zeros(rows.num_rows, np.int64), np.arange(rows.num_rows), rows.num_rows)
        """One key for all rows."""
        self.user, self.item = _Keys.of(rows, contract.user), _Keys.of(rows, contract.item)

    def keys(self, feature: Feature) -> _Keys:
        return _Keys.of(self.rows, feature.name, feature.kind == "multi")


class _Table:
    """Columns under construction. ``now`` are the N rows asked for, ``then`` the E events."""

    def __init__(self, contract: Contract, known: Known, rows: Frame, prior_rows: float) -> None:
        self.contract, self.known, self.prior_rows = contract, known, prior_rows
        self.now, self.then = _Side(contract, rows), _Side(contract, known.samples)
        self.clock = Clock(self.then.time)
        self.now_ticks, self.then_ticks = self.clock.ticks(self.now.time), self.clock.event_ticks
        self.columns: dict[str, Floats] = {}
        self.everything = np.ones(known.samples.num_rows, bool)
        self.label = known.samples.column(contract.label).astype(np.float64)
        labels = self._events(self.then.anything, (self.label,), self.everything)
        self.mean = labels.before(self.now.anything.key, self.now_ticks).mean(NO_LABEL, prior_rows)
        expected = labels.before(self.then.anything.key, self.then_ticks).mean(NO_LABEL, prior_rows)
        self.user_residual = self._residual(self.then.item, expected)
        self.item_residual = self._residual(self.then.user, expected)

    def add_users_and_items(self) -> None:
        unbiased = np.zeros(len(self.mean))
        of_user = {"label": (self.label, self.mean), "residual": (self.user_residual, unbiased)}
        for scope, kept in self._scopes(tuple(self.contract.domains)).items():
            past = self._add(f"user/{scope}", self.then.user, self.now.user, of_user, kept)
            self.columns[f"user/{scope}/log_age"] = np.log1p(np.minimum(self.clock.age_s(past, self.now.time), MAX_AGE_S))
        of_item = {"label": (self.label, self.mean), "residual": (self.item_residual, unbiased)}
        self._add(f"item/{ALL}", self.then.item, self.now.item, of_item, self.everything)

    def add_feature(self, feature: Feature) -> None:
        """A feature's own mean; crossed with the user if it follows from the item, with the item if it follows from the user."""
        then, now, size = self.then.keys(feature), self.now.keys(feature), self.contract.table_of(feature).num_rows
        own = self._events(then, (self.label,), self.everything).before(now.key, self.now_ticks[now.owner])
        self.columns[f"{feature.name}/{ALL}/label"] = now.mean(own.mean(self.mean[now.owner], self.prior_rows), self.mean)
        if follows(self.then.rows, self.contract.item, feature):
            then, now = then.crossed(self.then.user, size), now.crossed(self.now.user, size)
            values = {"residual": (self.user_residual, self.columns[f"user/{ALL}/residual"])}
            for scope, kept in self._scopes((self.contract.target,)).items():
                self._add(f"user+{feature.name}/{scope}", then, now, values, kept)
        elif follows(self.then.rows, self.contract.user, feature):
            then, now = then.crossed(self.then.item, size), now.crossed(self.now.item, size)
            values = {"residual": (self.item_residual, self.columns[f"item/{ALL}/residual"])}
            self._add(f"item+{feature.name}/{ALL}", then, now, values, self.everything)

    def add_side_information(self) -> None:
        """Mean code of the user in each domain's history, and of the item: finer than the label where codes are ratings."""
        table = next((feature.table for feature in self.contract.features if feature.name == self.contract.item), None)
        for domain, events in self.known.histories.items():
            history = self.contract.domains[domain].history
            assert history is not None, domain
            clock = Clock(events.time)
            ticks = clock.ticks(self.now.time)
            keys = {"": (np.zeros_like(events.user), self.now.anything.key), "user": (events.user, self.now.user.key)}
            if history.table == table:
                keys["item"] = (events.item.astype(np.int64), self.now.item.key)
            for side in history.side:
                if side.derived_from != "column":
                    continue
                codes = events.side[side.name].astype(np.float64)
                past = {
                    key: AsOf(then, clock.event_ticks, (codes,), clock.num_ticks).before(now, ticks) for key, (then, now) in keys.items()
                }
                prior = past.pop("").mean(side.num_values / 2, self.prior_rows)
                for key, of_key in past.items():
                    self.columns[f"{key}/{domain}/{side.name}"] = of_key.mean(prior, self.prior_rows)

    def _add(self, name: str, then: _Keys, now: _Keys, values: Values, kept: npt.NDArray[np.bool_]) -> Past:
        """Adds the smoothed mean of each value and the log of the number of events."""
        events = self._events(then, tuple(value for value, _ in values.values()), kept)
        past = events.before(now.key, self.now_ticks[now.owner])
        for index, (statistic, (_, prior)) in enumerate(values.items()):
            self.columns[f"{name}/{statistic}"] = now.mean(past.mean(prior[now.owner], self.prior_rows, index), prior)
        self.columns[f"{name}/log_count"] = np.log1p(now.mean(past.count, 0.0))
        return past

    def _events(self, keys: _Keys, values: tuple[Floats, ...], kept: npt.NDArray[np.bool_]) -> AsOf:
        chosen = kept[keys.owner]
        owner = keys.owner[chosen]
        return AsOf(keys.key[chosen], self.then_ticks[owner], [value[owner] for value in values], self.clock.num_ticks)

    def _residual(self, keys: _Keys, prior: Floats) -> Floats:
        """[E], each event's label less the mean label of its key before it."""
        past = self._events(keys, (self.label,), self.everything).before(keys.key, self.then_ticks)
        return self.label - past.mean(prior, self.prior_rows)

    def _scopes(self, domains: tuple[str, ...]) -> dict[str, npt.NDArray[np.bool_]]:
        """Name -> bool [E]: each of ``domains`` and all of them; all alone where the data set has one domain."""
        several = {domain: self.known.domain == domain for domain in domains} if len(self.contract.domains) > 1 else {}
        return {**several, ALL: self.everything}
