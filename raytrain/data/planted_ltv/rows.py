"""The rows of a domain's split, with the role of each: a pure function of the spec.

Internal rows and *good* external ones follow the rule of ``rule.py`` on the same ids. A *neutral* row has ids that no internal row
has, dense values of 0, and scores of its own: labels are distributed as elsewhere, and no effect or slope is taught. A *harmful*
row is a good one with one thing wrong (our choices; each alone):

    label_flip       both scores are turned round before the label is drawn: who should pay much pays little
    covariate_shift  the label is right, the recorded covariates are displaced: every id by half of its vocabulary, dense values by
                     one column and DENSE_SHIFT standard deviations, so that effects are credited to other ids (a shift of where
                     rows lie, with the rule intact, would harm no model that can express the rule; and one that a network could
                     read off the row would be learnt as a domain of its own)
    scale_shift      amounts are ``scale`` times too large where the score of the amount is below 0, as many times too small above;
                     who pays is untouched

No feature tells the slice, the domain or the role.

Shapes: N rows, S slices.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raytrain.data.contract import PROBE
from raytrain.data.planted_ltv.rule import Ints, Rule, draw_labels, expected_amount, generator, pay_probability
from raytrain.data.planted_ltv.spec import PlantedLtvSpec

DOMAINS = ("internal", "external")
SPLIT_NUMBERS = {"train": 0, "valid": 1, "test": 2, PROBE: 3}
INTERNAL, GOOD, NEUTRAL, HARMFUL = "internal", "good", "neutral", "harmful"

DENSE_SHIFT = 0.3
DAY_S = 86_400
HORIZON_DAYS = 30
_FROM = 1_700_000_000
_DAYS = {"train": (0, 300), PROBE: (0, 300), "valid": (330, 360), "test": (390, 420)}
"""Of a split's rows; a horizon apart, so that no label of a split reaches into a later one's times."""

Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Rows:
    """By (bucket of the user, time, user, item)."""

    bucket: npt.NDArray[np.int32]
    """[N]"""
    samples: Columns
    """user, item, id features, slice: int32; time: int64; label, dense features: float32; [N] each"""
    truth: Columns
    """slice (int32), slice_role, role (str), and what an internal row with these features has: pay (probability) and expected
    (amount), float32, NaN for a neutral row; [N] each"""


def slice_roles(spec: PlantedLtvSpec) -> npt.NDArray[np.str_]:
    """[S] role of slices 1, 2, ...: which ones harm tells their number not."""
    num_good = spec.num_slices - spec.num_harmful_slices - spec.num_neutral_slices
    roles = np.repeat([HARMFUL, NEUTRAL, GOOD], [spec.num_harmful_slices, spec.num_neutral_slices, num_good])
    return generator(spec, 1).permutation(roles)


def table_rows(spec: PlantedLtvSpec) -> dict[str, int]:
    """id feature -> rows of its table: row 0, the ids of internal rows, and a fifth as many that only neutral rows have."""
    return {name: 1 + size + _num_neutral_ids(size) for name, size in spec.id_sizes.items()}


def num_users(spec: PlantedLtvSpec) -> int:
    """Over all domains and splits; ids from 1."""
    return sum(_users_of(spec, count) for domain in DOMAINS for count in spec.splits_of(domain).values())


def draw_split(spec: PlantedLtvSpec, rule: Rule, domain: str, split: str, num_buckets: int) -> Rows:
    """All rows of a split; it takes about 300 bytes a row, for the while."""
    num_rows = spec.splits_of(domain)[split]
    draw = generator(spec, 2, DOMAINS.index(domain), SPLIT_NUMBERS[split])
    sizes = np.array(list(spec.id_sizes.values()))
    ids: Ints = 1 + draw.integers(0, sizes, (num_rows, len(sizes)))
    dense = draw.standard_normal((num_rows, spec.num_dense_features))
    scores = rule.scores(ids, dense)
    slices, slice_role, role = _slices(spec, domain, num_rows, draw)

    mates = draw.integers(_users_of(spec, num_rows), size=num_rows)
    mood = draw.standard_normal(_users_of(spec, num_rows))[mates]
    neutral, harmful = role == NEUTRAL, role == HARMFUL
    own = np.where(neutral, draw.standard_normal(scores.shape), scores)
    if spec.harm == "label_flip":
        own = np.where(harmful, -own, own)
    label = draw_labels(own, mood, draw)
    if spec.harm == "scale_shift":
        label = np.where(harmful, label * spec.scale ** -np.sign(scores[1]), label)
    if spec.harm == "covariate_shift":
        ids = np.where(harmful[:, None], 1 + (ids - 1 + sizes // 2) % sizes, ids)
        dense = np.where(harmful[:, None], DENSE_SHIFT + np.roll(dense, 1, axis=1), dense)
    shown = rule.scores(ids, dense)
    num_neutral_ids = np.array([_num_neutral_ids(int(size)) for size in sizes])
    ids = np.where(neutral[:, None], 1 + sizes + (ids - 1) % num_neutral_ids, ids)
    dense = np.where(neutral[:, None], 0.0, dense)

    first, last = _DAYS[split]
    samples: Columns = {
        "user": (1 + _users_before(spec, domain, split) + mates).astype(np.int32),
        "time": draw.integers(_FROM + first * DAY_S, _FROM + last * DAY_S, num_rows),
        "label": label.astype(np.float32),
        **{name: ids[:, number].astype(np.int32) for number, name in enumerate(spec.id_sizes)},
        **{name: dense[:, number].astype(np.float32) for number, name in enumerate(spec.dense_features)},
        "slice": slices.astype(np.int32),
    }
    truth: Columns = {
        "slice": samples["slice"],
        "slice_role": slice_role,
        "role": role,
        "pay": np.where(neutral, np.nan, pay_probability(shown)).astype(np.float32),
        "expected": np.where(neutral, np.nan, expected_amount(shown)).astype(np.float32),
    }
    bucket = ((samples["user"] - 1) % num_buckets).astype(np.int32)
    order = np.lexsort((samples["item"], samples["user"], samples["time"], bucket))
    return Rows(bucket[order], {n: c[order] for n, c in samples.items()}, {n: c[order] for n, c in truth.items()})


def _slices(
    spec: PlantedLtvSpec, domain: str, num_rows: int, draw: np.random.Generator
) -> tuple[Ints, npt.NDArray[np.str_], npt.NDArray[np.str_]]:
    """(slice, role of the slice, role of the row), [N] each."""
    roles = slice_roles(spec)
    if domain == "internal":
        # Sizes fall as 1 / rank ** 1.5, over slices of any role.
        share = generator(spec, 3).permutation(np.arange(1, spec.num_slices + 1) ** -1.5)
        drawn = draw.choice(spec.num_slices, num_rows, p=share / share.sum())
        return drawn + 1, roles[drawn], np.full(num_rows, INTERNAL)
    drawn = draw.permutation(np.arange(num_rows) % spec.num_slices)
    turned = draw.random(num_rows) >= spec.purity
    other = np.select([roles == HARMFUL, roles == GOOD], [GOOD, HARMFUL], NEUTRAL)
    return drawn + 1, roles[drawn], np.where(turned, other[drawn], roles[drawn])


def _users_of(spec: PlantedLtvSpec, num_rows: int) -> int:
    return -(-num_rows // spec.rows_per_user)


def _users_before(spec: PlantedLtvSpec, domain: str, split: str) -> int:
    """Users of the domains and splits that are numbered before."""
    counts = {(name, part): _users_of(spec, count) for name in DOMAINS for part, count in spec.splits_of(name).items()}
    keys = list(counts)
    return sum(counts[key] for key in keys[: keys.index((domain, split))])


def _num_neutral_ids(size: int) -> int:
    return max(1, size // 5)
