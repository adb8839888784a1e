"""Order lines -> one row a customer and as-of date: what was known strictly before it, and what it brought after it."""

import numpy as np
import pyarrow as pa

from pipelines.recipes.online_retail_files import Floats, Ints, Lines

DAY_S = 86_400
HORIZON_DAYS = 90
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
VALUE_EDGES = (100, 200, 400, 800, 1600)
"""GBP of a first order: 6 tiers."""
QUANTITY_EDGES = (3, 6, 12, 24)
"""Pieces on the median line of a first order: 5 tiers."""
NUM_QUANTITIES, NUM_PRICES = 16, 16
"""Codes of side information: 1 + floor(log2(pieces)), 1 + floor(log2(pence))."""

_AMOUNT_DECIMALS = 3


def samples_at(lines: Lines, as_of: int) -> pa.Table:
    """The samples of one as-of date.

    Args:
        as_of: seconds. Features are of lines strictly before it, the label of lines after it, up to ``HORIZON_DAYS`` later
            and that moment included: a line at exactly ``as_of`` is in neither.

    Returns:
        One row a customer with a purchase before ``as_of``, by ascending customer: user, item (of the latest purchase; of lines at one time
        the dearest), time, label (GBP, returns netted, at least 0), country (of that line), first_order (slice), and ``DENSE``.
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
    values = {
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
    return pa.table(
        {
            "user": users,
            "item": pa.array(lines.items).take(pa.array(bought.item[latest])),
            "time": np.full(count, as_of),
            "label": revenue(lines, users, as_of),
            "country": pa.array(lines.countries).take(pa.array(bought.country[latest])),
            "first_order": first_orders(bought.take(bought.order == bought.order[earliest][buyer]), users),
            **{name: np.log1p(values[name]).astype(np.float32) for name in DENSE},
        }
    )


def revenue(lines: Lines, users: Ints, as_of: int) -> Floats:
    """[U] GBP of ``users`` (ascending) in (as_of, as_of + ``HORIZON_DAYS``]: quantity x price, returns netted, floored at 0."""
    first, stop = np.searchsorted(lines.time, [as_of, as_of + HORIZON_DAYS * DAY_S], "right")
    future = lines.take(slice(int(first), int(stop)))
    future = future.take(np.isin(future.user, users))
    return _net(np.searchsorted(users, future.user), future.amount, len(users))


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


def _tiers(edges: tuple[int, ...], first: int, gap: int) -> list[str]:
    """Names of the ranges between ``edges``: the last one is open."""
    starts = (first, *edges)
    return [*(f"{start}-{stop - gap}" for start, stop in zip(starts, edges, strict=False)), f"{edges[-1]}+"]
