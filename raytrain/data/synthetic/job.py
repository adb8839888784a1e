"""A whole synthetic data set: claim the directory, write its files side by side, then the contract."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from raytrain.data.contract import SPLITS, Contract, Domain, Feature, History, SideInformation, Table, save_contract
from raytrain.data.prepare.fingerprint import combined_digest
from raytrain.data.prepare.write import Layout, history_path
from raytrain.data.synthetic.files import FileWriter
from raytrain.data.synthetic.spec import SyntheticSpec
from raytrain.data.synthetic.writing import Meter, Written, claim, splits_of
from raytrain.errors import DataError
from raytrain.storage import Storage

MIN_BUCKETS = 8
BUCKET_ROWS = 1_000_000
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
    meter = Meter(say, spec.total_rows + len(spec.domains) * spec.users * spec.events_per_user)
    files = FileWriter(spec, draft, Layout(row_group_rows, row_group_events), storage, meter.add)
    try:
        claim(storage, draft)
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


def drafted(spec: SyntheticSpec) -> Contract:
    """The contract that ``generate`` would write, before a row is drawn: its rows are counted, its hashes, positives and times unknown."""
    written = [Written(domain, split, "", "", spec.rows_of(domain, split)) for domain in spec.domains for split in SPLITS]
    return _contract(spec, _enough_buckets(spec), written)


def _enough_buckets(spec: SyntheticSpec) -> int:
    largest = max(spec.num_rows, spec.num_source_rows, spec.users * spec.events_per_user)
    return min(spec.users, max(MIN_BUCKETS, -(-largest // BUCKET_ROWS)))


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
        domains={name: _domain(spec, name, written) for name in spec.domains},
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
        splits=splits_of(name, written),
        history=history if spec.events_per_user else None,
    )
