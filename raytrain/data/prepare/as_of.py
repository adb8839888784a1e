"""Last step of a prepare: the as-of columns of every sample, written into the sample files as dense features.

What the plain baselines build in memory (``raytrain.data.asof.features``), as contrasts, so that a network starts from the same
biases of users and items. Rows, their order, row groups and files stay as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import accumulate, pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import PositiveFloat, PositiveInt

from raytrain.data.asof.contrasts import contrasts
from raytrain.data.asof.features import Known, build_features, bytes_per_row
from raytrain.data.contract import Contract, Feature
from raytrain.data.frame import Events, Frame, check_memory, read_events
from raytrain.data.prepare.fingerprint import combined_digest, table_digest
from raytrain.data.prepare.spec import EventSpec
from raytrain.data.prepare.write import bucket_file, write_table
from raytrain.errors import DataError
from raytrain.settings import Section
from raytrain.storage import Storage

PREFIX = "asof_"
MIN_STD = 1e-6
"""A column that varies less among the target's training rows says nothing, and is left out."""


class AsOfOptions(Section):
    """Smoothed means and residuals of each row's strict past as dense features of the data set."""

    prior_rows: PositiveFloat = 10.0
    """Rows of the next wider mean that are added to a mean."""
    max_memory_mib: PositiveInt = 16384
    """The columns are computed in the memory of the machine that runs the command; more is refused before anything is written."""


@dataclass(frozen=True)
class _File:
    """One bucket of a split or of a day, and where its rows stand among all."""

    domain: str
    part: str
    name: str
    groups: tuple[tuple[int, int], ...]
    """(first row, one past the last) of every row group"""
    rows: slice


def check_as_of(spec: EventSpec, num_rows: int, options: AsOfOptions) -> None:
    """Refuses what could not be finished, before an earlier data set is touched.

    Args:
        num_rows: usable events of all domains; each is a sample and an event of a history.

    Raises:
        DataError: a feature has a name that begins as those of the as-of columns do.
        ResourceError: the columns would need more than ``options.max_memory_mib``.
    """
    if spec.split.marks_samples or spec.in_history is not None:
        raise DataError(
            "As-of features take every sample for an event of its time, and every event for a sample. "
            f"Received: split.column={spec.split.column}, split.sample={spec.split.sample}, in_history={spec.in_history}. Set as_of=null."
        )
    taken = [feature.name for feature in spec.features if feature.name.startswith(PREFIX)]
    if taken:
        raise DataError(f"Names that begin with {PREFIX} are for as-of features. Received: {', '.join(taken)}. Rename, or set as_of=null.")
    row_bytes = bytes_per_row([feature.max_values for feature in spec.features], len(spec.domains), uses_past=True)
    check_memory(2 * num_rows, row_bytes, options.max_memory_mib, "as_of.max_memory_mib", "set as_of=null")


def add_as_of(contract: Contract, storage: Storage, options: AsOfOptions, known_until: date | None = None) -> Contract:
    """Computes the columns of every split, or day, of every domain and writes each sample file again with them.

    To be called before the contract is written: until then nobody takes the directory for a data set, however far this came.

    Returns:
        ``contract`` with a dense feature for every column that varies, its mean and std taken over the target's training rows (by
        day: the rows of days before ``known_until``, or of all), and a content hash that covers them.
    """
    files: list[_File] = []
    tables = []
    for domain, part, name in _sample_files(contract):
        groups, table = _read(storage, name)
        first = files[-1].rows.stop if files else 0
        files.append(_File(domain, part, name, groups, slice(first, first + table.num_rows)))
        tables.append(table)
    rows = Frame(pa.concat_tables(tables).combine_chunks(), num_quarantined=0)
    del tables
    lengths = [file.rows.stop - file.rows.start for file in files]
    known = Known(rows, np.repeat([file.domain for file in files], lengths), _histories(contract, storage, rows))
    plain = contract.model_copy(update={"features": tuple(feature for feature in contract.features if feature.kind != "dense")})
    built = build_features(plain, known, rows, options.prior_rows)
    names, values = contrasts(built.names, built.values)
    days = contract.domains[contract.target].days
    seen = {"train", *(day for day in days if known_until is None or date.fromisoformat(day) < known_until)}
    train = [file.rows for file in files if file.domain == contract.target and file.part in seen]
    features = as_of_features(names, np.concatenate([values[part] for part in train]))
    digests = []
    for file in files:
        table = _read(storage, file.name)[1]
        added = {feature.name: pa.array(values[file.rows, index]) for index, feature in features.items()}
        for name, column in added.items():
            table = table.append_column(pa.field(name, pa.float32(), nullable=False), column)
        write_table(table, storage, file.name, file.groups)
        digests.append((file.name, table_digest(pa.table(added))))
    return contract.model_copy(
        update={
            "features": (*contract.features, *features.values()),
            "content_hash": combined_digest([("rows", contract.content_hash), *digests]),
        }
    )


def as_of_features(names: tuple[str, ...], values: npt.NDArray[np.float32]) -> dict[int, Feature]:
    """Index of every column that varies -> the dense feature it becomes.

    names: F, as ``contrasts`` makes them. values: [N, F], of the rows that mean and std are taken over.

    Raises:
        DataError: two columns would have one name.
    """
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    features: dict[int, Feature] = {}
    for index in np.flatnonzero(std > MIN_STD).tolist():
        name = feature_name(names[index])
        same = [names[other] for other, feature in features.items() if feature.name == name]
        if same:
            raise DataError(
                f"As-of features have to have different names. Received: {same[0]} and {names[index]}, both {name}. "
                "Rename a domain or a feature, or set as_of=null."
            )
        features[index] = Feature(name=name, kind="dense", mean=float(mean[index]), std=float(std[index]), as_of=True)
    return features


def feature_name(column: str) -> str:
    """The feature of column ``<key>/<scope>/<statistic>``: "user+genres/all/label" -> "asof_user_genres_all_mean"."""
    key, scope, statistic = column.split("/")
    name = "_".join((key, scope, "mean" if statistic == "label" else statistic))
    return PREFIX + "".join(letter if letter.isalnum() else "_" for letter in name)


def _sample_files(contract: Contract) -> Iterator[tuple[str, str, str]]:
    """(domain, split or day, file) of every bucket."""
    for domain, described in contract.domains.items():
        for name, part in (described.splits or described.days).items():
            for bucket in range(contract.num_buckets):
                yield domain, name, bucket_file(part.path, bucket)


def _read(storage: Storage, name: str) -> tuple[tuple[tuple[int, int], ...], pa.Table]:
    """(rows of every row group, the whole file)"""
    with storage.filesystem.open_input_file(storage.path(name)) as source:
        file = pq.ParquetFile(source)
        lengths = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        stops = accumulate((length for length in lengths if length), initial=0)
        return tuple(pairwise(stops)), file.read(use_threads=False)


def _histories(contract: Contract, storage: Storage, rows: Frame) -> dict[str, Events]:
    users = np.unique(rows.column(contract.user)).astype(np.int64)
    return {name: read_events(contract, storage.uri, name, users) for name, domain in contract.domains.items() if domain.history}
