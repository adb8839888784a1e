"""contract.yaml: what a prepared data set promises. Torch-free.

Layout beside it::

    samples/<domain>/<split>/bucket-00003.parquet    one row a sample, ordered by (time, user, item)
    samples/<domain>/2017-05-03/bucket-00003.parquet    the same of a data set that is kept by day (UTC) instead of by split
    histories/<domain>/bucket-00003.parquet          one row a user, its events in time order

Ids are dense integers: 0 stands for "unknown" and pads sequences, 1..num_rows-1 are values of the vocabulary (or hash
buckets). Bucket k of the samples and of every domain's histories holds the same users.
"""

from datetime import date
from typing import Literal, Self

import yaml
from pydantic import Field, PositiveInt

from raytrain.errors import ConfigError, ContractError
from raytrain.settings import Section, parse_yaml
from raytrain.storage import Storage

CONTRACT_FILE = "contract.yaml"
SPLITS = ("train", "valid", "test")
"""What every domain with samples has."""
PROBE = "probe"
"""A fourth split that the target may have: rows held out of training on which the gain of source rows is measured."""

FeatureKind = Literal["id", "multi", "dense"]


class Table(Section):
    """One id space. ``num_rows`` counts row 0."""

    num_rows: int = Field(ge=2)
    hashed: bool = False


class Feature(Section):
    """A column of the samples.

    id: int32, one id of ``table``. multi: list<int32>, up to ``max_values`` ids of ``table``.
    dense: float32, read as (x - mean) / std. as_of: a dense one that ``prepare`` computed from each row's strict past; the plain
    baselines build such columns themselves and leave these out.
    """

    name: str
    kind: FeatureKind
    table: str | None = None
    max_values: int | None = None
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)
    as_of: bool = False


class SideInformation(Section):
    """A small code beside each history event: 0 pads, 1..num_values-1 are values.

    column: an int8 list column of the history files. age: derived when read, 1 + floor(log2(1 + seconds since the event)).
    """

    name: str
    num_values: int = Field(ge=2)
    derived_from: Literal["column", "age"] = "column"


class History(Section):
    """Events of one domain, stored once per user: user, item: list<int32>, time: list<int64>, one list per side column."""

    path: str
    table: str
    side: tuple[SideInformation, ...] = ()
    num_events: int
    num_users: int
    max_events: int


class Amount(Section):
    """Labels are money: finite, at least 0, what a user pays from the sample's time until ``horizon_days`` later."""

    currency: str = Field(pattern=r"^[A-Z]{3}$")
    """Three letters as of ISO 4217, one for all domains."""
    horizon_days: PositiveInt


class Split(Section):
    path: str
    folders: tuple[str, ...] = ()
    """The directories of its files where these are several, as of a span of days; none: ``path`` is the one."""
    num_rows: int
    num_positives: int
    """Rows with a label above 0."""
    min_time: int | None = None
    max_time: int | None = None
    content_hash: str | None = None
    """Of its rows; null in data sets that are drawn."""

    @property
    def directories(self) -> tuple[str, ...]:
        return self.folders or (self.path,)


class Domain(Section):
    role: Literal["target", "source"]
    splits: dict[str, Split] = Field(default_factory=dict)
    days: dict[str, Split] = Field(default_factory=dict)
    """ISO date (UTC) -> its rows, where the data set is kept by day: what a day's training reads is then a span of days."""
    history: History | None = None


class Overlap(Section):
    """What two domains share; users and items with at least one event in each."""

    domains: tuple[str, str]
    num_shared_users: int
    num_shared_items: int


class Contract(Section):
    """The whole promise; see the module docstring for the files."""

    version: Literal[1] = 1
    dataset: str
    content_hash: str
    """Hash of the rows in canonical order: equal for any number of preparing workers."""
    time_unit: Literal["s"] = "s"
    num_buckets: int = Field(ge=1)
    user: str = "user"
    item: str = "item"
    time: str = "time"
    label: str = "label"
    amount: Amount | None = None
    """What the labels are; null for clicks, 0 or 1."""
    group: str = "user"
    """Column that GAUC groups by."""
    slice: str | None = None
    """Column that gain is kept by: an id feature, a multi feature (a row's first value is its slice), or an int32 column of its own
    whose ids are of the table that bears its name."""
    unseen_slices: tuple[int, ...] = ()
    """Ids of ``slice`` without a training row in any domain; a batch gives them as 0, unknown."""
    tables: dict[str, Table]
    features: tuple[Feature, ...]
    domains: dict[str, Domain]
    overlap: tuple[Overlap, ...] = ()

    @property
    def target(self) -> str:
        """Name of the target domain."""
        return next(name for name, domain in self.domains.items() if domain.role == "target")

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(name for name, domain in self.domains.items() if domain.role == "source")

    @property
    def num_slices(self) -> int:
        """Rows of the id space of ``slice``, 0 (unknown) among them; 1 where nothing is sliced."""
        return 1 if self.slice_table is None else self.tables[self.slice_table].num_rows

    @property
    def slice_table(self) -> str | None:
        """Name of that id space; None where nothing is sliced."""
        return next((feature.table for feature in self.features if feature.name == self.slice and feature.table), self.slice)

    def without_as_of(self) -> Self:
        """The same promise without the as-of features."""
        return self.model_copy(update={"features": tuple(feature for feature in self.features if not feature.as_of)})

    def table_of(self, feature: Feature) -> Table:
        assert feature.table is not None, feature
        return self.tables[feature.table]


