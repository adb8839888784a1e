"""What a recipe declares about its event tables: one row an event, one set of Parquet files a domain. Torch- and Ray-free."""

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from raytrain.data.contract import Amount, FeatureKind
from raytrain.settings import Section

USER, ITEM, TIME, LABEL = "user", "item", "time", "label"
KEY_COLUMNS = (USER, ITEM, TIME, LABEL)

Encoding = Literal["vocabulary", "hash", "direct"]
"""vocabulary: sorted distinct values of all domains -> 1..V, held whole on the driver. hash: 1 + hash mod (num_rows - 1),
values may collide. direct: the column holds ids 1..num_rows-1 already."""


class IdSpace(Section):
    """How values of one table become ids."""

    encoding: Encoding = "vocabulary"
    num_rows: Annotated[int, Field(ge=2, lt=2**31)] | None = None
    """Rows of the table with row 0, for hash and direct; a vocabulary counts its own."""

    @model_validator(mode="after")
    def _check_rows(self) -> Self:
        if (self.num_rows is None) != (self.encoding == "vocabulary"):
            raise ValueError(
                "num_rows goes with encoding hash or direct, and only with them. "
                f"Received: encoding={self.encoding}, num_rows={self.num_rows}. Set both or neither."
            )
        return self


class Key(IdSpace):
    """The user or item column. Hashed users that collide share one history."""

    column: str


class Time(Section):
    column: str
    unit: Literal["s", "ms", "us", "ns"] = "s"
    """Of an integer column; a timestamp column carries its own."""


class Keys(Section):
    user: Key = Key(column=USER)
    item: Key = Key(column=ITEM)
    time: Time = Time(column=TIME)


class Label(Section):
    """1 where ``column`` >= ``at_least``; without ``at_least`` the column holds 0 and 1 itself, or amounts."""

    column: str
    at_least: float | None = None
    amount: Amount | None = None
    """Says that the column holds money, finite and at least 0 (returns are netted, and the net floored at 0, before)."""
    currency_column: str | None = None
    """Text column that has to hold ``amount.currency`` in every usable row; null where the events name no currency."""

    @model_validator(mode="after")
    def _check_amount(self) -> Self:
        if self.amount is not None and self.at_least is not None:
            raise ValueError(f"A label is a click or an amount. Received: at_least={self.at_least} beside amount. Remove one of them.")
        if self.amount is None and self.currency_column is not None:
            raise ValueError(f"A currency goes with an amount. Received: currency_column={self.currency_column}. Set amount or remove it.")
        return self


class FeatureSpec(IdSpace):
    """One feature. Named user or item, it is the key itself and takes the key's encoding."""

    name: str = Field(pattern=r"^[A-Za-z_]\w*$")
    kind: FeatureKind = "id"
    column: str | None = None
    """Column of the events; null takes ``name``."""
    table: str | None = None
    """Id space shared with other features that name the same one; null makes its own, called ``name``."""
    max_values: PositiveInt | None = None
    """Of a multi feature: the first so many values are kept."""
    missing: float = 0.0
    """What replaces a null or non-finite value of a dense feature."""

    @property
    def source_column(self) -> str:
        return self.column or self.name

    @property
    def table_name(self) -> str:
        return self.table or self.name

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if (self.kind == "multi") != (self.max_values is not None):
            raise ValueError(
                f"max_values goes with kind multi. Received: name={self.name}, kind={self.kind}, max_values={self.max_values}. Change one."
            )
        if self.kind == "dense" and (self.table is not None or self.num_rows is not None):
            raise ValueError(f"A dense feature has no table. Received: name={self.name}, table={self.table}. Remove table and num_rows.")
        if self.name in (TIME, LABEL):
            raise ValueError(f"A feature may not be called {TIME} or {LABEL}. Received: name={self.name}. Set name and column apart.")
        if self.name in (USER, ITEM) and (self.kind != "id" or self.column or self.table or self.encoding != "vocabulary"):
            raise ValueError(
                f"Feature {self.name} is the key itself. Received: more than its name. Say how it is encoded under keys.{self.name}."
            )
        return self


