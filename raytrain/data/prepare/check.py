"""Checks of the event files from their footers alone, on the driver, before Ray starts work."""

import fnmatch
import posixpath
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from raytrain.data.prepare.blocks import BlockRef, plan_blocks
from raytrain.data.prepare.spec import EventSpec
from raytrain.errors import DataError
from raytrain.settings import nearest
from raytrain.storage import resolve

_FOOTER_THREADS = 16
_WILDCARDS = "*?["


@dataclass(frozen=True)
class EventFiles:
    """The Parquet files of one domain."""

    blocks: tuple[BlockRef, ...]
    num_rows: int
    num_bytes: int


def check_events(spec: EventSpec) -> dict[str, EventFiles]:
    """Finds every domain's files and holds each file's schema against ``spec``.

    Raises:
        DataError: no files or rows, a column is missing or of a type its use cannot take; one line per problem.
    """
    found: dict[str, EventFiles] = {}
    problems: list[str] = []
    tables: dict[str, tuple[str, str]] = {}
    for domain, events in spec.domains.items():
        filesystem, infos = find_files(events.path)
        if not infos:
            problems.append(f"Domain {domain} has to have Parquet files. Received: path={events.path}, without any. Check the path.")
            continue
        paths = [info.path for info in infos]
        with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
            footers = list(pool.map(lambda path, system=filesystem: _footer(system, path), paths))
        seen: set[pa.Schema] = set()
        blocks: list[BlockRef] = []
        for path, footer in zip(paths, footers, strict=True):
            blocks += plan_blocks(domain, filesystem, path, footer.row_group_bytes)
            if footer.schema not in seen:
                seen.add(footer.schema)
                problems += [f"{domain}, {path}: {problem}" for problem in _problems(spec, domain, footer.schema, tables)]
        num_rows = sum(footer.num_rows for footer in footers)
        if not num_rows:
            problems.append(f"Domain {domain} has to have rows. Received: {len(paths)} files at {events.path} with none. Check the path.")
        found[domain] = EventFiles(tuple(blocks), num_rows, sum(info.size for info in infos))
    if problems:
        raise DataError("\n".join(problems))
    return found


def find_files(path: str) -> tuple[fs.FileSystem, list[fs.FileInfo]]:
    """The Parquet files at ``path`` (a file, a directory searched below, or a pattern), by path; "_" and "." names are left out."""
    parts = path.split("/")
    fixed = next((index for index, part in enumerate(parts) if any(mark in part for mark in _WILDCARDS)), len(parts))
    filesystem, base = resolve("/".join(parts[:fixed]) or ("/" if path.startswith("/") else "."))
    pattern = posixpath.join(base, *parts[fixed:]) if fixed < len(parts) else None
    info = filesystem.get_file_info(base)
    if info.is_file:
        return filesystem, [info]
    below = filesystem.get_file_info(fs.FileSelector(base, recursive=True, allow_not_found=True))
    kept = [info for info in below if info.is_file and _is_data(info.path.removeprefix(base)) and _matches(info.path, pattern)]
    return filesystem, sorted(kept, key=lambda info: str(info.path))


def _is_data(relative: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in relative.split("/"))


def _matches(path: str, pattern: str | None) -> bool:
    if pattern is None:
        return path.endswith(".parquet")
    # A wildcard stays inside one directory level, as in a shell.
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))


@dataclass(frozen=True)
class _Footer:
    schema: pa.Schema
    num_rows: int
    row_group_bytes: tuple[int, ...]
    """uncompressed"""


def _footer(filesystem: fs.FileSystem, path: str) -> _Footer:
    try:
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            sizes = (file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups))
            return _Footer(file.schema_arrow.remove_metadata(), file.metadata.num_rows, tuple(sizes))
    except (OSError, pa.ArrowInvalid) as err:
        raise DataError(f"Event files have to be readable Parquet. Received: {path} ({err}). Repair or remove the file.") from None


def _problems(spec: EventSpec, domain: str, schema: pa.Schema, tables: dict[str, tuple[str, str]]) -> Iterator[str]:
    """``tables`` remembers across files which kind of value each table holds, and in which column that was seen first."""
    for feature in spec.absent_features(domain):
        if feature.source_column in schema.names:
            yield f"An absent feature must not have its column. Received: {feature.source_column} of {feature.name}. Take it out of absent."
    for use, column, allowed, wanted in _uses(spec, domain):
        if column not in schema.names:
            yield f"{use} has to name a column. Received: {column}, which is missing. {_advice(spec, domain, use, column, schema)}"
        elif schema.names.count(column) > 1:
            yield f"Columns have to have different names. Received: {column} twice. Rename one."
        elif not allowed(schema.field(column).type):
            yield f"{use} has to be {wanted}. Received: {column} of type {schema.field(column).type}. Cast it, or name another column."
    for table, _, column in spec.id_columns():
        if column in schema.names:
            values = "strings" if _is_string(_inner(schema.field(column).type)) else "integers"
            first = tables.setdefault(table, (values, column))
            if first[0] != values:
                yield f"Table {table} has to hold one type of value. Received: {first[0]} in {first[1]}, {values} in {column}. Cast one."


def _advice(spec: EventSpec, domain: str, use: str, column: str, schema: pa.Schema) -> str:
    may_lack = use.startswith("Feature") and spec.domains[domain].role == "source"
    return nearest(column, schema.names) + (f" Or list it under domains.{domain}.absent." if may_lack else "")


def _uses(spec: EventSpec, domain: str) -> Iterator[tuple[str, str, Callable[[pa.DataType], bool], str]]:
    """(what needs it, column, accepted types, the same in words)"""
    for name, key in (("keys.user", spec.keys.user), ("keys.item", spec.keys.item)):
        direct = key.encoding == "direct"
        yield name, key.column, pa.types.is_integer if direct else _is_id, "an integer" if direct else "an integer or a string"
    yield "keys.time", spec.keys.time.column, _is_time, "an integer or a timestamp"
    yield "label", spec.label.column, _is_number, "a number or a boolean"
    if spec.label.currency_column is not None:
        yield "label.currency_column", spec.label.currency_column, lambda kind: _is_string(_inner(kind)), "a string"
    if spec.split.column is not None:
        yield "split.column", spec.split.column, lambda kind: _is_string(_inner(kind)), "a string"
    if spec.split.sample is not None:
        yield "split.sample", spec.split.sample, pa.types.is_boolean, "a boolean"
    if spec.in_history is not None:
        yield "in_history", spec.in_history, pa.types.is_boolean, "a boolean"
    for feature in (feature for feature in spec.encoded_features if feature.name not in spec.domains[domain].absent):
        use, direct = f"Feature {feature.name}", feature.encoding == "direct"
        ids = ("an integer", pa.types.is_integer) if direct else ("an integer or a string", _is_id)
        if feature.kind == "dense":
            yield use, feature.source_column, _is_number, "a number or a boolean"
        elif feature.kind == "multi":
            yield use, feature.source_column, _list_of(ids[1]), f"a list, each value {ids[0]}"
        else:
            yield use, feature.source_column, ids[1], ids[0]
    for side in spec.side_columns:
        yield f"Side information {side.name}", side.source_column, _is_number, "a number"


def _list_of(allowed: Callable[[pa.DataType], bool]) -> Callable[[pa.DataType], bool]:
    return lambda kind: (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and allowed(kind.value_type)


def _inner(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a list or dictionary column."""
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_id(kind: pa.DataType) -> bool:
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(plain) or pa.types.is_boolean(plain) or _is_string(plain))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def _is_number(kind: pa.DataType) -> bool:
    # Decimals cast to double as well.
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_decimal(kind))