def load_contract(path: str) -> Contract:
    """Reads and checks ``contract.yaml`` of the prepared data set at ``path`` (any file system).

    Raises:
        ContractError: there is none, or it does not fit the schema or itself.
    """
    storage = Storage(path)
    try:
        text = storage.read_text(CONTRACT_FILE)
    except FileNotFoundError:
        raise ContractError(
            f"data.path has to hold a prepared data set. Received: {path}, without {CONTRACT_FILE}. Run `raytrain prepare` first."
        ) from None
    except (OSError, UnicodeDecodeError) as err:
        raise ContractError(
            f"{storage.join(CONTRACT_FILE)} has to be readable text. Received: {err}. Check data.path and your access."
        ) from None
    try:
        contract = Contract.parse(parse_yaml(text, storage.join(CONTRACT_FILE)), storage.join(CONTRACT_FILE))
    except ConfigError as err:
        raise ContractError(str(err)) from None
    problems = list(_problems(contract))
    if problems:
        raise ContractError(f"{storage.join(CONTRACT_FILE)}: " + "\n".join(problems))
    return contract


def save_contract(contract: Contract, path: str) -> None:
    Storage(path).write_text(CONTRACT_FILE, yaml.safe_dump(contract.model_dump(mode="json", exclude_none=True), sort_keys=False))


def _problems(contract: Contract) -> list[str]:
    found = []
    num_targets = sum(domain.role == "target" for domain in contract.domains.values())
    if num_targets != 1:
        found.append(f"Exactly one domain has to have the role target. Received: {num_targets}. Mark one.")
    names = [feature.name for feature in contract.features]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        found.append(f"Every feature has to have a name of its own. Received: {', '.join(repeated)} twice. Rename one.")
    if contract.label in names:
        found.append(f"The label must not be a feature. Received: label={contract.label}, a feature. Remove that feature.")
    for feature in contract.features:
        if feature.as_of and feature.kind != "dense":
            found.append(f"An as-of feature has to be dense. Received: {feature.name} of kind {feature.kind}. Remove as_of.")
        if feature.kind != "dense" and feature.table not in contract.tables:
            found.append(f"Feature {feature.name} has to name a table. Received: table={feature.table}. Declare it under tables.")
        if feature.kind == "multi" and not feature.max_values:
            found.append(f"Feature {feature.name} has to bound its values. Received: max_values={feature.max_values}. Set it.")
    if contract.slice is not None:
        kinds = [feature.kind for feature in contract.features if feature.name == contract.slice]
        if "dense" in kinds:
            found.append(f"The slice has to be a column of ids. Received: slice={contract.slice}, a dense feature. Name another column.")
        elif not kinds and contract.slice not in contract.tables:
            found.append(
                f"A slice that is no feature has to have a table of its name. Received: slice={contract.slice}. Declare it under tables."
            )
    for name, domain in contract.domains.items():
        if domain.splits and domain.days:
            found.append(f"Rows are kept by split or by day. Received: domain {name} with both. Prepare the data set again.")
        found += [
            f"A day is a date. Received: {day} in domain {name}. Prepare the data set again." for day in domain.days if not _is_day(day)
        ]
        if domain.history is not None and domain.history.table not in contract.tables:
            found.append(f"The history of {name} has to name a table. Received: {domain.history.table}. Declare it under tables.")
        if domain.role == "source" and PROBE in domain.splits:
            found.append(f"Gain is measured on the target, so no other domain may have the split {PROBE}. Received: {name}. Remove it.")
        known = (*SPLITS, PROBE)
        found += [f"Splits are {known}. Received: {split} in domain {name}. Rename it." for split in domain.splits if split not in known]
        train = domain.splits.get("train")
        if contract.amount is not None and train is not None and train.num_rows and not train.num_positives:
            found.append(
                f"Training amounts of domain {name} have to hold one above 0. Received: {train.num_rows} rows, all 0. "
                "Check the label column, or drop the domain."
            )
    return found


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
