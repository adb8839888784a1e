"""The rows of one day of one domain: a pure function of the spec, and of which day.

No column tells the vector of a user or an item, and none tells who comes in bursts; hour and weekday are noise. Items are shown
equally often and at any time, and their ids are a permutation: neither id, popularity nor recency tells what a user likes.
"""

import numpy as np
import numpy.typing as npt

from raytrain.data.planted_drift.rule import DOMAINS, Rule, generator

DAY_S = 86_400
HOUR_S = 3_600
HOURS = 24
WEEKDAYS = 7

_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 1 here.

Columns = dict[str, npt.NDArray[np.generic]]


def draw_day(rule: Rule, domain: str, day: int) -> Columns:
    """Rows of day ``day``, counted from ``spec.start``, by (time, user, item).

    Returns:
        user, item, category, hour (1..24), weekday (1..7, Monday is 1): int32; time: int64, Unix s; label: int8, 0 or 1; [N] each.
    """
    spec = rule.spec
    num_rows = spec.natural_rows_per_day if domain == "natural" else spec.ad_rows_per_day
    draw = generator(spec, 2, DOMAINS.index(domain), day)
    user = 1 + draw.choice(spec.num_users, num_rows, p=rule.presence(day))
    item = rule.items[domain][draw.integers(spec.num_items, size=num_rows)]
    second = draw.integers(DAY_S, size=num_rows)
    label = draw.random(num_rows) < rule.probability(domain, user, item, day)
    date = int(np.datetime64(spec.start, "D").astype(np.int64)) + day
    columns: Columns = {
        "user": user.astype(np.int32),
        "item": item.astype(np.int32),
        "time": date * DAY_S + second,
        "label": label.astype(np.int8),
        "category": rule.categories[item - 1].astype(np.int32),
        "hour": (1 + second // HOUR_S).astype(np.int32),
        "weekday": np.full(num_rows, 1 + (date + _EPOCH_WEEKDAY) % WEEKDAYS, np.int32),
    }
    order = np.lexsort((item, user, second))
    return {name: values[order] for name, values in columns.items()}
