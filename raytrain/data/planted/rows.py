"""Users, their lifelong events and the samples that those decide: a bucket is a pure function of the spec, and of which bucket.

The planted rule (our choice). Every item has one hidden topic. A user visits ``topics_per_user`` topics, the same in both domains,
and has a taste of -1 or +1 for each. Events come in sessions of ``session_events`` on one visited topic, at the same time in both
domains; the topics are dealt to sessions evenly and in any order. An event carries feedback 1, 2 or 3: 2 + taste, or (with
1 - ``faithful``) any. A sample's candidate is an item of a visited topic; its *relevant* events are the user's events of that
topic in both domains, strictly before the sample, and

    P(label = 1) = sigmoid(strength * mean(feedback of the relevant events - 2) + noise * standard normal)

so a model has to find the same-topic events of both domains. Topics are dealt to ids by a permutation, have equally many items,
which are equally popular, and are visited at any time: neither id, popularity nor recency tells which events are relevant.

Shapes: U users of a bucket, E events of each in a domain, T topics, N samples.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from raytrain.data.contract import SPLITS
from raytrain.data.planted.spec import PlantedSpec

DOMAINS = ("target", "source")
FEEDBACK_VALUES = 4
NEUTRAL = 2

DAY_S = 86_400
HISTORY_FROM = 1_700_000_000
SPAN_S = 400 * DAY_S
START = {"train": HISTORY_FROM + 320 * DAY_S, "valid": HISTORY_FROM + 360 * DAY_S, "test": HISTORY_FROM + 380 * DAY_S}
STOP = {"train": START["valid"], "valid": START["test"], "test": HISTORY_FROM + SPAN_S}
"""Unix s; a split's times lie in [START, STOP), events in [HISTORY_FROM, HISTORY_FROM + SPAN_S)."""

_TIME_BITS = 32

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Columns = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class Truth:
    """What no model is told."""

    items: dict[str, Ints]
    """domain -> [T, items of a topic] ids"""

    @classmethod
    def of(cls, spec: PlantedSpec) -> Self:
        ids = (1 + _generator(spec, 0).permutation(spec.num_items)).astype(np.int32)
        # The first items of both domains are the shared ones; number n is of topic n modulo T in either.
        own = {"target": ids[: spec.items_per_domain], "source": np.append(ids[: spec.num_shared_items], ids[spec.items_per_domain :])}
        return cls({domain: numbered.reshape(-1, spec.num_topics).T for domain, numbered in own.items()})

    def columns(self) -> Columns:
        """id (int32, ascending), topic (int32), and for each domain whether the item occurs in it: one row an item."""
        num_items = max(int(items.max()) for items in self.items.values())
        topic = np.empty(num_items, np.int32)
        occurs = {domain: np.zeros(num_items, bool) for domain in self.items}
        for domain, items in self.items.items():
            topic[items - 1] = np.arange(len(items), dtype=np.int32)[:, None]
            occurs[domain][items - 1] = True
        return {"id": np.arange(1, num_items + 1, dtype=np.int32), "topic": topic, **occurs}


@dataclass(frozen=True)
class Bucket:
    """All users of one bucket."""

    users: Ints
    """[U], ascending"""
    events: dict[str, Columns]
    """domain -> item int32, time int64, feedback int8 in 1..3; [U * E] each, end to end by user, then by time"""
    samples: dict[str, Columns]
    """split -> user, item: int32; time: int64; label: float32; [N] each, by (time, user, item)"""


def users_in(spec: PlantedSpec, bucket: int, num_buckets: int) -> Ints:
    """[U] users 1 + bucket, 1 + bucket + num_buckets, ... up to ``spec.num_users``."""
    return np.arange(1 + bucket, spec.num_users + 1, num_buckets, dtype=np.int32)


def draw_bucket(spec: PlantedSpec, truth: Truth, num_buckets: int, bucket: int) -> Bucket:
    """Draws the bucket whole: its labels need the events of both domains. It takes about 100 bytes an event, for the while."""
    draw = _generator(spec, 1, num_buckets, bucket)
    users = users_in(spec, bucket, num_buckets)
    visited = np.argsort(draw.random((len(users), spec.num_topics)), axis=1)[:, : spec.topics_per_user]
    taste = (2 * draw.integers(2, size=visited.shape) - 1).astype(np.int8)
    slots = _slots(spec, len(users), draw)
    owner = np.arange(len(users))[:, None]
    events: dict[str, Columns] = {}
    keys, feedbacks = [], []
    for domain in DOMAINS:
        topic = np.take_along_axis(visited, slots[domain], axis=1)
        feedback = NEUTRAL + np.take_along_axis(taste, slots[domain], axis=1)
        faithful = draw.random(topic.shape) < spec.faithful
        feedback = np.where(faithful, feedback, draw.integers(1, FEEDBACK_VALUES, topic.shape)).astype(np.int8)
        time = _times(spec, topic.shape, draw)
        item = truth.items[domain][topic, draw.integers(truth.items[domain].shape[1], size=topic.shape)]
        keys.append(_event_key(spec.num_topics, owner, topic, time).reshape(-1))
        feedbacks.append(feedback.reshape(-1))
        events[domain] = {"item": item.reshape(-1), "time": time.reshape(-1), "feedback": feedbacks[-1]}
    relevance = _Relevance(spec.num_topics, keys, feedbacks)
    counts = {split: _share_of(spec.rows_of(split), bucket, num_buckets) for split in SPLITS}
    return Bucket(users, events, _samples(spec, truth, counts, users, visited, relevance, draw))


