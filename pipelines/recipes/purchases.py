"""Order lines -> one row a customer and as-of date: what was known strictly before it, and what it brought after it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

DAY_S = 86_400
WINDOWS_DAYS = (30, 90, 365)
DENSE = (
    "recency_days",
    "tenure_days",
    *(f"{what}_{days}d" for what in ("orders", "spend") for days in WINDOWS_DAYS),
    "orders_all",
    "spend_all",
    "distinct_items",
    "mean_basket",
)
"""Written as log1p."""
NUM_QUANTITIES, NUM_PRICES = 16, 16
"""Codes of side information: 1 + floor(log2(pieces)), 1 + floor(log2(pence))."""

_AMOUNT_DECIMALS = 3


@dataclass(frozen=True)
class Lines:
    """N order lines of known customers by (time, amount, item): columns of equal length, text as codes into its sorted values."""

    user: Ints
    time: Ints
    """Seconds; local time taken for UTC"""
    order: Ints
    """-1 where the invoice is not known"""
    item: Ints
    """-1 where it is not known"""
    quantity: Ints
    """Negative for a return"""
    price: Floats
    """Of one piece, in the source's currency"""
    place: Ints
    """Where it was bought: a country, a store"""
    items: tuple[str, ...]
    """[number of items]"""
    places: tuple[str, ...]

    @property
    def amount(self) -> Floats:
        """[N], negative for a return"""
        return self.quantity * self.price

    @property
    def bought(self) -> npt.NDArray[np.bool_]:
        """[N], true for a line of a purchase"""
        return (self.quantity > 0) & (self.item >= 0)

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: slice | npt.NDArray[np.bool_] | Ints) -> "Lines":
        user, time, order, item, quantity, place = (
            column[rows] for column in (self.user, self.time, self.order, self.item, self.quantity, self.place)
        )
        return Lines(user, time, order, item, quantity, self.price[rows], place, self.items, self.places)

    def in_order(self) -> "Lines":
        """The lines in the order that this class promises, whatever order they came in."""
        return self.take(np.lexsort((self.order, self.quantity, self.user, self.item, self.amount, self.time)))


def codes(column: "pd.Series[Any]") -> tuple[Ints, tuple[str, ...]]:
    """([N] index into the sorted values or -1 for null, the values as text)"""
    found, values = pd.factorize(column, sort=True, use_na_sentinel=True)
    return found.astype(np.int64), tuple(str(value) for value in values)


def samples_at(lines: Lines, as_of: int, horizon_days: int, slice_of: Callable[[Lines, Ints], list[str]] | None = None) -> pa.Table:
    """The samples of one as-of date.

    Args:
        as_of: seconds. Features are of lines strictly before it, the label of lines after it, up to ``horizon_days`` later
            and that moment included: a line at exactly ``as_of`` is in neither.
        slice_of: (lines of the customers' first orders, the customers, ascending) -> a text for each.

    Returns:
        One row a customer with a purchase before ``as_of``, by ascending customer: user, item and place (of the latest purchase; of
        lines at one time the dearest), time, label (money, returns netted, at least 0), ``DENSE``, and first_order (``slice_of``).
    """
    past = lines.take(slice(0, int(np.searchsorted(lines.time, as_of, "left"))))
    users = np.unique(past.user[past.bought])
    past = past.take(np.isin(past.user, users))
    bought = past.take(past.bought)
    user, buyer = np.searchsorted(users, past.user), np.searchsorted(users, bought.user)
    count = len(users)
    latest = _first_of(buyer[::-1], count, len(bought) - 1 - np.arange(len(bought)))
    earliest = _first_of(buyer, count, np.arange(len(bought)))

    # An order is as old as its first line.
    _, first_lines = np.unique(bought.order * count + buyer, return_index=True)
    order_owner, order_age = buyer[first_lines], as_of - bought.time[first_lines]
    items = np.unique(buyer * len(lines.items) + bought.item) // max(1, len(lines.items))
    age, num_orders = as_of - past.time, np.bincount(order_owner, minlength=count)
    values: dict[str, Any] = {
        "recency_days": (as_of - bought.time[latest]) / DAY_S,
        "tenure_days": (as_of - bought.time[earliest]) / DAY_S,
        "orders_all": num_orders,
        "spend_all": _net(user, past.amount, count),
        "distinct_items": np.bincount(items, minlength=count),
        "mean_basket": np.bincount(buyer, bought.amount, count) / num_orders,
    }
    for days in WINDOWS_DAYS:
        values[f"orders_{days}d"] = np.bincount(order_owner[order_age <= days * DAY_S], minlength=count)
        values[f"spend_{days}d"] = _net(user[age <= days * DAY_S], past.amount[age <= days * DAY_S], count)
    columns: dict[str, Any] = {name: np.log1p(values[name]).astype(np.float32) for name in DENSE}
    if slice_of is not None:
        columns["first_order"] = slice_of(bought.take(bought.order == bought.order[earliest][buyer]), users)
    return pa.table(
        {
            "user": users,
            "item": pa.array(lines.items).take(pa.array(bought.item[latest])),
            "time": np.full(count, as_of),
            "label": revenue(lines, users, as_of, horizon_days),
            "place": pa.array(lines.places).take(pa.array(bought.place[latest])),
            **columns,
        }
    )


def revenue(lines: Lines, users: Ints, as_of: int, horizon_days: int) -> Floats:
    """[U] what ``users`` (ascending) pay in (as_of, as_of + ``horizon_days``]: quantity x price, returns netted, floored at 0."""
    first, stop = np.searchsorted(lines.time, [as_of, as_of + horizon_days * DAY_S], "right")
    future = lines.take(slice(int(first), int(stop)))
    future = future.take(np.isin(future.user, users))
    return _net(np.searchsorted(users, future.user), future.amount, len(users))


def history_of(lines: Lines) -> pa.Table:
    """Every line of a purchase as an event: user, item, time, quantity and price (codes)."""
    bought = lines.take(lines.bought)
    pence = np.maximum(1, np.rint(100 * bought.price))
    return pa.table(
        {
            "user": bought.user,
            "item": pa.array(lines.items).take(pa.array(bought.item)),
            "time": bought.time,
            "quantity": np.minimum(1 + np.log2(bought.quantity), NUM_QUANTITIES - 1).astype(np.int8),
            "price": np.minimum(1 + np.log2(pence), NUM_PRICES - 1).astype(np.int8),
        }
    )


def _net(user: Ints, amount: Floats, count: int) -> Floats:
    # Rounded, or sums that cancel would leave payers of 1e-14.
    return np.maximum(0.0, np.bincount(user, amount, count).round(_AMOUNT_DECIMALS))


def _first_of(user: Ints, count: int, rows: Ints) -> Ints:
    """[count] the first of ``rows`` [N] that is each user's; all have one."""
    found, index = np.unique(user, return_index=True)
    assert len(found) == count
    return np.asarray(rows[index])
