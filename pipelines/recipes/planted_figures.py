"""What a planted data set is worth, measured on its files: how much the truth predicts, and how little anything trivial does."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raytrain.data.contract import Contract, load_contract
from raytrain.data.history import load_histories
from raytrain.data.planted import TRUTH_FILE
from raytrain.data.planted.rows import NEUTRAL
from raytrain.metrics.auc import auc
from raytrain.storage import Storage

SIZES = (20, 200)
FIGURES_FILE = "planted.json"
NUM_SAMPLES = 2_000
NUM_EVENTS = 4_000_000
"""Of a domain, over all measured samples: what the sorts for the recall cost, in time and in memory."""

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DomainFigures:
    """Means over samples of one domain's events strictly before each."""

    num_events: float
    num_relevant: float
    """events of the candidate's topic"""
    pair_lift: float
    """How many times as often an event shares the candidate's topic as the topic of a random item"""
    same_item: float
    """Share of the relevant events that are of the candidate itself, which equal ids find"""
    recall: dict[str, dict[int, float]]
    """way to choose K events -> K -> share of the relevant events of other items that are among them"""
    chance: dict[int, float]
    """K -> K / number of events, what choosing at random recalls"""


@dataclass(frozen=True)
class PlantedFigures:
    bayes_auc: float
    """Of the relevant events' mean feedback: nothing predicts better, the noise aside"""
    item_mean_auc: float
    """Of the candidate's mean label in training rows"""
    user_mean_auc: float
    topic_of_id: float
    """Correlation of items' ids and topics"""
    paired_in_time: float
    """Share of target events that are of the topic of the same user's latest source event before them"""
    domains: dict[str, DomainFigures]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        found = [
            f"test AUC: truth {self.bayes_auc:.3f}, item mean {self.item_mean_auc:.3f}, user mean {self.user_mean_auc:.3f}",
            f"correlation of id and topic {self.topic_of_id:+.3f}; {self.paired_in_time:.0%} of target events are of the topic of the "
            "latest source event",
        ]
        for name, domain in self.domains.items():
            found.append(
                f"{name}: {domain.num_relevant:.1f} of {domain.num_events:,.0f} events relevant, {domain.same_item:.0%} of them the "
                f"candidate itself; an event is of its topic {domain.pair_lift:.1f} times as often as by chance"
            )
            for size, chance in domain.chance.items():
                recalls = ", ".join(f"{way} {recall[size]:.3f}" for way, recall in domain.recall.items())
                found.append(f"{name}: recall at {size} by {recalls}; K / L {chance:.3f}")
        return found


