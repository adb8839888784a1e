"""Online Retail II (Chen, UCI 502, doi 10.24432/C5CG6D) as lifetime value of two markets; the protocol is our choice and fixed.

A sample is a customer at the first of a month, 00:00, with a purchase before it. Its label is the customer's revenue of the next 90
days: quantity x price of lines after that moment and no later than 90 days after it, returns netted, floored at 0, in GBP. Features
are of lines strictly before: days since the latest purchase and since the first; orders and net spend of the last 30, 90 and 365
days and of all time; distinct items; the mean order (all as log1p); country and item of the latest purchase; the month. The
customer itself is no feature: with a row a month it would be remembered. Histories hold the lines of purchases with the pieces, the
price and the age as codes.

Domains: internal (target) is every country but the United Kingdom, external (source) the United Kingdom. Test is 2011-07, -08 and
-09, validation 2011-03 and -04, training 2010-01 to 2010-12: no label reaches into a later part's dates. Purging only before the
test would let early stopping reward memorising. A purchase is a line of an item with a positive quantity; lines without a customer
are left out.

Slice: the customer's first order, by value (6 tiers) and pieces on its median line (5 tiers): 30 slices that tell shops from
households, known from the first purchase on and never changing.
"""

from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.recipes.online_retail_files import read_lines
from pipelines.recipes.purchases import DAY_S, DENSE, NUM_PRICES, NUM_QUANTITIES, Ints, Lines, history_of, samples_at
from raytrain.data.contract import Amount
from raytrain.data.prepare.spec import DomainSpec, EventSpec, FeatureSpec, Label, SideSpec, SplitRule
from raytrain.errors import DataError
from raytrain.settings import Section
from raytrain.storage import Storage

MONTHS = {"train": [(2010, month) for month in range(1, 13)], "valid": [(2011, 3), (2011, 4)], "test": [(2011, 7), (2011, 8), (2011, 9)]}
"""As-of dates: the first of each, 00:00 of the shop's local time."""
HORIZON_DAYS = 90
HOME = "United Kingdom"
VALUE_EDGES = (100, 200, 400, 800, 1600)
"""GBP of a first order: 6 tiers."""
QUANTITY_EDGES = (3, 6, 12, 24)
"""Pieces on the median line of a first order: 5 tiers."""

_GROUP_ROWS = 1 << 19


class OnlineRetailRecipe(Section):
    """Online Retail II; see the module docstring for the protocol."""

    name: Literal["online_retail"] = "online_retail"
    source: str
    """online_retail_II.xlsx of archive.ics.uci.edu/dataset/502 (read with openpyxl, in minutes), or a directory with
    united_kingdom.parquet and other_countries.parquet, on any file system."""

    @property
    def notice(self) -> str | None:
        return "Online Retail II (Chen, UCI Machine Learning Repository, doi 10.24432/C5CG6D): CC BY 4.0, so name it where you use it."

    def stage(self, scratch: Storage) -> EventSpec:
        """Writes samples and purchases of each domain as Parquet into ``scratch``.

        Raises:
            DataError: the source cannot be read, ends before the last label does, or has no customer of a domain.
        """
        lines = read_lines(self.source)
        last_label = max(map(as_of_time, MONTHS["test"])) + HORIZON_DAYS * DAY_S
        if not len(lines) or lines.time[-1] < last_label:
            last = datetime.fromtimestamp(int(lines.time[-1]), UTC).date() if len(lines) else "no line at all"
            raise DataError(
                f"The source has to reach to the end of the last label, {datetime.fromtimestamp(last_label, UTC).date()}. "
                f"Received: {last}, {self.source}. Name the data of both years."
            )
        is_home = np.array([name == HOME for name in lines.places])[lines.place]
        domains = {"internal": DomainSpec(role="target", path="internal"), "external": DomainSpec(role="source", path="external")}
        for domain, rows in (("internal", ~is_home), ("external", is_home)):
            _write(rows_of(lines.take(rows)), scratch, f"events/{domain}")
        return _spec({name: found.model_copy(update={"path": scratch.join(f"events/{name}")}) for name, found in domains.items()})


def as_of_time(month: tuple[int, int]) -> int:
    """Seconds of the first of (year, month), 00:00."""
    return int(datetime(*month, 1, tzinfo=UTC).timestamp())


def rows_of(lines: Lines) -> pa.Table:
    """Samples of every as-of date, then the purchases, which are no samples: what one is not is null in the other."""
    parts = []
    for split, months in MONTHS.items():
        for month in months:
            samples = samples_at(lines, as_of_time(month), HORIZON_DAYS, first_orders)
            constants = {"month": pa.array(np.full(samples.num_rows, month[1])), "split": pa.array([split] * samples.num_rows, pa.string())}
            for name, column in constants.items():
                samples = samples.append_column(name, column)
            parts.append(samples.append_column("in_history", pa.array(np.zeros(samples.num_rows, bool))))
    purchases = history_of(lines)
    purchases = purchases.append_column("in_history", pa.array(np.ones(purchases.num_rows, bool)))
    parts.append(purchases.append_column("label", pa.array(np.zeros(purchases.num_rows))))
    return pa.concat_tables(parts, promote_options="default")


def first_orders(lines: Lines, users: Ints) -> list[str]:
    """[U] the slice of each of ``users`` (ascending): value of its first order x pieces on the median line, for example
    "GBP 100-200, 3-5 a line". ``lines`` are those of the first orders."""
    user = np.searchsorted(users, lines.user)
    value = np.bincount(user, lines.amount, len(users))
    by_quantity = np.lexsort((lines.quantity, user))
    counts = np.bincount(user, minlength=len(users))
    middle = np.cumsum(counts) - counts + (counts - 1) // 2
    quantity = lines.quantity[by_quantity][middle]
    values, quantities = _tiers(VALUE_EDGES, 0, 0), _tiers(QUANTITY_EDGES, 1, 1)
    pairs = zip(np.searchsorted(VALUE_EDGES, value, "right"), np.searchsorted(QUANTITY_EDGES, quantity, "right"), strict=True)
    return [f"GBP {values[tier]}, {quantities[size]} a line" for tier, size in pairs]


def _spec(domains: dict[str, DomainSpec]) -> EventSpec:
    return EventSpec(
        dataset="online-retail-ii",
        domains=domains,
        label=Label(column="label", amount=Amount(currency="GBP", horizon_days=HORIZON_DAYS)),
        features=(
            FeatureSpec(name="item"),
            FeatureSpec(name="country", column="place"),
            FeatureSpec(name="month", encoding="direct", num_rows=13),
            FeatureSpec(name="first_order"),
            *(FeatureSpec(name=name, kind="dense") for name in DENSE),
        ),
        side=(
            SideSpec(name="quantity", num_values=NUM_QUANTITIES),
            SideSpec(name="price", num_values=NUM_PRICES),
            SideSpec(name="age", derived_from="age"),
        ),
        split=SplitRule(column="split"),
        in_history="in_history",
        slice="first_order",
    )


def _write(rows: pa.Table, scratch: Storage, folder: str) -> None:
    scratch.filesystem.create_dir(scratch.path(folder), recursive=True)
    with scratch.filesystem.open_output_stream(scratch.path(f"{folder}/events.parquet")) as sink:
        pq.write_table(rows, sink, row_group_size=_GROUP_ROWS)


def _tiers(edges: tuple[int, ...], first: int, gap: int) -> list[str]:
    """Names of the ranges between ``edges``: the last one is open."""
    starts = (first, *edges)
    return [*(f"{start}-{stop - gap}" for start, stop in zip(starts, edges, strict=False)), f"{edges[-1]}+"]
