"""Who clicks on what: the planted rule (our choice), after the setting of E-CDCTR (arXiv 2408.16238).

Everything below is standard normal, independent unless said, in K dimensions. User u has a lasting vector p_u and one that drifts by
calendar month m, d_u(0), d_u(m) = KEPT d_u(m - 1) + sqrt(1 - KEPT^2) e_u(m), and a second pair p'_u, d'_u that only ads know:

    natural_u(m) = sqrt(1 - drift) p_u + sqrt(drift) d_u(m)                          (other_u(m) the same of p'_u, d'_u)
    ads_u(m)     = cos(shift) natural_u(m) + sin(shift) other_u(m)

Item i of category k(i) has q_i = sqrt(CATEGORY_SHARE) c_k(i) + sqrt(1 - CATEGORY_SHARE) e_i, wherever it is shown, c brought to mean 0
and variance 1 over the categories, so that nobody likes all of them; and

    P(click in domain) = sigmoid(base_domain + strength <domain_u(m), q_i> / sqrt(K) + ITEM_SPREAD b_i + USER_SPREAD a_u,domain)

so what a user likes in one domain tells what the user likes in the other by cos(shift), through the category, which both domains
have, or through an item of both. How often a user clicks in one domain says nothing about the other. base_domain gives the domain
its rate of clicks over the pairs of users and items in the first month; in later ones it moves a little, and the more the lower it is,
as few users then click at all.

A user who comes in bursts is there on days t with (t + phase_u) mod (active_days + dormant_days) < active_days, t counted from
``start``, and then has (active_days + dormant_days) / active_days times the rows of one who is there always: over a year all users
have the same number, and differ in how old the last ones are.

Shapes: M months, U users, I items of both domains, K dimensions, N rows.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from raytrain.data.planted_drift.spec import PlantedDriftSpec

DOMAINS = ("natural", "ads")

KEPT = 0.7
"""Correlation of the drifting part with itself a month before."""
CATEGORY_SHARE = 0.7
"""Of the variance of an item's vector."""
ITEM_SPREAD = 0.3
USER_SPREAD = 0.3

_NUM_REFERENCE_ROWS = 100_000
_MAX_LOG_ODDS = 50.0

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def generator(spec: PlantedDriftSpec, *key: int) -> np.random.Generator:
    """A stream of its own for each key."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((spec.seed, *key))))


def month_of(spec: PlantedDriftSpec, day: Ints | int) -> Ints:
    """Calendar months since ``start``'s; day: counted from ``start``."""
    first = np.datetime64(spec.start, "D")
    return np.asarray((first + day).astype("datetime64[M]") - first.astype("datetime64[M]")).astype(np.int64)


