"""Which items of two domains belong together, by what users did that training never saw.

An event is held out when its user has no training row of the target at or after it: no candidate and no history of training
held it. Partners are items liked by the same user in both domains, both events held out. Popular items share users whatever they
are; partners *beyond chance* are those that share more of them than their popularity explains.

Shapes: S items of a source, T of the target, both by rising id; W users with held-out events in both domains.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.lcn_run import LcnRun
from raytrain.data.vocabulary import vocabulary_file
from raytrain.storage import Storage

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
MIN_SHARED_USERS = 3
MIN_DEVIATIONS = 3.0
"""Standard deviations of a Poisson count that shared users have to lie above what popularity explains."""
_CHUNK_USERS = 2048


@dataclass(frozen=True)
class Likes:
    """One domain's history events that training counts as liked (``contrast.pair_side``; all, where that is empty), and its items."""

    items: Ints
    """Those with an event, liked or not, that training saw; int64, ascending"""
    num_trained: Ints
    """Likes of each that training saw"""
    user: Ints
    """Of the held-out likes of these items"""
    item: Ints
    """int64, index into ``items``"""


@dataclass(frozen=True)
class Partners:
    """Items of a source and of the target, and how they are liked together by users after training."""

    source: Likes
    target: Likes
    shared_users: Floats
    """[S, T]: held-out users who like both; 0 for an item and itself, where domains share items"""
    is_beyond_chance: npt.NDArray[np.bool_]
    """[S, T]"""
    is_same_item: npt.NDArray[np.bool_]
    """[S, T]"""
    num_users: int
    """W"""


def partners_of_run(run: LcnRun, source: str, max_items: int) -> Partners:
    """Read from the data set's training rows and histories; of each domain the ``max_items`` with most likes in training."""
    trained_until = last_training_time(run)
    return partners(*(popular(read_likes(run, domain, trained_until), max_items) for domain in (source, run.contract.target)))


def last_training_time(run: LcnRun) -> Ints:
    """int64 [rows of the user table]: the time of each user's last training row of the target, the smallest int64 without one."""
    contract = run.contract
    user = next(feature for feature in contract.features if feature.name == contract.user)
    latest = np.full(contract.table_of(user).num_rows, np.iinfo(np.int64).min)
    for rows in _tables(run, contract.domains[contract.target].splits["train"].path, [contract.user, contract.time]):
        np.maximum.at(latest, _column(rows, contract.user), _column(rows, contract.time))
    return latest


def read_likes(run: LcnRun, domain: str, trained_until: Ints) -> Likes:
    """One domain's; ``trained_until`` as ``last_training_time`` returns it."""
    history = run.contract.domains[domain].history
    assert history is not None, domain
    stored = {side.name for side in history.side if side.derived_from == "column"}
    liked_side = {name: codes for name, codes in run.model.contrast.pair_side.items() if name in stored}
    parts: list[tuple[Ints, Ints, Ints, npt.NDArray[np.bool_]]] = []
    for rows in _tables(run, history.path, ["user", "item", "time", *liked_side]):
        lists = {name: rows.column(name).combine_chunks() for name in rows.column_names[1:]}
        lengths = lists["item"].value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        liked = np.ones(int(lengths.sum()), dtype=bool)
        for name, codes in liked_side.items():
            liked &= np.isin(lists[name].flatten().to_numpy(zero_copy_only=False), codes)
        parts.append((np.repeat(_column(rows, "user"), lengths), _ints(lists["item"]), _ints(lists["time"]), liked))
    user, item, time = (np.concatenate([part[index] for part in parts]) for index in range(3))
    liked = np.concatenate([part[3] for part in parts])
    return likes(user, item, time > trained_until[user], liked)


def likes(user: Ints, item: Ints, is_held_out: npt.NDArray[np.bool_], is_liked: npt.NDArray[np.bool_]) -> Likes:
    """From events, one of each array's entries an event."""
    items = np.unique(item[~is_held_out])
    trained = item[~is_held_out & is_liked]
    chosen = is_held_out & is_liked & np.isin(item, items)
    num_trained = np.bincount(np.searchsorted(items, trained), minlength=len(items)).astype(np.int64)
    return Likes(items, num_trained, user[chosen], np.searchsorted(items, item[chosen]).astype(np.int64))


