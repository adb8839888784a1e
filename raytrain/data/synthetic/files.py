"""One synthetic file, a run of rows at a time: memory does not follow the number of rows.

A file is a pure function of the spec, the layout, its domain, split and bucket, so it does not matter who writes it or when.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raytrain.data.contract import SPLITS, Contract
from raytrain.data.manifest import history_schema, sample_schema
from raytrain.data.prepare.fingerprint import combined_digest, table_digest
from raytrain.data.prepare.write import Layout, bucket_file, history_path, sample_path
from raytrain.data.synthetic.rows import SampleFile, draw_events, draw_samples, users_in
from raytrain.data.synthetic.spec import SyntheticSpec
from raytrain.data.synthetic.writing import Written, open_writer, strict_schema
from raytrain.storage import Storage

RUN_ROWS = 1 << 17
"""Rows or events drawn at a time, rounded to whole row groups."""


@dataclass(frozen=True)
class FileWriter:
    """Everything that writing a file needs besides which file; shared by threads."""

    spec: SyntheticSpec
    contract: Contract
    """Its row counts are not looked at."""
    layout: Layout
    storage: Storage
    count: Callable[[int], None]
    """Called with the rows or events of each run that was written."""

    def sample_files(self) -> Iterator[SampleFile]:
        """Every file of every split. A split fills as many buckets as give each a row group, from the first on."""
        first_row_id = 1
        for domain in self.spec.domains:
            for split in SPLITS:
                num_rows = self.spec.rows_of(domain, split)
                num_files = min(self.contract.num_buckets, -(-num_rows // self.layout.row_group_rows))
                for bucket in range(num_files):
                    count = num_rows * (bucket + 1) // num_files - num_rows * bucket // num_files
                    yield SampleFile(domain, split, bucket, count, first_row_id)
                    first_row_id += count

    def history_files(self) -> Iterator[tuple[str, int]]:
        """(domain, bucket) of every history file."""
        for domain in self.spec.domains if self.spec.events_per_user else ():
            for bucket in range(self.contract.num_buckets):
                yield domain, bucket

    def write_samples(self, file: SampleFile) -> Written:
        schema, group_rows = strict_schema(sample_schema(self.contract)), self.layout.row_group_rows
        step = max(1, RUN_ROWS // group_rows) * group_rows
        name = bucket_file(sample_path(file.domain, file.split), file.bucket)
        digests, num_positives, times = [], 0, []
        with open_writer(self.storage, name, schema) as writer:
            for first in range(0, file.num_rows, step):
                columns = draw_samples(self.spec, self.contract.num_buckets, file, first, min(first + step, file.num_rows))
                table = pa.table(columns, schema)
                writer.write_table(table, row_group_size=group_rows)
                digests.append((str(first), table_digest(table)))
                num_positives += int(columns["label"].sum())
                times += [int(columns["time"][0]), int(columns["time"][-1])]
                self.count(table.num_rows)
        return Written(file.domain, file.split, name, combined_digest(digests), file.num_rows, num_positives, times[0], times[-1])

    def write_history(self, domain: str, bucket: int) -> Written:
        history, num_events = self.contract.domains[domain].history, self.spec.events_per_user
        assert history is not None, domain
        schema = strict_schema(history_schema(history))
        group_users = max(1, self.layout.row_group_events // num_events)
        step = max(1, RUN_ROWS // (group_users * num_events)) * group_users
        num_users = users_in(self.spec, bucket, self.contract.num_buckets)
        name, digests = bucket_file(history_path(domain), bucket), []
        with open_writer(self.storage, name, schema) as writer:
            for first in range(0, num_users, step):
                stop = min(first + step, num_users)
                users, events = draw_events(self.spec, self.contract.num_buckets, domain, bucket, first, stop)
                offsets = pa.array(np.arange(len(users) + 1, dtype=np.int32) * num_events)
                lists = {column: pa.ListArray.from_arrays(offsets, pa.array(values)) for column, values in events.items()}
                table = pa.table({"user": pa.array(users), **lists}, schema)
                writer.write_table(table, row_group_size=group_users)
                digests.append((str(first), table_digest(table)))
                self.count(len(users) * num_events)
        return Written(domain, None, name, combined_digest(digests), num_users)