class SideSpec(Section):
    """A code beside each history event. column: whole numbers 1..num_values-1, anything else becomes 0."""

    name: str = Field(pattern=r"^[A-Za-z_]\w*$")
    derived_from: Literal["column", "age"] = "column"
    column: str | None = None
    """Column of the events; null takes ``name``."""
    num_values: Annotated[int, Field(ge=2, le=128)] = 34
    """The default covers ages up to 2^32 seconds: 1 + floor(log2(1 + s)) <= 33."""

    @property
    def source_column(self) -> str:
        return self.column or self.name

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.name in KEY_COLUMNS:
            raise ValueError(f"Side information may not be called {', '.join(KEY_COLUMNS)}. Received: name={self.name}. Rename it.")
        return self


class DomainSpec(Section):
    role: Literal["target", "source"]
    path: str
    """A Parquet file, a directory of them (searched below), or a pattern with * and ?, on any file system."""
    absent: tuple[str, ...] = ()
    """Features that a source's events do not have, which is an error unless it is said here: all rows get id 0, no values, or
    ``missing``, and mean and std are taken without them."""


class SplitRule(Section):
    """Shares of the target domain's rows in time order, whose two times cut every domain; a column that says it; or no splits, but days.

    valid_time = sorted target times[int(valid_from * rows)], test_time likewise; train: time < valid_time, valid:
    valid_time <= time < test_time, test: the rest.

    by_day: every domain's rows are kept by day (UTC) under samples/<domain>/<YYYY-MM-DD>, for what is trained and scored day by day.
    """

    valid_from: Annotated[float, Field(gt=0, lt=1)] = 0.8
    test_from: Annotated[float, Field(gt=0, lt=1)] = 0.9
    column: str | None = None
    """Column of the events with train, valid or test, which takes the place of the shares. A null row is no sample: its event
    is history alone."""
    by_day: bool = False
    known_until: date | None = None
    """With by_day: mean and std of dense features, and which slices are known, are taken from rows before this day's midnight (UTC),
    as the scale of a feature must not look into days that will be scored. null takes all days, and so does look."""
    sample: str | None = None
    """With by_day: boolean column of the events; where it is false or null a row is no sample, its event is history alone. null takes
    every row for a sample."""

    @property
    def marks_samples(self) -> bool:
        """Whether a column says of each row if it is a sample."""
        return self.column is not None or self.sample is not None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.valid_from >= self.test_from:
            raise ValueError(
                f"valid_from has to be below test_from. Received: valid_from={self.valid_from}, test_from={self.test_from}. Lower it."
            )
        defaults = {name: type(self).model_fields[name].default for name in ("valid_from", "test_from")}
        shares = [f"{name}={getattr(self, name)}" for name, default in defaults.items() if getattr(self, name) != default]
        if self.column is not None and shares:
            raise ValueError(
                f"Shares or a column have to split the rows. Received: column={self.column}, {', '.join(shares)}. Remove one of them."
            )
        if self.by_day and (self.column is not None or shares):
            raise ValueError(
                "Rows are kept by split or by day. "
                f"Received: by_day={self.by_day} beside {', '.join(shares) or f'column={self.column}'}. Remove one of them."
            )
        if not self.by_day and (self.known_until is not None or self.sample is not None):
            raise ValueError(
                "known_until and sample go with by_day. "
                f"Received: by_day={self.by_day}, known_until={self.known_until}, sample={self.sample}. Set by_day or remove them."
            )
        return self


