"""Tiny prepared data sets written straight from numpy arrays, in the layout of ``raytrain.data.contract``.

``build_dataset(path)`` draws two domains with labels that a model can learn. ``write_dataset(path, domains)`` writes rows
and events that a test chose itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import Contract, Domain, Feature, History, SideInformation, Split, Table, save_contract

NUM_COUNTRIES = 4
NUM_TAGS = 6
NUM_AGES = 32
NUM_GENRES = 4
START = 1_600_000_000
FIRST_DAY = date(2020, 9, 13)
"""Of START"""
DAY_S = 86_400
SAMPLE_SCHEMA = pa.schema(
    {
        "user": pa.int32(),
        "item": pa.int32(),
        "time": pa.int64(),
        "label": pa.float32(),
        "country": pa.int32(),
        "tags": pa.list_(pa.int32()),
        "price": pa.float32(),
    }
)
SIDE = (SideInformation(name="rating", num_values=6), SideInformation(name="age", num_values=NUM_AGES, derived_from="age"))
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Events:
    """What one domain's users did: arrays of equal length, in any order."""

    user: Ints
    item: Ints
    time: Ints
    rating: Ints

    def __len__(self) -> int:
        return len(self.user)

    def take(self, index: npt.NDArray[np.generic]) -> "Events":
        return Events(self.user[index], self.item[index], self.time[index], self.rating[index])


@dataclass(frozen=True)
class DomainRows:
    """Everything of one domain: samples per split (tables in SAMPLE_SCHEMA) and the events of its histories."""

    splits: Mapping[str, pa.Table]
    """By split, or by ISO date where ``by_day``"""
    events: Events | None = None
    role: str = "target"
    by_day: bool = False


@dataclass(frozen=True)
class Layout:
    num_buckets: int = 2
    row_group_rows: int = 64
    row_group_users: int = 8
    compression: str = "zstd"
    empty_buckets: bool = field(default=True)
    """Write a file without rows for a bucket that has none, as ``raytrain prepare`` does."""


def build_dataset(
    path: str | Path,
    num_users: int = 60,
    num_items: int = 40,
    seed: int = 0,
    num_buckets: int = 2,
    row_group_rows: int = 64,
    events_per_user: int = 12,
    source_events_per_user: int = 24,
    row_group_users: int = 8,
    num_days: int = 100,
    by_day: bool = False,
) -> Contract:
    """Writes domains "target" (target) and "source" (source) that share users and an item table; the same seed gives the same bytes.

    Every user likes one of four genres, and an event is positive mostly when its item is of that genre: the item's mean
    says little, the user's earlier events of either domain say nearly everything. An event's rating is 4 or 5 if and only
    if its label is 1. Samples are split by time: 70 % train, 15 % valid, 15 % test; ``by_day`` keeps them by day instead, the first
    of ``num_days`` being ``FIRST_DAY``.

    Features: user, item, country (id); tags (multi, at most 3); price (dense). Side information: rating, age.
    Items of the target are 1..num_items, of the source num_items+1..2*num_items.
    """
    draw = np.random.default_rng(seed)
    taste = draw.integers(NUM_GENRES, size=num_users + 1)
    domains = {
        "target": _drawn(draw, taste, num_users * events_per_user, (1, num_items), "target", num_days, by_day),
        "source": _drawn(draw, taste, num_users * source_events_per_user, (num_items + 1, num_items), "source", num_days, by_day),
    }
    return write_dataset(path, domains, Layout(num_buckets, row_group_rows, row_group_users), num_users + 1, 2 * num_items + 1)


def write_dataset(
    path: str | Path, domains: Mapping[str, DomainRows], layout: Layout | None = None, num_users: int = 100, num_items: int = 100
) -> Contract:
    """Writes the given rows, user modulo ``layout.num_buckets`` being the bucket; ``num_users`` and ``num_items`` count row 0."""
    root, layout = Path(path), layout or Layout()
    described = {name: _write_domain(root, name, rows, layout) for name, rows in domains.items()}
    contract = Contract(
        dataset="toy",
        content_hash="0" * 16,
        num_buckets=layout.num_buckets,
        slice="country",
        tables={
            "user": Table(num_rows=num_users),
            "item": Table(num_rows=num_items),
            "country": Table(num_rows=NUM_COUNTRIES),
            "tags": Table(num_rows=NUM_TAGS),
        },
        features=(
            Feature(name="user", kind="id", table="user"),
            Feature(name="item", kind="id", table="item"),
            Feature(name="country", kind="id", table="country"),
            Feature(name="tags", kind="multi", table="tags", max_values=3),
            Feature(name="price", kind="dense", mean=2.0, std=0.5),
        ),
        domains=described,
    )
    save_contract(contract, str(root))
    return contract