def _samples(
    spec: PlantedSpec,
    truth: Truth,
    counts: dict[str, int],
    users: Ints,
    visited: Longs,
    relevance: "_Relevance",
    draw: np.random.Generator,
) -> dict[str, Columns]:
    drawn = {}
    for split, count in counts.items():
        owner = draw.integers(len(users), size=count)
        topic = visited[owner, draw.integers(spec.topics_per_user, size=count)]
        item = truth.items["target"][topic, draw.integers(truth.items["target"].shape[1], size=count)]
        time = draw.integers(START[split], STOP[split], count)
        log_odds = spec.strength * relevance.mean_feedback(owner, topic, time) + spec.noise * draw.standard_normal(count)
        # sigmoid without overflow
        label = (draw.random(count) < np.exp(-np.logaddexp(0, -log_odds))).astype(np.float32)
        order = np.lexsort((item, users[owner], time))
        columns: Columns = {"user": users[owner], "item": item, "time": time, "label": label}
        drawn[split] = {name: values[order] for name, values in columns.items()}
    return drawn


class _Relevance:
    """Finds the events of a user and a topic among all events of a bucket."""

    def __init__(self, num_topics: int, keys: list[Longs], feedback: list[npt.NDArray[np.int8]]) -> None:
        """keys: of ``_event_key``, and the feedback beside them, both for each domain."""
        self._num_topics = num_topics
        unordered = np.concatenate(keys)
        order = np.argsort(unordered)
        self._keys = unordered[order]
        # [all events + 1], of the feedback before each
        self._sums = np.append(0, np.cumsum(np.concatenate(feedback)[order].astype(np.int64) - NEUTRAL))

    def mean_feedback(self, owner: Longs, topic: Longs, time: Longs) -> npt.NDArray[np.float64]:
        """[N] in [-1, 1]: over the owner's events of the topic strictly before ``time``, in both domains; 0 without any."""
        first = np.searchsorted(self._keys, _event_key(self._num_topics, owner, topic, HISTORY_FROM))
        stop = np.searchsorted(self._keys, _event_key(self._num_topics, owner, topic, time))
        return np.asarray((self._sums[stop] - self._sums[first]) / np.maximum(1, stop - first))


def _event_key(num_topics: int, owner: Longs, topic: Longs, time: Longs | int) -> Longs:
    """Orders by (user, topic, time) in one number."""
    key: Longs = ((owner * num_topics + topic) << _TIME_BITS) | (time - HISTORY_FROM)
    return key


def _share_of(num_rows: int, bucket: int, num_buckets: int) -> int:
    return num_rows * (bucket + 1) // num_buckets - num_rows * bucket // num_buckets


def _slots(spec: PlantedSpec, num_users: int, draw: np.random.Generator) -> dict[str, Longs]:
    """domain -> [U, E] number of the visited topic that each event is of."""
    shape = (num_users, spec.events_per_user)
    if not spec.session_events:
        return {domain: draw.integers(spec.topics_per_user, size=shape) for domain in DOMAINS}
    num_sessions = -(-spec.events_per_user // spec.session_events)
    dealt = np.broadcast_to(np.arange(num_sessions) % spec.topics_per_user, (num_users, num_sessions))
    slots = draw.permuted(dealt, axis=1).repeat(spec.session_events, axis=1)
    return dict.fromkeys(DOMAINS, slots[:, : spec.events_per_user])


def _times(spec: PlantedSpec, shape: tuple[int, ...], draw: np.random.Generator) -> Longs:
    """[U, E] ascending Unix s. With sessions event k falls into the k-th of E equal spans, so that domains keep step."""
    if not spec.session_events:
        return np.sort(draw.integers(HISTORY_FROM, HISTORY_FROM + SPAN_S, shape), axis=1)
    return HISTORY_FROM + ((np.arange(shape[1]) + draw.random(shape)) * (SPAN_S / shape[1])).astype(np.int64)


def _generator(spec: PlantedSpec, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence((spec.seed, *key))))