@dataclass(frozen=True)
class Rule:
    """What decides a click; ids start at 1, rows of these arrays at 0."""

    spec: PlantedDriftSpec
    lasting: dict[str, Floats]
    """domain -> [U, K] the part of preferences that does not drift, its share of the variance taken in"""
    drifting: dict[str, Floats]
    """domain -> [M, U, K] the part that does"""
    item_vectors: Floats
    """[I, K]"""
    categories: Ints
    """[I] from 1"""
    item_effects: Floats
    """[I]"""
    user_effects: dict[str, Floats]
    """domain -> [U]"""
    items: dict[str, Ints]
    """domain -> [num_items] ids that it shows, all equally often"""
    dormant: npt.NDArray[np.bool_]
    """[U] who comes in bursts"""
    phase: Ints
    """[U] in [0, active_days + dormant_days); 0 for the others"""

    @classmethod
    def of(cls, spec: PlantedDriftSpec) -> Self:
        draw = generator(spec, 0)
        users, items, dims = spec.num_users, spec.num_all_items, spec.num_dims
        # The first items of both domains are the shared ones.
        ids = 1 + draw.permutation(items)
        pools = {"natural": ids[: spec.num_items], "ads": np.append(ids[: spec.num_shared_items], ids[spec.num_items :])}
        categories = 1 + draw.permutation(np.arange(items) % spec.num_categories)
        by_category = _standard(draw.standard_normal((spec.num_categories, dims)))[categories - 1]
        vectors = np.sqrt(CATEGORY_SHARE) * by_category + np.sqrt(1 - CATEGORY_SHARE) * draw.standard_normal((items, dims))
        item_effects = ITEM_SPREAD * draw.standard_normal(items)
        user_effects = {domain: USER_SPREAD * draw.standard_normal(users) for domain in DOMAINS}
        dormant = draw.permutation(users) < spec.num_dormant_users
        phase = np.where(dormant, draw.integers(spec.active_days + spec.dormant_days, size=users), 0)
        lasting = np.sqrt(1 - spec.drift) * draw.standard_normal((2, users, dims))
        drifting = np.sqrt(spec.drift) * _walk(spec)
        return cls(
            spec=spec,
            lasting=_turned(spec, lasting[0], lasting[1]),
            drifting=_turned(spec, drifting[:, 0], drifting[:, 1]),
            item_vectors=vectors,
            categories=categories,
            item_effects=item_effects,
            user_effects=user_effects,
            items=pools,
            dormant=dormant,
            phase=phase,
        )

    def log_odds(self, domain: str, user: Ints, item: Ints, day: Ints | int) -> Floats:
        """[N] of a click; user, item: [N] ids. day: [N] or one for all."""
        return self._base[domain] + self._score(domain, user - 1, item - 1, month_of(self.spec, day))

    def probability(self, domain: str, user: Ints, item: Ints, day: Ints | int) -> Floats:
        """[N] of a click: no model predicts better."""
        return sigmoid(self.log_odds(domain, user, item, day))

    def day_of_burst(self, user: Ints, day: Ints | int) -> Ints:
        """[N] 0 on the first day of a user's burst, then 1, ...; ``active_days`` or more while away, 0 for one who is there always."""
        period = self.spec.active_days + self.spec.dormant_days
        return np.asarray(np.where(self.dormant[user - 1], (day + self.phase[user - 1]) % period, 0))

    def presence(self, day: int) -> Floats:
        """[U] expected share of the day's rows."""
        users = np.arange(1, self.spec.num_users + 1)
        here = self.day_of_burst(users, day) < self.spec.active_days
        period = self.spec.active_days + self.spec.dormant_days
        rows = here * np.where(self.dormant, period / self.spec.active_days, 1.0)
        return np.asarray(rows / rows.sum())

    @cached_property
    def _base(self) -> dict[str, float]:
        rates = {"natural": self.spec.natural_positive_rate, "ads": self.spec.ad_positive_rate}
        found = {}
        for number, (domain, rate) in enumerate(rates.items()):
            draw = generator(self.spec, 3, number)
            user = draw.integers(self.spec.num_users, size=_NUM_REFERENCE_ROWS)
            item = self.items[domain][draw.integers(self.spec.num_items, size=_NUM_REFERENCE_ROWS)] - 1
            score = self._score(domain, user, item, np.zeros(1, np.int64))
            found[domain] = _base_for(score, rate)
        return found

    def _score(self, domain: str, user: Ints, item: Ints, month: Ints) -> Floats:
        preference = self.lasting[domain][user] + self.drifting[domain][month, user]
        match = np.einsum("nk,nk->n", preference, self.item_vectors[item]) / np.sqrt(self.spec.num_dims)
        return np.asarray(self.spec.strength * match + self.item_effects[item] + self.user_effects[domain][user])


def sigmoid(log_odds: Floats) -> Floats:
    """Without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0, -log_odds)))


def _walk(spec: PlantedDriftSpec) -> Floats:
    """[M, 2, U, K] d and d'; a month's step has a stream of its own, so that fewer months are the first of more."""
    num_months = int(month_of(spec, spec.num_days - 1)) + 1
    steps = np.stack([generator(spec, 1, month).standard_normal((2, spec.num_users, spec.num_dims)) for month in range(num_months)])
    for month in range(1, num_months):
        steps[month] = KEPT * steps[month - 1] + np.sqrt(1 - KEPT**2) * steps[month]
    return steps


def _turned(spec: PlantedDriftSpec, natural: Floats, other: Floats) -> dict[str, Floats]:
    angle = np.deg2rad(spec.shift_degrees)
    return {"natural": natural, "ads": np.cos(angle) * natural + np.sin(angle) * other}


def _standard(values: Floats) -> Floats:
    """Each column at mean 0 and variance 1."""
    return np.asarray((values - values.mean(axis=0)) / values.std(axis=0))


def _base_for(score: Floats, rate: float) -> float:
    """The intercept at which the mean probability is ``rate``, by bisection."""
    low, high = -_MAX_LOG_ODDS, _MAX_LOG_ODDS
    for _ in range(25):
        middle = (low + high) / 2
        low, high = (middle, high) if sigmoid(middle + score).mean() < rate else (low, middle)
    return (low + high) / 2
