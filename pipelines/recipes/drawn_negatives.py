"""Products that a basket did not hold, drawn from what anyone bought strictly before it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.recipes.purchases import DAY_S, Ints

MAX_ROUNDS = 200
"""Of proposals; who has no negative by then gets none."""


class Sales:
    """N lines by ascending time, and how often an item was sold in a span of them."""

    def __init__(self, time: Ints, item: Ints) -> None:
        self.time, self.item = time, item
        # An item's lines stand together in time order, so that a count over a span is two binary searches.
        self._keys = np.sort(item * len(item) + np.arange(len(item)))

    def span(self, time: Ints, num_days: int) -> tuple[Ints, Ints]:
        """[M], [M]: first line and one past the last of those in [time - days, time): strictly before ``time``."""
        return np.searchsorted(self.time, time - num_days * DAY_S), np.searchsorted(self.time, time)

    def count(self, item: Ints, first: Ints, stop: Ints) -> Ints:
        """[M] lines of ``item`` [M] among the lines ``first`` to ``stop``."""
        base = item * len(self.item)
        return np.asarray(np.searchsorted(self._keys, base + stop) - np.searchsorted(self._keys, base + first))


def draw_negatives(
    sales: Sales, basket: Ints, lines: Ints, num_negatives: int, num_days: int, power: float, draw: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draws for each of ``lines`` items by popularity^power over the days before its time, in none of its basket's lines.

    By rejection (our choice, exact): a line of the span is proposed uniformly, so an item by its count c, and accepted with
    probability c^(power - 1). An item is a negative of a basket at most once, whoever drew it again gets none.

    Args:
        basket: [N], of every line of ``sales``.
        lines: [M], index into them.
        power: 0 to 1.

    Returns:
        [K] line that a negative was drawn for, ascending, and [K] its item; K is at most M x ``num_negatives``.
    """
    asked = np.repeat(lines, num_negatives)
    first, stop = sales.span(sales.time[asked], num_days)
    held = np.sort(_pair(basket, sales.item, sales))
    found = np.full(len(asked), -1, np.int64)
    waiting = np.flatnonzero(stop > first)
    for _ in range(MAX_ROUNDS):
        if not len(waiting):
            break
        item = sales.item[draw.integers(first[waiting], stop[waiting])]
        share = sales.count(item, first[waiting], stop[waiting]) ** (power - 1.0)
        accepted = draw.random(len(waiting)) < share
        accepted &= ~_is_in(held, _pair(basket[asked[waiting]], item, sales))
        found[waiting[accepted]] = item[accepted]
        waiting = waiting[~accepted]
    kept = np.flatnonzero(found >= 0)
    _, once = np.unique(_pair(basket[asked[kept]], found[kept], sales), return_index=True)
    kept = kept[np.sort(once)]
    return asked[kept], found[kept]


def some_of_each(basket: Ints, lines: Ints, limit: int, draw: np.random.Generator) -> Ints:
    """At most ``limit`` of ``lines``, index into ``basket`` [N], of every basket, drawn uniformly; ascending."""
    order = np.lexsort((draw.random(len(lines)), basket[lines]))
    ordered = basket[lines][order]
    rank = np.arange(len(lines)) - np.searchsorted(ordered, ordered)
    return np.sort(lines[order][rank < limit])


def _pair(basket: Ints, item: Ints, sales: Sales) -> Ints:
    """[M] one number for each basket and item."""
    return np.asarray(basket * (sales.item.max(initial=0) + 1) + item)


def _is_in(ascending: Ints, values: Ints) -> npt.NDArray[Any]:
    at = np.minimum(np.searchsorted(ascending, values), len(ascending) - 1)
    return np.asarray(ascending[at] == values)
