"""The prepare job on Ray: check -> scan -> encode -> write -> as-of columns, where asked for -> contract.

Ray Data reads and maps. Its shuffle and group operators are not used: their order depends on how blocks were scheduled.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from raytrain.data.contract import PROBE, Contract, save_contract
from raytrain.data.prepare.as_of import AsOfOptions, add_as_of, check_as_of
from raytrain.data.prepare.blocks import BlockRef, map_blocks
from raytrain.data.prepare.check import EventFiles, check_events
from raytrain.data.prepare.days import Days
from raytrain.data.prepare.encode import BlockParts, encode_block
from raytrain.data.prepare.events import add_absent
from raytrain.data.prepare.output import SCRATCH, SUMMARY_FILE, claim, clear, delete_directory, keep_apart, make_directory, write_vocabulary
from raytrain.data.prepare.result import EncodedDomain, build_contract, cut_in_words, dropped_rows, rows_in_words, summary
from raytrain.data.prepare.scan import Cut, Scan, scan_block
from raytrain.data.prepare.session import Progress, ray_session
from raytrain.data.prepare.spec import EventSpec
from raytrain.data.prepare.write import Bucket, Layout, history_path, parts_of, sample_path, write_bucket
from raytrain.errors import DataError
from raytrain.storage import Storage


@dataclass(frozen=True)
class PrepareOptions:
    num_buckets: int
    """Parts that users are divided into, one file each. A bucket of a domain has to fit into a task's memory."""
    layout: Layout
    num_cpus: int | None = None
    """Of the Ray started here; null takes the machine's. A Ray that runs already is used as it is."""
    as_of: AsOfOptions | None = None
    """Adds the as-of columns as dense features; null adds none."""
    probe_share: float = 0.0
    """Share of the target's users whose training rows become the split ``probe``; 0 of rows that are kept by day."""


def prepare_events(stage: Callable[[Storage], EventSpec], output: str, options: PrepareOptions, say: Callable[[str], None]) -> Contract:
    """Prepares the events that ``stage`` declares; ``say`` gets one line per finished step.

    ``stage`` may write event files into the scratch directory it is given: it lies below ``output``, where every node
    reaches it, and is gone at the end.

    An earlier prepared data set in ``output`` is replaced once everything has been checked, and not touched before.

    Raises:
        DataError: the output directory holds something else, or the events cannot be used as declared.
        ResourceError: the as-of columns would need more than ``as_of.max_memory_mib``.
    """
    storage = Storage(output)
    scratch = Storage(storage.join(SCRATCH))
    progress = Progress(say)
    claim(storage)
    try:
        make_directory(scratch, "")
        spec = stage(scratch)
        if spec.split.by_day and options.probe_share:
            raise DataError(
                f"A probe split is cut from a training split. Received: probe_share={options.probe_share}, split.by_day=True. Set it to 0."
            )
        progress.done(f"{spec.dataset}: events ready")
        files = check_events(spec)
        keep_apart(storage, _blocks(files))
        sizes = (f"{name} {found.num_rows:,} rows in {found.num_bytes / 2**20:,.0f} MiB" for name, found in files.items())
        progress.done("checked: " + ", ".join(sizes))
        with ray_session(options.num_cpus) as num_cpus:
            progress.done(f"Ray ready with {num_cpus:g} CPUs")
            return _prepare(spec, files, storage, scratch, options, progress)
    finally:
        delete_directory(scratch, "")


