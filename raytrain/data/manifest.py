"""The manifest of a split: its Parquet files and their row groups, read from the footers and checked on the driver."""

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import Contract, History
from raytrain.data.manifest_cache import Counts, DataFile, list_data_files, load_counts, save_counts
from raytrain.errors import ContractError
from raytrain.settings import nearest
from raytrain.storage import Storage

NUM_FOOTER_THREADS = 16
NUM_LISTING_THREADS = 8
"""Of directories; each reads its footers with threads of its own."""


@dataclass(frozen=True)
class Manifest:
    """Every row group of a split, in the order of file name and row group."""

    files: tuple[str, ...]
    """Names relative to the data set."""
    file_index: npt.NDArray[np.int32]
    """[number of fragments], into ``files``"""
    row_group: npt.NDArray[np.int32]
    num_rows: npt.NDArray[np.int64]

    @classmethod
    def of(cls, files: Sequence[str], counts: Sequence[Counts]) -> Self:
        """From the row counts of each file's row groups; those without rows are left out. 16 bytes a row group."""
        lengths = np.array([len(rows) for rows in counts], np.int32)
        num_rows = np.concatenate(counts)
        file_index = np.repeat(np.arange(len(files), dtype=np.int32), lengths)
        row_group = np.arange(len(num_rows), dtype=np.int32)
        row_group -= np.repeat(np.cumsum(lengths, dtype=np.int32) - lengths, lengths)
        full = num_rows > 0
        if not full.all():
            file_index, row_group, num_rows = file_index[full], row_group[full], num_rows[full]
        return cls(tuple(files), file_index, row_group, num_rows)

    def fingerprint(self) -> str:
        """Changes whenever a file or a row count does."""
        digest = hashlib.sha256("\n".join(self.files).encode())
        for array in (self.file_index, self.row_group, self.num_rows):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def sample_schema(contract: Contract) -> dict[str, pa.DataType]:
    """Column name -> Arrow type of the sample files; a feature may repeat a key column."""
    schema: dict[str, pa.DataType] = {
        contract.user: pa.int32(),
        contract.item: pa.int32(),
        contract.time: pa.int64(),
        contract.label: pa.float32(),
    }
    types = {"id": pa.int32(), "multi": pa.list_(pa.int32()), "dense": pa.float32()}
    schema |= {feature.name: types[feature.kind] for feature in contract.features}
    if contract.group not in schema:
        schema[contract.group] = pa.int32()
    if contract.slice and contract.slice not in schema:
        schema[contract.slice] = pa.int32()
    return schema


def read_manifest(contract: Contract, data_path: str, domain: str, split: str) -> Manifest:
    """Reads the footers of a split's files in parallel and holds their schema against the contract.

    Footers that were read before and whose files have not changed are taken from ``_manifest.parquet`` beside them. Row groups
    without rows are left out. Our choice: one thread pool on the driver; a footer is one small ranged read.

    Raises:
        ContractError: no such split, no file, no row, more or fewer rows than the contract says, an unreadable footer, a
            missing column, or a wrong type.
    """
    if domain not in contract.domains:
        raise ContractError(f"A domain has to be one of the data set's. Received: {domain}. {nearest(domain, contract.domains)}")
    if not contract.domains[domain].splits:
        raise ContractError(f"A domain has to have samples. Received: {domain}, which has a history alone. Set data.source_batch_size=0.")
    if split not in contract.domains[domain].splits:
        raise ContractError(
            f"A split of domain {domain} has to be one of the data set's. Received: {split}. "
            f"{nearest(split, contract.domains[domain].splits)}"
        )
    storage = Storage(data_path)
    declared = contract.domains[domain].splits[split]
    schema = sample_schema(contract)
    with ThreadPoolExecutor(NUM_LISTING_THREADS) as pool:
        found = list(pool.map(lambda folder: _read_directory(storage, folder, schema), declared.directories))
    manifest = Manifest.of([file.name for files, _ in found for file in files], [rows for _, counts in found for rows in counts])
    num_found = int(manifest.num_rows.sum())
    if num_found == 0:
        raise ContractError(
            f"{storage.join(declared.path)} has to hold rows. Received: {sum(len(files) for files, _ in found)} files, 0 rows. "
            "Check the split quantiles."
        )
    if num_found != declared.num_rows:
        raise ContractError(
            f"{storage.join(declared.path)} has to hold the {declared.num_rows} rows of the contract. "
            f"Received: {num_found} rows in {sum(len(files) for files, _ in found)} files. "
            "Restore the missing files or prepare the data set again."
        )
    return manifest


