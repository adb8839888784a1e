"""A whole planted lifetime-value data set: claim the directory, draw and write each split, then the truth and the contract."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from raytrain.data.contract import Amount, Contract, Domain, Feature, Overlap, Table, save_contract
from raytrain.data.manifest import sample_schema
from raytrain.data.planted_ltv.rows import DOMAINS, HORIZON_DAYS, Rows, draw_split, num_users, table_rows
from raytrain.data.planted_ltv.rule import Rule
from raytrain.data.planted_ltv.spec import PlantedLtvSpec
from raytrain.data.prepare.fingerprint import combined_digest, table_digest
from raytrain.data.prepare.write import bucket_file, sample_path
from raytrain.data.synthetic.job import BUCKET_ROWS, MIN_BUCKETS
from raytrain.data.synthetic.writing import Meter, Written, claim, open_writer, splits_of, strict_schema
from raytrain.errors import DataError
from raytrain.storage import Storage

TRUTH_FILE = "truth.parquet"
"""One row a sample: where it stands, its place in its bucket's file being ``row``, and the columns of ``Rows.truth``."""
TRUTH_SCHEMA = strict_schema(
    {
        "domain": pa.string(),
        "split": pa.string(),
        "bucket": pa.int32(),
        "row": pa.int32(),
        "slice": pa.int32(),
        "slice_role": pa.string(),
        "role": pa.string(),
        "pay": pa.float32(),
        "expected": pa.float32(),
    }
)


def generate_planted_ltv(
    spec: PlantedLtvSpec,
    output: str,
    say: Callable[[str], None],
    num_buckets: int | None = None,
    row_group_rows: int = 8192,
) -> Contract:
    """Writes the data set, its contract and ``truth.parquet`` into ``output``, a new or empty directory on any file system.

    User u is in bucket (u - 1) modulo ``num_buckets``. Which rows there are depends on the spec alone.

    Args:
        say: gets a line with the time left every few seconds, and one at the end.
        num_buckets: files of each split; None takes 8, or more where one would pass 1,000,000 rows.

    Raises:
        DataError: ``output`` holds something, or cannot be written.
    """
    storage, rule = Storage(output), Rule.of(spec)
    sizes = {(domain, split): count for domain in DOMAINS for split, count in spec.splits_of(domain).items()}
    num_buckets = num_buckets or max(MIN_BUCKETS, -(-max(sizes.values()) // BUCKET_ROWS))
    draft, meter = _contract(spec, num_buckets, []), Meter(say, sum(sizes.values()))
    written: list[Written] = []
    try:
        claim(storage, draft)
        with open_writer(storage, TRUTH_FILE, TRUTH_SCHEMA) as truth:
            for domain, split in sizes:
                rows = draw_split(spec, rule, domain, split, num_buckets)
                written += _write_split(storage, draft, domain, split, rows, row_group_rows)
                truth.write_table(_truth(domain, split, rows))
                meter.add(len(rows.bucket))
        contract = _contract(spec, num_buckets, written)
        save_contract(contract, storage.uri)
    except OSError as err:
        raise DataError(f"output has to be a directory that can be written. Received: {storage.uri} ({err}). Choose another.") from err
    meter.finish(f"{storage.uri}, {len(written):,} files, content hash {contract.content_hash[:16]}")
    return contract


def _write_split(storage: Storage, contract: Contract, domain: str, split: str, rows: Rows, row_group_rows: int) -> list[Written]:
    """A file a bucket; one without rows of the split has none."""
    schema, written = strict_schema(sample_schema(contract)), []
    for bucket in np.unique(rows.bucket).tolist():
        own = rows.bucket == bucket
        columns = {name: values[own] for name, values in rows.samples.items()}
        table = pa.table({name: columns[name] for name in schema.names}, schema)
        name = bucket_file(sample_path(domain, split), bucket)
        with open_writer(storage, name, schema) as writer:
            writer.write_table(table, row_group_size=row_group_rows)
        num_positives, times = int(np.count_nonzero(columns["label"])), columns["time"]
        written.append(Written(domain, split, name, table_digest(table), table.num_rows, num_positives, int(times[0]), int(times[-1])))
    return written


def _truth(domain: str, split: str, rows: Rows) -> pa.Table:
    first = np.searchsorted(rows.bucket, rows.bucket)
    place = (np.arange(len(first)) - first).astype(np.int32)
    names = {name: pa.repeat(pa.scalar(value), len(first)) for name, value in (("domain", domain), ("split", split))}
    return pa.table({**names, "bucket": rows.bucket, "row": place, **rows.truth}, TRUTH_SCHEMA)


def _contract(spec: PlantedLtvSpec, num_buckets: int, written: list[Written]) -> Contract:
    tables = {"user": num_users(spec) + 1, "slice": spec.num_slices + 1} | table_rows(spec)
    ids = tuple(Feature(name=name, kind="id", table=name) for name in spec.id_sizes)
    return Contract(
        dataset=spec.dataset,
        content_hash=combined_digest((file.name, file.digest) for file in written),
        num_buckets=num_buckets,
        amount=Amount(currency="XTS", horizon_days=HORIZON_DAYS),
        slice="slice",
        tables={name: Table(num_rows=num_rows) for name, num_rows in tables.items()},
        features=(*ids, *(Feature(name=name, kind="dense") for name in spec.dense_features)),
        domains={
            domain: Domain(
                role="target" if domain == DOMAINS[0] else "source",
                splits=splits_of(domain, written, tuple(spec.splits_of(domain))),
            )
            for domain in DOMAINS
        },
        overlap=(Overlap(domains=DOMAINS, num_shared_users=0, num_shared_items=spec.num_items),),
    )