def measure(path: str, sizes: tuple[int, ...] = SIZES, seed: int = 0) -> PlantedFigures:
    """Reads a planted data set with its truth; recall and Bayes AUC come from up to ``NUM_SAMPLES`` random rows of the test split."""
    contract, storage, draw = load_contract(path), Storage(path), np.random.default_rng(seed)
    with storage.filesystem.open_input_file(storage.path(TRUTH_FILE)) as source:
        truth = pq.read_table(source)
    topic = np.append(-1, truth["topic"].to_numpy())
    splits = contract.domains[contract.target].splits
    train, test = (_read(storage, storage.list_files(splits[split].path, ".parquet")) for split in ("train", "test"))
    longest = max(domain.history.max_events for domain in contract.domains.values() if domain.history)
    num_samples = max(1, min(NUM_SAMPLES, NUM_EVENTS // longest))
    rows = test.take(pa.array(np.sort(draw.permutation(test.num_rows)[:num_samples])))
    sums, counts = np.zeros(rows.num_rows), np.zeros(rows.num_rows)
    domains = {}
    for name in contract.domains:
        events = _Events.read(storage, contract, name, rows)
        relevant = topic[events.item] == topic[rows["item"].to_numpy()][events.owner]
        sums += events.per_sample(relevant * (events.feedback - NEUTRAL))
        counts += events.per_sample(relevant)
        domains[name] = _domain_figures(events, relevant, rows["item"].to_numpy(), topic, sizes, draw)
    label = test["label"].to_numpy()
    return PlantedFigures(
        bayes_auc=auc(sums / np.maximum(1, counts), rows["label"].to_numpy()),
        item_mean_auc=auc(_train_means(train, test, "item"), label),
        user_mean_auc=auc(_train_means(train, test, "user"), label),
        paired_in_time=_paired_in_time(storage, contract, topic),
        topic_of_id=float(np.corrcoef(truth["id"].to_numpy(), truth["topic"].to_numpy())[0, 1]),
        domains=domains,
    )


@dataclass(frozen=True)
class _Events:
    """The S events of N samples, sample by sample, oldest first."""

    owner: Ints
    """[S] sample of each"""
    item: Ints
    feedback: Ints
    lengths: Ints
    """[N]"""

    @classmethod
    def read(cls, storage: Storage, contract: Contract, domain: str, rows: pa.Table) -> "_Events":
        history = contract.domains[domain].history
        assert history is not None, domain
        files = storage.list_files(history.path, ".parquet")
        users, times = (rows[name].to_numpy().astype(np.int64) for name in ("user", "time"))
        window = load_histories(storage, history, files, users, times, history.max_events, contract.tables[history.table].num_rows)
        lists = window.cut(np.arange(rows.num_rows))
        values = {name: lists[name].flatten().to_numpy().astype(np.int64) for name in ("item", "feedback")}
        return cls(np.repeat(np.arange(rows.num_rows), window.lengths), values["item"], values["feedback"], window.lengths)

    def per_sample(self, values: npt.NDArray[Any]) -> Floats:
        """[N] sums"""
        return np.bincount(self.owner, weights=values, minlength=len(self.lengths)).astype(np.float64)

    def rank(self, score: npt.NDArray[Any]) -> Ints:
        """[S] 0 for the event of each sample that scores highest."""
        order = np.lexsort((-score, self.owner))
        starts = np.cumsum(self.lengths) - self.lengths
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(len(order)) - starts[self.owner]
        return rank


def _domain_figures(
    events: _Events, relevant: npt.NDArray[np.bool_], candidate: Ints, topic: Ints, sizes: tuple[int, ...], draw: np.random.Generator
) -> DomainFigures:
    itself = events.item == candidate[events.owner]
    popularity, jitter = np.bincount(events.item, minlength=len(topic)), draw.random(len(events.item))
    scores = {
        "recency": np.arange(len(events.item)),
        "popularity": popularity[events.item] + jitter,
        # The candidate itself comes last: it is counted apart.
        "nearest id": np.where(itself, -np.inf, -np.abs(events.item - candidate[events.owner]) - jitter),
        "random": jitter,
    }
    others = relevant & ~itself
    num_others = events.per_sample(others)
    asked = num_others > 0
    recall: dict[str, dict[int, float]] = {}
    for way, score in scores.items():
        rank = events.rank(score)
        recall[way] = {size: float((events.per_sample(others & (rank < size))[asked] / num_others[asked]).mean()) for size in sizes}
    return DomainFigures(
        num_events=float(events.lengths.mean()),
        num_relevant=float(events.per_sample(relevant).mean()),
        pair_lift=float(relevant.mean() * len(np.unique(topic[1:]))),
        same_item=float(itself.sum() / max(1, relevant.sum())),
        recall=recall,
        chance={size: float(np.minimum(1, size / np.maximum(1, events.lengths[asked])).mean()) for size in sizes},
    )


def _paired_in_time(storage: Storage, contract: Contract, topic: Ints) -> float:
    """Of the first bucket's users."""
    keys, topics = {}, {}
    for name in (contract.target, contract.sources[0]):
        history = contract.domains[name].history
        assert history is not None, name
        table = _read(storage, storage.list_files(history.path, ".parquet")[:1])
        owner = np.repeat(table["user"].to_numpy().astype(np.int64), pc.list_value_length(table["time"]).to_numpy())
        keys[name] = (owner << 32) | pc.list_flatten(table["time"]).to_numpy()
        topics[name] = topic[pc.list_flatten(table["item"]).to_numpy()]
    target, source = keys
    before = np.searchsorted(keys[source], keys[target]) - 1
    found = (before >= 0) & (keys[source][before] >> 32 == keys[target] >> 32)
    return float((topics[source][before] == topics[target])[found].mean())


def _train_means(train: pa.Table, test: pa.Table, column: str) -> Floats:
    """[rows of test] mean label of training rows with the same value, pulled to the overall mean by two rows of it."""
    values, label = train[column].to_numpy(), train["label"].to_numpy().astype(np.float64)
    size = 1 + max(int(values.max()), int(test[column].to_numpy().max()))
    sums, counts = np.bincount(values, weights=label, minlength=size), np.bincount(values, minlength=size)
    means: Floats = (sums + 2 * label.mean()) / (counts + 2)
    return np.asarray(means[test[column].to_numpy()])


def _read(storage: Storage, files: list[str]) -> pa.Table:
    parts = []
    for file in files:
        with storage.filesystem.open_input_file(storage.path(file)) as source:
            parts.append(pq.ParquetFile(source).read())
    return pa.concat_tables(parts).combine_chunks()
