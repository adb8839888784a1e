"""A whole synthetic data set: claim the directory, write its files side by side, then the contract."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from raytrain.data.contract import SPLITS, Contract, Domain, Feature, History, SideInformation, Split, Table, save_contract
from raytrain.data.prepare.fingerprint import combined_digest
from raytrain.data.prepare.write import Layout, history_path, sample_path
from raytrain.data.synthetic.files import FileWriter, Written
from raytrain.data.synthetic.spec import SyntheticSpec
from raytrain.errors import DataError
from raytrain.storage import Storage

MIN_BUCKETS = 8
BUCKET_ROWS = 1_000_000
SAY_EVERY_S = 2.0
SIDE = (SideInformation(name="rating", num_values=6), SideInformation(name="age", num_values=32, derived_from="age"))


def generate(
    spec: SyntheticSpec,
    output: str,
    say: Callable[[str], None],
    num_buckets: int | None = None,
    row_group_rows: int = 8192,
    row_group_events: int = 65536,
    num_threads: int | None = None,
) -> Contract:
    """Writes the data set and its contract into ``output``, a new or empty directory on any file system.

    User u is in bucket (u - 1) modulo ``num_buckets``. Rows and bytes depend on the spec and on the layout, not on ``num_threads``.

    Args:
        say: gets a line with the time left every few seconds, and one at the end.
        num_buckets: files of a training split; None takes 8, or more where a file would pass 1,000,000 rows or events.
        num_threads: files written at the same time; None takes the machine's cores.

    Raises:
        DataError: ``output`` holds something, cannot be written, or there are more buckets than users.
    """
    storage, num_buckets = Storage(output), num_buckets or _enough_buckets(spec)
    if num_buckets > spec.users:
        raise DataError(f"Every bucket has to have a user. Received: num_buckets={num_buckets}, {spec.users} users. Lower num_buckets.")
    draft = _contract(spec, num_buckets, [])
    meter = _Meter(say, spec.total_rows + len(spec.domains) * spec.users * spec.events_per_user)
    files = FileWriter(spec, draft, Layout(row_group_rows, row_group_events), storage, meter.add)
    try:
        _claim(storage, draft)
        # Threads are enough: numpy and pyarrow let go of the interpreter while they draw, hash, compress and write.
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
            histories = pool.map(lambda file: files.write_history(*file), files.history_files())
            written = [*pool.map(files.write_samples, files.sample_files()), *histories]
        contract = _contract(spec, num_buckets, written)
        save_contract(contract, storage.uri)
    except OSError as err:
        raise DataError(f"output has to be a directory that can be written. Received: {storage.uri} ({err}). Choose another.") from err
    meter.finish(f"{storage.uri}, {len(written):,} files, content hash {contract.content_hash[:16]}")
    return contract


class _Meter:
    """Says now and then how much is written and how long the rest will take; called by every thread."""

    def __init__(self, say: Callable[[str], None], total: int) -> None:
        self._say = say
        self._total = total
        self._done = 0
        self._started = self._last = time.monotonic()
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._last >= SAY_EVERY_S:
                self._last = now
                left_s = (self._total - self._done) * (now - self._started) / self._done
                self._say(f"[{now - self._started:6.1f} s] {self._line(now)}, left {timedelta(seconds=round(left_s))}")

    def finish(self, what: str) -> None:
        now = time.monotonic()
        self._say(f"[{now - self._started:6.1f} s] {self._line(now)}: {what}")

    def _line(self, now: float) -> str:
        rate = self._done / max(1e-9, now - self._started)
        return f"{self._done:,} of {self._total:,} rows and events, {rate:,.0f} a second"


def _enough_buckets(spec: SyntheticSpec) -> int:
    largest = max(spec.num_rows, spec.num_source_rows, spec.users * spec.events_per_user)
    return min(spec.users, max(MIN_BUCKETS, -(-largest // BUCKET_ROWS)))


def _claim(storage: Storage, draft: Contract) -> None:
    """Makes the directories; raises DataError when there is something already."""
    present = storage.list_entries()
    if present:
        raise DataError(
            f"output has to be a new or empty directory. Received: {storage.uri}, which holds {present[0]}. Choose another or delete it."
        )
    for domain in draft.domains.values():
        for folder in (*(split.path for split in domain.splits.values()), *([domain.history.path] if domain.history else [])):
            storage.filesystem.create_dir(storage.path(folder), recursive=True)


def _contract(spec: SyntheticSpec, num_buckets: int, written: list[Written]) -> Contract:
    """The contract of what was written. The domains' overlap is left out: counting it would hold every id in memory."""
    names = (*spec.id_features, *(["row_id"] if spec.row_ids else []))
    dense = tuple(Feature(name=name, kind="dense") for name in spec.dense_features)
    return Contract(
        dataset=spec.dataset,
        content_hash=combined_digest((file.name, file.digest) for file in written),
        num_buckets=num_buckets,
        tables={name: Table(num_rows=spec.ids_of(name) + 1) for name in names},
        features=(*(Feature(name=name, kind="id", table=name) for name in names), *dense),
        domains={name: _domain(spec, name, [file for file in written if file.domain == name]) for name in spec.domains},
    )


def _domain(spec: SyntheticSpec, name: str, written: list[Written]) -> Domain:
    history = History(
        path=history_path(name),
        table="item",
        side=SIDE,
        num_events=spec.users * spec.events_per_user,
        num_users=spec.users,
        max_events=spec.events_per_user,
    )
    return Domain(
        role="target" if name == "target" else "source",
        splits={split: _split(name, split, [file for file in written if file.split == split]) for split in SPLITS},
        history=history if spec.events_per_user else None,
    )


def _split(domain: str, split: str, written: list[Written]) -> Split:
    return Split(
        path=sample_path(domain, split),
        num_rows=sum(file.num_rows for file in written),
        num_positives=sum(file.num_positives for file in written),
        min_time=min((file.min_time for file in written if file.min_time is not None), default=None),
        max_time=max((file.max_time for file in written if file.max_time is not None), default=None),
    )