def _read_directory(storage: Storage, path: str, expected: Mapping[str, pa.DataType]) -> tuple[list[DataFile], list[Counts]]:
    """The files of one directory and the row counts of their row groups."""
    files = _list_files(storage, path)
    if not files:
        raise ContractError(f"{storage.join(path)} has to hold Parquet files. Received: none. Prepare the data set again.")
    return files, _read_footers(storage, path, files, files, expected)


def check_history_files(contract: Contract, data_path: str, histories: tuple[str, ...], manifest: Manifest) -> None:
    """Reads the footers of every history file that the samples of ``manifest`` will open.

    Raises:
        ContractError: a file is missing or unreadable, lacks a column, or has one of a wrong type.
    """
    storage = Storage(data_path)
    buckets = sorted({manifest.files[index].rpartition("/")[2] for index in np.unique(manifest.file_index)})
    for name in histories:
        history = contract.domains[name].history
        assert history is not None, name
        listed = _list_files(storage, history.path)
        known = {file.name: file for file in listed}
        # A file that is missing is opened all the same: the error says what opening it says.
        files = [known.get(name, DataFile(name, None, None)) for name in (f"{history.path}/{bucket}" for bucket in buckets)]
        _read_footers(storage, history.path, files, listed, history_schema(history))


def history_schema(history: History) -> dict[str, pa.DataType]:
    """Column name -> Arrow type of the history files."""
    schema: dict[str, pa.DataType] = {"user": pa.int32(), "item": pa.list_(pa.int32()), "time": pa.list_(pa.int64())}
    return schema | {side.name: pa.list_(pa.int8()) for side in history.side if side.derived_from == "column"}


def check_labels(contract: Contract, data_path: str, domain: str, split: str) -> None:
    """A split that is scored needs both classes, one of amounts a positive; the count in the contract decides.

    Raises:
        ContractError: the split has no positive, or no negative where labels are clicks.
    """
    declared = contract.domains[domain].splits[split]
    if declared.num_positives in ((0, declared.num_rows) if contract.amount is None else (0,)):
        kind = "positive" if declared.num_positives == 0 else "negative"
        raise ContractError(
            f"Split {split} of domain {domain} has to hold positives and negatives. Received: {declared.num_rows} rows in "
            f"{data_path}, no {kind}. Widen the split or check the label rule."
        )


def _list_files(storage: Storage, path: str) -> list[DataFile]:
    try:
        return list_data_files(storage, path)
    except OSError as err:
        raise ContractError(f"{storage.join(path)} has to be a directory. Received: {err}. Prepare the data set again.") from None


def _read_footers(
    storage: Storage, path: str, files: list[DataFile], listed: list[DataFile], expected: Mapping[str, pa.DataType]
) -> list[Counts]:
    """Row counts of every row group, an array for each of ``files``; what is cached of ``listed``, all files of ``path``, is kept."""
    cached = load_counts(storage, path, expected)
    missing = [file for file in files if file not in cached]
    with ThreadPoolExecutor(NUM_FOOTER_THREADS) as pool:
        found = dict(zip(missing, pool.map(lambda file: _row_groups(storage, file.name, expected), missing), strict=True))
    if found:
        save_counts(storage, path, expected, {file: cached[file] for file in listed if file in cached} | found)
    return [cached[file] if file in cached else found[file] for file in files]


def _row_groups(storage: Storage, file: str, expected: Mapping[str, pa.DataType]) -> Counts:
    """Row counts of a file's row groups, after its schema was checked."""
    try:
        with storage.filesystem.open_input_file(storage.path(file)) as handle:
            metadata = pq.ParquetFile(handle).metadata
            schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, OSError) as err:
        reason = (str(err).splitlines() or [type(err).__name__])[0].rstrip(".")
        raise ContractError(
            f"{storage.join(file)} has to be a Parquet file. Received: {reason}. Restore the file or prepare the data set again."
        ) from None
    for name, expected_type in expected.items():
        if name not in schema.names:
            raise ContractError(
                f"{storage.join(file)} has to have column {name}. "
                f"Received: columns {', '.join(schema.names)}. {nearest(name, schema.names)}"
            )
        if not _same_type(schema.field(name).type, expected_type):
            raise ContractError(
                f"{storage.join(file)} has to have column {name} of type {expected_type}. "
                f"Received: {schema.field(name).type}. Write the column with that type."
            )
    return np.array([metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)], dtype=np.int64)


def _same_type(found: pa.DataType, expected: pa.DataType) -> bool:
    if pa.types.is_list(expected):
        return bool(pa.types.is_list(found)) and bool(found.value_type == expected.value_type)
    return bool(found == expected)
