"""A whole planted data set: claim the directory, draw and write its buckets side by side, then the truth and the contract."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import SPLITS, Contract, Domain, Feature, History, Overlap, SideInformation, Table, save_contract
from raytrain.data.manifest import history_schema, sample_schema
from raytrain.data.planted.rows import DOMAINS, FEEDBACK_VALUES, Bucket, Truth, draw_bucket
from raytrain.data.planted.spec import PlantedSpec
from raytrain.data.prepare.fingerprint import combined_digest, table_digest
from raytrain.data.prepare.write import Layout, bucket_file, history_path, sample_path
from raytrain.data.synthetic.job import BUCKET_ROWS, MIN_BUCKETS
from raytrain.data.synthetic.writing import Meter, Written, claim, open_writer, splits_of, strict_schema
from raytrain.errors import DataError
from raytrain.storage import Storage

TRUTH_FILE = "truth.parquet"
"""table (string), id (int32), topic (int32, 0..num_topics-1), target and source (bool: occurs in that domain); one row an item."""

SIDE = (
    SideInformation(name="feedback", num_values=FEEDBACK_VALUES),
    SideInformation(name="age", num_values=32, derived_from="age"),
)


def generate_planted(
    spec: PlantedSpec,
    output: str,
    say: Callable[[str], None],
    num_buckets: int | None = None,
    row_group_rows: int = 8192,
    row_group_events: int = 65536,
    num_threads: int | None = None,
) -> Contract:
    """Writes the data set, its contract and ``truth.parquet`` into ``output``, a new or empty directory on any file system.

    User u is in bucket (u - 1) modulo ``num_buckets``. Rows and bytes depend on the spec and on the layout, not on ``num_threads``.

    Args:
        say: gets a line with the time left every few seconds, and one at the end.
        num_buckets: files of each split and history; None takes 8, or more where one would pass 1,000,000 events. A thread holds one
            bucket of both domains.
        num_threads: buckets drawn at the same time; None takes the machine's cores.

    Raises:
        DataError: ``output`` holds something, cannot be written, or there are more buckets than users.
    """
    storage, num_buckets = Storage(output), num_buckets or _enough_buckets(spec)
    if num_buckets > spec.num_users:
        raise DataError(f"Every bucket has to have a user. Received: num_buckets={num_buckets}, {spec.num_users} users. Lower num_buckets.")
    draft, truth = _contract(spec, num_buckets, []), Truth.of(spec)
    meter = Meter(say, spec.total_rows + len(DOMAINS) * spec.num_users * spec.events_per_user)
    writer = _Writer(spec, draft, Layout(row_group_rows, row_group_events), storage)

    def write(number: int) -> list[Written]:
        bucket = draw_bucket(spec, truth, num_buckets, number)
        written = writer.write(bucket, number)
        meter.add(sum(file.num_rows for file in written if file.split) + len(DOMAINS) * len(bucket.users) * spec.events_per_user)
        return written

    try:
        claim(storage, draft)
        _write_truth(storage, truth)
        # Threads are enough: numpy and pyarrow let go of the interpreter while they draw, sort, hash, compress and write.
        with ThreadPoolExecutor(num_threads or os.cpu_count()) as pool:
            written = [file for files in pool.map(write, range(num_buckets)) for file in files]
        contract = _contract(spec, num_buckets, written)
        save_contract(contract, storage.uri)
    except OSError as err:
        raise DataError(f"output has to be a directory that can be written. Received: {storage.uri} ({err}). Choose another.") from err
    meter.finish(f"{storage.uri}, {len(written):,} files, content hash {contract.content_hash[:16]}")
    return contract


@dataclass(frozen=True)
class _Writer:
    spec: PlantedSpec
    contract: Contract
    """Its row counts are not looked at."""
    layout: Layout
    storage: Storage

    def write(self, bucket: Bucket, number: int) -> list[Written]:
        histories = [self._history(bucket, number, domain) for domain in DOMAINS]
        # A bucket without rows of a split has no file of it.
        samples = [self._samples(bucket, number, split) for split in SPLITS if len(bucket.samples[split]["time"])]
        return [*samples, *histories]

    def _samples(self, bucket: Bucket, number: int, split: str) -> Written:
        table = pa.table(bucket.samples[split], strict_schema(sample_schema(self.contract)))
        name = bucket_file(sample_path("target", split), number)
        with open_writer(self.storage, name, table.schema) as writer:
            writer.write_table(table, row_group_size=self.layout.row_group_rows)
        times = bucket.samples[split]["time"]
        num_positives = int(bucket.samples[split]["label"].sum())
        return Written("target", split, name, table_digest(table), table.num_rows, num_positives, int(times[0]), int(times[-1]))

    def _history(self, bucket: Bucket, number: int, domain: str) -> Written:
        history, num_events = self.contract.domains[domain].history, self.spec.events_per_user
        assert history is not None, domain
        offsets = pa.array(np.arange(len(bucket.users) + 1, dtype=np.int32) * num_events)
        lists = {name: pa.ListArray.from_arrays(offsets, pa.array(values)) for name, values in bucket.events[domain].items()}
        table = pa.table({"user": pa.array(bucket.users), **lists}, strict_schema(history_schema(history)))
        name = bucket_file(history_path(domain), number)
        with open_writer(self.storage, name, table.schema) as writer:
            writer.write_table(table, row_group_size=max(1, self.layout.row_group_events // num_events))
        return Written(domain, None, name, table_digest(table), table.num_rows)


def _enough_buckets(spec: PlantedSpec) -> int:
    largest = max(spec.num_rows, spec.num_users * spec.events_per_user)
    return min(spec.num_users, max(MIN_BUCKETS, -(-largest // BUCKET_ROWS)))


def _write_truth(storage: Storage, truth: Truth) -> None:
    columns = truth.columns()
    table = pa.table({"table": pa.array(["item"] * len(columns["id"])), **columns})
    with storage.filesystem.open_output_stream(storage.path(TRUTH_FILE)) as sink:
        pq.write_table(table, sink)


def _contract(spec: PlantedSpec, num_buckets: int, written: list[Written]) -> Contract:
    return Contract(
        dataset=spec.dataset,
        content_hash=combined_digest((file.name, file.digest) for file in written),
        num_buckets=num_buckets,
        tables={"user": Table(num_rows=max(2, spec.num_users + 1)), "item": Table(num_rows=spec.num_items + 1)},
        features=tuple(Feature(name=name, kind="id", table=name) for name in ("user", "item")),
        domains={
            name: Domain(
                role="target" if name == "target" else "source",
                splits=splits_of(name, written) if name == "target" else {},
                history=History(
                    path=history_path(name),
                    table="item",
                    side=SIDE,
                    num_events=spec.num_users * spec.events_per_user,
                    num_users=spec.num_users,
                    max_events=spec.events_per_user,
                ),
            )
            for name in DOMAINS
        },
        overlap=(Overlap(domains=DOMAINS, num_shared_users=spec.num_users, num_shared_items=spec.num_shared_items),),
    )
