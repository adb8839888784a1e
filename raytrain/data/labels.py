"""The labels of a split and how its rows spread over slices, read column by column on the driver. Torch-free."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.contract import Contract
from raytrain.data.manifest import Manifest
from raytrain.storage import Storage

MAX_ROWS = 20_000_000
"""Above it every k-th row group is read and stands for k: quantiles of so many labels do not change any more."""


@dataclass(frozen=True)
class SplitLabels:
    """What a model of amounts asks of its training rows before it is built."""

    labels: npt.NDArray[np.float64]
    """[N], every amount that a stream would take: finite and 0 or more"""
    slice_rows: dict[int, int]
    """slice -> its rows, as batches give slices; empty where the contract names none"""


def read_labels(contract: Contract, data_path: str, manifest: Manifest) -> SplitLabels:
    """Reads two columns of the split that ``manifest`` lists. Rows that a stream quarantines for another reason than their label are
    counted in; a row group that cannot be read is left out, as it is by the stream, which says so."""
    storage = Storage(data_path)
    stride = -(-int(manifest.num_rows.sum()) // MAX_ROWS)
    columns = [contract.label] + ([contract.slice] if contract.slice else [])
    labels: list[npt.NDArray[np.float64]] = []
    counts = np.zeros(contract.num_slices, np.int64)
    for number in range(0, len(manifest.num_rows), stride):
        file, group = manifest.files[manifest.file_index[number]], int(manifest.row_group[number])
        try:
            with storage.filesystem.open_input_file(storage.path(file)) as handle:
                rows = pq.ParquetFile(handle).read_row_group(group, columns=columns)
        except (pa.ArrowException, OSError):
            continue
        values = rows.column(contract.label).to_numpy().astype(np.float64)
        good = np.isfinite(values) & (values >= 0)
        labels.append(values[good])
        if contract.slice:
            slices = _first_values(rows.column(contract.slice).combine_chunks())[good]
            counts += np.bincount(slices[(slices >= 0) & (slices < len(counts))], minlength=len(counts))
    if contract.unseen_slices:
        counts[0] += counts[list(contract.unseen_slices)].sum()
        counts[list(contract.unseen_slices)] = 0
    seen = np.nonzero(counts)[0] if contract.slice else np.zeros(0, np.int64)
    return SplitLabels(np.concatenate(labels or [np.zeros(0)]), {int(number): int(counts[number]) * stride for number in seen})


def _first_values(column: pa.Array) -> npt.NDArray[np.int64]:
    """int64 [N]: ids as they are, of a list its first; null and an empty list are 0, unknown."""
    if isinstance(column, pa.ListArray):
        lengths, offsets = np.diff(column.offsets.to_numpy()), column.offsets.to_numpy()[:-1]
        first = np.zeros(len(column), np.int64)
        flat = column.values.fill_null(0).to_numpy()
        first[lengths > 0] = flat[offsets[lengths > 0]]
        return first
    return np.asarray(column.fill_null(0).to_numpy(), dtype=np.int64)
