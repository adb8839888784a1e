"""How much a row pays: the planted rule (our choice), and what it is worth to know it.

Two scores of mean 0 and variance 1 decide a row, each a sum of one effect for every id and a slope for every dense feature:

    P(label > 0) = sigmoid(PAY_BASE + score_pay + USER_SPREAD * a standard normal of the user)
    tier ~ softmax over tiers t of (log TIER_SHARES[t] + score_amount * (t - 2)), amount = PRICES[tier] * (1 + Poisson(MORE))

so that most labels are 0 and the others pile up at a few prices and their multiples, as purchases in tiers do. The scores are
independent: who pays says nothing about how much, and a model has to learn both.

Shapes: N rows, F id features, D dense features.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from raytrain.data.planted_ltv.spec import PlantedLtvSpec

PRICES = np.array([6.0, 30.0, 68.0, 128.0, 328.0, 648.0])
TIER_SHARES = np.array([0.40, 0.25, 0.15, 0.10, 0.07, 0.03])
MORE = 0.3
"""Purchases beyond the first, on average."""
PAY_BASE = -1.2
USER_SPREAD = 0.5
DENSE_SHARE = 0.16
"""Of a score's variance."""

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def generator(spec: PlantedLtvSpec, *key: int) -> np.random.Generator:
    """A stream of its own for each key."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((spec.seed, *key))))


@dataclass(frozen=True)
class Rule:
    """Effects on (score of paying, score of the amount)."""

    effects: tuple[Floats, ...]
    """id feature -> [2, values]"""
    slopes: Floats
    """[2, D]"""

    @classmethod
    def of(cls, spec: PlantedLtvSpec) -> Self:
        draw = generator(spec, 0)
        per_feature = np.sqrt((1 - DENSE_SHARE) / len(spec.id_sizes))
        effects = tuple(per_feature * _standard(draw.standard_normal((2, size))) for size in spec.id_sizes.values())
        slopes = draw.standard_normal((2, spec.num_dense_features))
        return cls(effects, np.sqrt(DENSE_SHARE) * slopes / np.linalg.norm(slopes, axis=1, keepdims=True))

    def scores(self, ids: Ints, dense: Floats) -> Floats:
        """[2, N]; ids: [N, F], from 1. dense: [N, D], standard normal."""
        by_feature = [effect[:, ids[:, number] - 1] for number, effect in enumerate(self.effects)]
        return np.asarray(self.slopes @ dense.T + sum(by_feature))


def draw_labels(scores: Floats, user: Floats, draw: np.random.Generator) -> Floats:
    """[N] amounts; scores: [2, N]. user: [N], the standard normal of each row's user."""
    pays = draw.random(scores.shape[1]) < _sigmoid(PAY_BASE + scores[0] + USER_SPREAD * user)
    below = np.cumsum(_tiers(scores[1]), axis=1)[:, :-1]
    tier = np.sum(below < draw.random((len(pays), 1)), axis=1)
    return np.where(pays, PRICES[tier] * (1 + draw.poisson(MORE, len(pays))), 0.0)


def pay_probability(scores: Floats) -> Floats:
    """[N] P(label > 0), for no user in particular."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(15)
    return np.asarray(_sigmoid(PAY_BASE + scores[0][:, None] + USER_SPREAD * nodes) @ (weights / weights.sum()))


def expected_amount(scores: Floats) -> Floats:
    """[N] mean label: no order of rows has a larger expected Gini."""
    return np.asarray(pay_probability(scores) * (_tiers(scores[1]) @ PRICES) * (1 + MORE))


def _tiers(score: Floats) -> Floats:
    """[N, tiers] probabilities."""
    logits = np.log(TIER_SHARES) + score[:, None] * (np.arange(len(PRICES)) - 2)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def _sigmoid(logit: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -logit)))


def _standard(values: Floats) -> Floats:
    """Mean 0 and variance 1 over the values of a feature, so that every seed is equally hard."""
    centred = values - values.mean(axis=1, keepdims=True)
    return np.asarray(centred / centred.std(axis=1, keepdims=True))
