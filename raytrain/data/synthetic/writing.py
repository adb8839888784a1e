"""What generators of planted data share: a claimed directory, Parquet writers, and lines about how long it takes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import SPLITS, Contract, Split
from raytrain.data.prepare.write import sample_path
from raytrain.errors import DataError
from raytrain.storage import Storage

SAY_EVERY_S = 2.0


@dataclass(frozen=True)
class Written:
    """What a file holds; a history file has neither positives nor a time range."""

    domain: str
    split: str | None
    """None for a history file."""
    name: str
    digest: str
    num_rows: int
    num_positives: int = 0
    min_time: int | None = None
    max_time: int | None = None


def splits_of(domain: str, written: list[Written], splits: tuple[str, ...] = SPLITS) -> dict[str, Split]:
    """The contract's entry for each split of ``domain``, of whose files ``written`` tells."""
    files = {split: [file for file in written if file.domain == domain and file.split == split] for split in splits}
    return {
        split: Split(
            path=sample_path(domain, split),
            num_rows=sum(file.num_rows for file in found),
            num_positives=sum(file.num_positives for file in found),
            min_time=min((file.min_time for file in found if file.min_time is not None), default=None),
            max_time=max((file.max_time for file in found if file.max_time is not None), default=None),
        )
        for split, found in files.items()
    }


def strict_schema(types: dict[str, pa.DataType]) -> pa.Schema:
    """Without nulls."""
    return pa.schema([pa.field(name, column_type, nullable=False) for name, column_type in types.items()])


@contextmanager
def open_writer(storage: Storage, name: str, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    # Ids seldom repeat inside a row group: with dictionaries a file is larger, and takes three times as long to write and read.
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": True, "write_page_checksum": True}
    with (
        storage.filesystem.open_output_stream(storage.path(name)) as sink,
        pq.ParquetWriter(sink, schema, **options) as writer,
    ):
        yield writer


def claim(storage: Storage, draft: Contract) -> None:
    """Makes the directories of what ``draft`` promises; raises DataError when there is something already."""
    present = storage.list_entries()
    if present:
        raise DataError(
            f"output has to be a new or empty directory. Received: {storage.uri}, which holds {present[0]}. Choose another or delete it."
        )
    for domain in draft.domains.values():
        for folder in (*(split.path for split in domain.splits.values()), *([domain.history.path] if domain.history else [])):
            storage.filesystem.create_dir(storage.path(folder), recursive=True)


class Meter:
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