def _prepare(
    spec: EventSpec, files: dict[str, EventFiles], storage: Storage, scratch: Storage, options: PrepareOptions, progress: Progress
) -> Contract:
    scan = _scan(spec, files)
    scan.check()
    cut, vocabularies = scan.cut(), scan.vocabularies()
    progress.done(f"scanned: {dropped_rows(scan)}; {cut_in_words(cut, spec)}")

    if options.as_of is not None:
        check_as_of(spec, scan.num_rows.total() - sum(dropped.total() for dropped in scan.dropped.values()), options.as_of)
    table_rows = {table: rows or len(vocabularies[table]) + 1 for table, rows in spec.table_rows().items()}
    clear(storage)
    for table, values in vocabularies.items():
        write_vocabulary(storage, table, values)
    encoded = _encode(spec, files, vocabularies, table_rows, scratch, options.num_buckets)
    progress.done("encoded: tables of " + ", ".join(f"{table} {rows:,}" for table, rows in table_rows.items()) + " rows")

    buckets = _write_domains(spec, cut, encoded, storage, scratch, options)
    contract = build_contract(spec, table_rows, encoded, buckets, options.num_buckets)
    _check_probe(contract, options.probe_share)
    progress.done("wrote: " + ", ".join(f"{name} {rows_in_words(domain)}" for name, domain in contract.domains.items()))
    if options.as_of is not None:
        contract = add_as_of(contract, storage, options.as_of, spec.split.known_until)
        progress.done(f"as-of features: {sum(feature.as_of for feature in contract.features)} columns beside every sample")
    storage.write_text(SUMMARY_FILE, json.dumps(summary(spec, scan, encoded, cut, contract), indent=2) + "\n")
    save_contract(contract, storage.uri)
    progress.finish(f"{storage.uri}, content hash {contract.content_hash[:16]}")
    return contract


def _check_probe(contract: Contract, probe_share: float) -> None:
    """Raises DataError: no training row was left to the probe split, or to training, or none of either is positive."""
    splits = contract.domains[contract.target].splits
    if PROBE in splits and not all(splits[name].num_positives for name in ("train", PROBE)):
        counts = ", ".join(f"{name}={splits[name].num_rows} rows, {splits[name].num_positives} positive" for name in ("train", PROBE))
        raise DataError(f"Training and {PROBE} have to have positive rows. Received: {counts}, by probe_share={probe_share}. Change it.")


def _scan(spec: EventSpec, files: dict[str, EventFiles]) -> Scan:
    columns = {*_key_columns(spec), *(column for columns in spec.vocabularies().values() for column in columns)}
    if spec.label.currency_column is not None:
        columns.add(spec.label.currency_column)
    scan = Scan(spec)
    for domain, block in map_blocks(_blocks(files), columns, lambda domain, block: scan_block(add_absent(block, spec, domain), spec)):
        scan.add(domain, block)
    return scan


def _encode(
    spec: EventSpec,
    files: dict[str, EventFiles],
    vocabularies: dict[str, pa.Array],
    table_rows: dict[str, int],
    scratch: Storage,
    num_buckets: int,
) -> dict[str, EncodedDomain]:
    for domain in files:
        make_directory(scratch, _partials(domain))
    columns = {*_key_columns(spec), *(feature.source_column for feature in spec.encoded_features)}
    columns |= {side.source_column for side in spec.side_columns}
    shared: Any = ray.put(vocabularies)

    def encode(domain: str, block: pa.Table) -> BlockParts:
        return encode_block(add_absent(block, spec, domain), spec, ray.get(shared), num_buckets, scratch, _partials(domain))

    encoded = {domain: EncodedDomain.empty(table_rows) for domain in files}
    for domain, part in map_blocks(_blocks(files), columns, encode):
        encoded[domain].add(part)
    return encoded


def _partials(domain: str) -> str:
    return f"partials/{domain}"


def _key_columns(spec: EventSpec) -> set[str]:
    """What ``clean`` reads."""
    names = [spec.keys.user.column, spec.keys.item.column, spec.keys.time.column, spec.label.column]
    return {*names, *(name for name in (spec.split.column, spec.split.sample, spec.in_history) if name is not None)}


def _blocks(files: dict[str, EventFiles]) -> list[BlockRef]:
    return [block for found in files.values() for block in found.blocks]


def _write_domains(
    spec: EventSpec, cut: Cut | Days | None, encoded: dict[str, EncodedDomain], storage: Storage, scratch: Storage, options: PrepareOptions
) -> dict[str, list[Bucket]]:
    # Ray's own types stop at ten arguments.
    write: Any = ray.remote(num_cpus=1)(write_bucket)
    shared_spec = ray.put(spec)
    running = {}
    for domain, parts in encoded.items():
        for folder in (history_path(domain), *(sample_path(domain, part) for part in parts_of(domain, spec, cut, options.probe_share))):
            make_directory(storage, folder)
        partial_files = ray.put(sorted(parts.files))
        running[domain] = [
            write.remote(domain, bucket, partial_files, shared_spec, cut, options.layout, scratch, storage, options.probe_share)
            for bucket in range(options.num_buckets)
        ]
    return {domain: ray.get(tasks) for domain, tasks in running.items()}