def samples(user: Ints, item: Ints, time: Ints, label: Ints, seed: int = 0) -> pa.Table:
    """Rows in SAMPLE_SCHEMA with country, tags and price drawn from ``seed``."""
    draw = np.random.default_rng(seed)
    count = len(user)
    return pa.table(
        {
            "user": user,
            "item": item,
            "time": time,
            "label": np.asarray(label, dtype=np.float32),
            "country": draw.integers(NUM_COUNTRIES, size=count),
            "tags": [draw.integers(1, NUM_TAGS, size=size).tolist() for size in draw.integers(4, size=count)],
            "price": draw.normal(2.0, 0.5, size=count).astype(np.float32),
        }
    ).cast(SAMPLE_SCHEMA)


def numbered_samples(num_rows: int, num_users: int = 10) -> pa.Table:
    """Row i has time START + i, which names it; labels alternate, users and items go round."""
    index = np.arange(num_rows)
    return samples(1 + index % num_users, 1 + index % 50, START + index, index % 2)


def write_samples(file: Path, rows: pa.Table, row_group_rows: int = 64, compression: str = "zstd") -> None:
    """One sample file; ``rows`` need not fit the contract."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, file, row_group_size=row_group_rows, compression=compression, write_page_checksum=True)


def history_rows(events: Events) -> pa.Table:
    """One row a user by ascending id; lists ordered by (time, item)."""
    events = events.take(np.lexsort((events.item, events.time, events.user)))
    users, counts = np.unique(events.user, return_counts=True)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    lists = {"item": events.item.astype(np.int32), "time": events.time.astype(np.int64), "rating": events.rating.astype(np.int8)}
    columns = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in lists.items()}
    return pa.table({"user": pa.array(users.astype(np.int32)), **columns})


def _drawn(
    draw: np.random.Generator, taste: Ints, num_rows: int, items: tuple[int, int], role: str, num_days: int, by_day: bool
) -> DomainRows:
    first_item, num_items = items
    user = draw.integers(1, len(taste), size=num_rows)
    item = draw.integers(first_item, first_item + num_items, size=num_rows)
    # Whole hours, so that some events share their time. Days begin at midnight (UTC).
    start = START - START % DAY_S if by_day else START
    time = np.sort(start + 3600 * draw.integers(num_days * 24, size=num_rows))
    label = draw.random(num_rows) < np.where(item % NUM_GENRES == taste[user], 0.9, 0.1)
    rating = np.where(label, draw.integers(4, 6, size=num_rows), draw.integers(1, 4, size=num_rows))
    rows = samples(user, item, time, label, int(draw.integers(2**31)))
    if by_day:
        days = time // DAY_S
        tables = {str(np.datetime64(int(day), "D")): rows.filter(pa.array(days == day)) for day in np.unique(days)}
        return DomainRows(tables, Events(user, item, time, rating), role, by_day)
    valid, test = (int(share * num_rows) for share in (0.7, 0.85))
    splits = {"train": rows.slice(0, valid), "valid": rows.slice(valid, test - valid), "test": rows.slice(test)}
    return DomainRows(splits, Events(user, item, time, rating), role)


def _write_domain(root: Path, name: str, rows: DomainRows, layout: Layout) -> Domain:
    splits = {}
    for split, table in rows.splits.items():
        folder = f"samples/{name}/{split}"
        bucket_of_row = table.column("user").to_numpy() % layout.num_buckets
        for bucket in range(layout.num_buckets):
            part = table.filter(pa.array(bucket_of_row == bucket))
            if part.num_rows or layout.empty_buckets:
                write_samples(root / _bucket(folder, bucket), part, layout.row_group_rows, layout.compression)
        times = table.column("time").to_numpy()
        splits[split] = Split(
            path=folder,
            num_rows=table.num_rows,
            num_positives=int((table.column("label").to_numpy() > 0).sum()),
            min_time=int(times.min()) if len(times) else None,
            max_time=int(times.max()) if len(times) else None,
        )
    history = None
    if rows.events is not None:
        history = _write_history(root, f"histories/{name}", rows.events, layout)
    return Domain(role=rows.role, history=history, **{"days" if rows.by_day else "splits": splits})


def _write_history(root: Path, folder: str, events: Events, layout: Layout) -> History:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for bucket in range(layout.num_buckets):
        part = history_rows(events.take(events.user % layout.num_buckets == bucket))
        pq.write_table(part, root / _bucket(folder, bucket), row_group_size=layout.row_group_users, compression=layout.compression)
    users, counts = np.unique(events.user, return_counts=True)
    return History(
        path=folder,
        table="item",
        side=SIDE,
        num_events=len(events),
        num_users=len(users),
        max_events=int(counts.max(initial=0)),
    )


def _bucket(folder: str, bucket: int) -> str:
    return f"{folder}/bucket-{bucket:05d}.parquet"