def _name_alone(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _column_alone(value: Any) -> Any:
    return {"column": value} if isinstance(value, str) else value


class EventSpec(Section):
    """Event tables and what their columns mean."""

    dataset: str
    domains: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")], DomainSpec]
    keys: Keys = Keys()
    label: Annotated[Label, BeforeValidator(_column_alone)]
    features: tuple[Annotated[FeatureSpec, BeforeValidator(_name_alone)], ...]
    side: tuple[Annotated[SideSpec, BeforeValidator(_name_alone)], ...] = ()
    split: SplitRule = SplitRule()
    in_history: str | None = None
    """Boolean column of the events: a row where it is false or null is a sample and no event of a history, as a negative that was
    drawn is. null takes every row into the history."""
    slice: str | None = None
    """An id or multi feature that gain is kept by; a row with several values is in the slice of the first."""
    group: str = USER
    """The id feature that GAUC groups by, or user."""

    @model_validator(mode="after")
    def _check_across(self) -> Self:
        targets = [name for name, domain in self.domains.items() if domain.role == "target"]
        if len(targets) != 1:
            raise ValueError(f"Exactly one domain has to have role target. Received: domains={targets}. Mark one.")
        for what, names in (("features", [f.name for f in self.features]), ("side", [s.name for s in self.side])):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"Names under {what} have to differ. Received: {', '.join(twice)} twice. Rename one.")
        columns = {feature.name for feature in self.encoded_features}
        for source, domain in self.domains.items():
            for feature in domain.absent:
                if domain.role == "target" or feature not in columns:
                    raise ValueError(
                        "absent has to list features that the target has and a source has not. "
                        f"Received: domains.{source}.absent={feature}. Choose of: {', '.join(sorted(columns))}, under a source."
                    )
        ids = {USER, ITEM, *(f.name for f in self.features if f.kind == "id")}
        lists = {f.name for f in self.features if f.kind == "multi"}
        for what, name, known in (("slice", self.slice, ids | lists), ("group", self.group, ids)):
            if name is not None and name not in known:
                raise ValueError(f"{what} has to name an id feature. Received: {what}={name}. Choose one of: {', '.join(sorted(known))}.")
        spaces: dict[str, tuple[Encoding, int | None]] = {}
        for table, space, _ in self.id_columns():
            found = (space.encoding, space.num_rows)
            if spaces.setdefault(table, found) != found:
                raise ValueError(
                    f"Columns that share table {table} have to be encoded alike. Received: {spaces[table]} and {found}. Use one encoding."
                )
        return self

    @property
    def target(self) -> str:
        return next(name for name, domain in self.domains.items() if domain.role == "target")

    @property
    def encoded_features(self) -> tuple[FeatureSpec, ...]:
        """The features that are columns of their own; user and item are key columns already."""
        return tuple(feature for feature in self.features if feature.name not in (USER, ITEM))

    def absent_features(self, domain: str) -> tuple[FeatureSpec, ...]:
        """The features whose columns a domain does not have."""
        return tuple(feature for feature in self.encoded_features if feature.name in self.domains[domain].absent)

    @property
    def side_columns(self) -> tuple[SideSpec, ...]:
        """The side information that is stored; age is derived when histories are read."""
        return tuple(side for side in self.side if side.derived_from == "column")

    def id_columns(self) -> Iterator[tuple[str, IdSpace, str]]:
        """(table, its id space, column of the events) of both keys and of every id and multi feature."""
        yield USER, self.keys.user, self.keys.user.column
        yield ITEM, self.keys.item, self.keys.item.column
        for feature in self.encoded_features:
            if feature.kind != "dense":
                yield feature.table_name, feature, feature.source_column

    def vocabularies(self) -> dict[str, tuple[str, ...]]:
        """table -> columns of the events whose distinct values it holds."""
        found: dict[str, tuple[str, ...]] = {}
        for table, space, column in self.id_columns():
            if space.encoding == "vocabulary":
                found[table] = (*found.get(table, ()), column)
        return found

    def table_rows(self) -> dict[str, int | None]:
        """table -> its declared rows; None for a vocabulary."""
        return {table: space.num_rows for table, space, _ in self.id_columns()}