def popular(found: Likes, max_items: int) -> Likes:
    """The ``max_items`` items with most likes in training, the smaller id of equals."""
    kept = np.sort(np.argsort(-found.num_trained, kind="stable")[:max_items])
    place = np.full(len(found.items), -1, np.int64)
    place[kept] = np.arange(len(kept))
    of_kept = place[found.item] >= 0
    return Likes(found.items[kept], found.num_trained[kept], found.user[of_kept], place[found.item[of_kept]])


def partners(source: Likes, target: Likes) -> Partners:
    """Counts shared users, and those that popularity explains.

    With c(i, j) the users who like i and j, an item i's users like j as often as all pairs do, c(i, .) c(., j) / c(., .), if
    nothing but popularity and how much each user likes decides; the log of c over this is what InfoNCE with logQ correction
    estimates (van den Oord et al., arXiv 1807.03748).
    """
    users = np.intersect1d(source.user, target.user)
    shared = _shared_users(source, target, users)
    is_same = source.items[:, None] == target.items
    shared[is_same] = 0.0
    expected = shared.sum(1, keepdims=True) * shared.sum(0, keepdims=True) / max(shared.sum(), 1.0)
    beyond = (shared >= MIN_SHARED_USERS) & (shared >= expected + MIN_DEVIATIONS * np.sqrt(expected))
    return Partners(source, target, shared, beyond, is_same, len(users))


@dataclass(frozen=True)
class ItemCategory:
    """A value that every item has one of."""

    of_item: Ints
    """int64 [rows of the item table], 0 for an item without samples"""
    names: dict[int, str]
    title: str


def item_slice(run: LcnRun, num_rows: int) -> ItemCategory | None:
    """The contract's slice column where it is an id of the items (an hour or a country is of the row); else None."""
    contract = run.contract
    feature = next((one for one in contract.features if one.name == contract.slice and one.kind == "id"), None)
    if feature is None or feature.table is None:
        return None
    highest, lowest = np.zeros(num_rows, np.int64), np.full(num_rows, np.iinfo(np.int64).max)
    for domain in contract.domains.values():
        if "train" not in domain.splits:
            continue
        for rows in _tables(run, domain.splits["train"].path, [contract.item, feature.name]):
            item, value = _column(rows, contract.item), _column(rows, feature.name)
            np.maximum.at(highest, item, value)
            np.minimum.at(lowest, item, value)
    if (lowest[highest > 0] != highest[highest > 0]).any():
        return None
    return ItemCategory(highest, _names(run, feature.table), feature.name)


def _names(run: LcnRun, table: str) -> dict[int, str]:
    """What the ids stand for; empty without a vocabulary."""
    storage, file = Storage(run.job.data.path), vocabulary_file(table)
    if not storage.exists(file):
        return {}
    vocabulary = pq.read_table(storage.path(file), filesystem=storage.filesystem).to_pydict()
    return {int(code): str(value) for code, value in zip(vocabulary["id"], vocabulary["value"], strict=True)}


def _shared_users(source: Likes, target: Likes, users: Ints) -> Floats:
    """[S, T]: how many of ``users`` like both; a user counts once, however often it likes an item."""
    shared = np.zeros((len(source.items), len(target.items)))
    for first in range(0, len(users), _CHUNK_USERS):
        part = users[first : first + _CHUNK_USERS]
        shared += _matrix(source, part).T @ _matrix(target, part)
    return shared


def _matrix(found: Likes, users: Ints) -> npt.NDArray[np.float32]:
    """[users, items], 1 where a user likes an item."""
    of_users = np.isin(found.user, users)
    matrix = np.zeros((len(users), len(found.items)), np.float32)
    matrix[np.searchsorted(users, found.user[of_users]), found.item[of_users]] = 1.0
    return matrix


def _tables(run: LcnRun, folder: str, columns: list[str]) -> list[pa.Table]:
    storage = Storage(run.job.data.path)
    files = [name for name in storage.list_files(folder, ".parquet") if "bucket-" in name]
    return [pq.read_table(storage.path(name), filesystem=storage.filesystem, columns=columns) for name in files]


def _column(rows: pa.Table, name: str) -> Ints:
    return np.asarray(rows.column(name).to_numpy(), dtype=np.int64)


def _ints(lists: pa.ListArray) -> Ints:
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), dtype=np.int64)
