"""Synthetic rows and events: any run of a file's rows is a pure function of the spec, the file and the run's first row.

The planted rule (our choice): the log-odds of a label are an intercept plus, for each feature of ``EFFECTS`` that is there,
its weight times +1 or -1, which a hash of the id decides (a dense feature counts with its value); with histories, plus
``MATCH`` when the item's genre is the user's taste and plus ``MISMATCH`` when it is not. A user rates events of that genre 4
or 5 and others 1 to 3, nine times in ten, so the history tells the taste. ``f03`` counts the other way round in the source
domain: what is learnt there helps the target, not all of it.

Shapes: N rows of a run, U users, E events of each.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from raytrain.data.contract import SPLITS
from raytrain.data.prepare.fingerprint import bucket_of
from raytrain.data.synthetic.spec import SyntheticSpec

NUM_GENRES = 4
INTERCEPT = {"target": -1.2, "source": -0.8}
EFFECTS = {
    "target": {"item": 1.0, "f02": 1.0, "f03": 0.8, "d00": 0.5},
    "source": {"item": 1.0, "f02": 1.0, "f03": -0.8, "d00": 0.5},
}
MATCH, MISMATCH = 1.5, -0.5
FAITHFUL_RATINGS = 0.9

DAY_S = 86_400
HISTORY_FROM = 1_700_000_000
START = {"train": HISTORY_FROM + 30 * DAY_S, "valid": HISTORY_FROM + 60 * DAY_S, "test": HISTORY_FROM + 61 * DAY_S}
STOP = {"train": START["valid"], "valid": START["test"], "test": START["test"] + DAY_S}
"""Unix s; a split's times lie in [START, STOP), events anywhere in [HISTORY_FROM, STOP["test"])."""

Ints = npt.NDArray[np.int32]
Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class SampleFile:
    """One bucket of one split."""

    domain: str
    split: str
    bucket: int
    num_rows: int
    first_row_id: int


def users_in(spec: SyntheticSpec, bucket: int, num_buckets: int) -> int:
    """Users 1 + bucket, 1 + bucket + num_buckets, ... up to ``spec.users``."""
    return -(-(spec.users - bucket) // num_buckets)


def draw_samples(spec: SyntheticSpec, num_buckets: int, file: SampleFile, first: int, stop: int) -> Columns:
    """Rows [first, stop) of ``file`` by (time, user, item); an earlier run's times are all smaller or equal and never shared.

    Columns: user, item: int32; time: int64; label: float32; the other id features int32; dense features float32. [N] each.
    """
    draw = _generator(spec, file.domain, SPLITS.index(file.split), file.bucket, first)
    count = stop - first
    user, item, time = _keys(spec, num_buckets, file, first, stop, draw)
    columns: Columns = {"user": user, "item": item, "time": time, "label": np.empty(0, np.float32)}
    columns |= {name: _ids(draw, spec.ids_of(name), count, spec.skew) for name in spec.id_features[2:]}
    columns |= {name: draw.standard_normal(count, np.float32) for name in spec.dense_features}
    if spec.row_ids:
        columns["row_id"] = np.arange(file.first_row_id + first, file.first_row_id + stop, dtype=np.int32)
    probability = 1 / (1 + np.exp(-log_odds(spec, file.domain, columns)))
    columns["label"] = (draw.random(count) < probability).astype(np.float32)
    return columns


def log_odds(spec: SyntheticSpec, domain: str, columns: Columns) -> npt.NDArray[np.float64]:
    """[N], of a label of 1: the planted rule."""
    total = np.full(len(columns["user"]), INTERCEPT[domain])
    for name, weight in EFFECTS[domain].items():
        if name in spec.dense_features:
            total += weight * columns[name].astype(np.float64)
        elif name in spec.id_features:
            total += weight * (2 * _hashed(columns[name].astype(np.int32), 2) - 1)
    if spec.events_per_user:
        matches = _genre(columns["item"].astype(np.int32)) == _taste(columns["user"].astype(np.int32))
        total += np.where(matches, MATCH, MISMATCH)
    return total


def draw_events(spec: SyntheticSpec, num_buckets: int, domain: str, bucket: int, first: int, stop: int) -> tuple[Ints, Columns]:
    """(users [U] by ascending id, their events end to end by time): users number first to stop - 1 of ``bucket``.

    Events: item: int32, time: int64, rating: int8 in 1..5. [U * E] each.
    """
    draw = _generator(spec, domain, len(SPLITS), bucket, first)
    users = (1 + bucket + num_buckets * np.arange(first, stop, dtype=np.int64)).astype(np.int32)
    shape = (len(users), spec.events_per_user)
    time = np.sort(draw.integers(HISTORY_FROM, STOP["test"], shape), axis=1)
    item = _ids(draw, spec.items, time.size, spec.skew)
    liked = _genre(item) == np.repeat(_taste(users), spec.events_per_user)
    high = liked == (draw.random(time.size) < FAITHFUL_RATINGS)
    rating = np.where(high, draw.integers(4, 6, time.size), draw.integers(1, 4, time.size)).astype(np.int8)
    return users, {"item": item, "time": time.reshape(-1), "rating": rating}


def _keys(
    spec: SyntheticSpec, num_buckets: int, file: SampleFile, first: int, stop: int, draw: np.random.Generator
) -> tuple[Ints, Ints, npt.NDArray[np.int64]]:
    """(user, item, time) in order. A run owns the seconds that are its share of the split's time."""
    count, begin, span = stop - first, START[file.split], STOP[file.split] - START[file.split]
    low, high = span * first // file.num_rows, span * stop // file.num_rows
    in_bucket = _ids(draw, users_in(spec, file.bucket, num_buckets), count, spec.skew) - 1
    user = 1 + file.bucket + num_buckets * in_bucket.astype(np.int64)
    # One sort of 64-bit numbers instead of a sort by several keys, which takes a third of all the time.
    key = (draw.integers(low, max(high, low + 1), count) << 31) | user
    key.sort()
    item = _ids(draw, spec.items, count, spec.skew)
    same = key[1:] == key[:-1]
    tied = np.nonzero(np.append(same, False) | np.append(False, same))[0]
    item[tied] = item[tied][np.lexsort((item[tied], key[tied]))]
    return (key & (2**31 - 1)).astype(np.int32), item, begin + (key >> 31)


def _ids(draw: np.random.Generator, num_ids: int, count: int, skew: float) -> Ints:
    """[count] of 1..num_ids; the inverse of the distribution function of a density rank ** -skew."""
    if skew == 0:
        return draw.integers(1, num_ids + 1, count, dtype=np.int32)
    return 1 + (num_ids * draw.random(count) ** (1 / (1 - skew))).astype(np.int32)


def _hashed(ids: Ints, num_values: int, salt: int = 0x5BD1E995) -> npt.NDArray[np.int64]:
    """[N] in 0..num_values-1: what an id stands for; a user and an item of one id stand for unrelated things."""
    return bucket_of(ids ^ np.int32(salt), num_values)


def _genre(item: Ints) -> npt.NDArray[np.int64]:
    return _hashed(item, NUM_GENRES, salt=0x1B873593)


def _taste(user: Ints) -> npt.NDArray[np.int64]:
    return _hashed(user, NUM_GENRES, salt=0x2C1B3C6D)


def _generator(spec: SyntheticSpec, domain: str, kind: int, bucket: int, first: int) -> np.random.Generator:
    """SFC64 (Doty-Humphrey's PractRand): the fastest generator of numpy, a third of Philox's time."""
    key = (spec.seed, ("target", "source").index(domain), kind, bucket, first)
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(key)))
