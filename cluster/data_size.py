"""How large the data set of a plan is: a prepared one, one described by a section ``synthetic``, or either at another size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Any

from raytrain.config import JobConfig, check_kind, read_text
from raytrain.data.contract import Contract, Domain, Table
from raytrain.data.days import contract_of
from raytrain.data.manifest import read_manifest
from raytrain.data.synthetic import SyntheticSpec, drafted
from raytrain.errors import ConfigError
from raytrain.settings import nearest, parse_yaml, with_overrides

ROW_GROUP_ROWS = 8192
"""What ``raytrain prepare`` writes unless told otherwise."""


@dataclass(frozen=True)
class DomainSize:
    """The training split of a domain."""

    num_rows: int
    num_row_groups: int
    num_files: int

    @property
    def row_group_rows(self) -> int:
        """On average, rounded up."""
        return -(-self.num_rows // self.num_row_groups)


@dataclass(frozen=True)
class DataSize:
    """What the arithmetic of a plan reads of a data set."""

    contract: Contract
    trained: Mapping[str, DomainSize]
    """Domains of a step, target first."""


@dataclass(frozen=True)
class Sizes:
    """What the command line puts in place of the data set's own; null keeps it."""

    rows_target: int | None = None
    rows_source: int | None = None
    row_groups: int | None = None
    """Of all trained domains together."""
    files: int | None = None
    tables: tuple[tuple[str, int], ...] = ()
    """(name, rows)"""


def sizes_of(
    rows_target: float | None, rows_source: float | None, row_groups: float | None, files: float | None, tables: Sequence[str]
) -> Sizes:
    """From the command line, where 2e9 is a number of rows.

    Raises:
        ConfigError: one of ``tables`` is not NAME=ROWS.
    """
    return Sizes(_whole(rows_target), _whole(rows_source), _whole(row_groups), _whole(files), tuple(map(_table, tables)))


def read_plan(path: str, overrides: tuple[str, ...]) -> tuple[JobConfig, DataSize]:
    """A job and its data set, from a config as ``raytrain train`` or ``raytrain bench`` takes it; no row is read.

    Raises:
        ConfigError, ContractError: either is not right.
    """
    values = parse_yaml(read_text(path), path)
    check_kind(values, path, "model")
    values = with_overrides(values, overrides)
    described = values.pop("synthetic", None)
    job = JobConfig.parse(values, path)
    if described is None:
        contract = contract_of(job.data)
        return job, DataSize(contract, {name: _of_files(contract, job.data.path, name) for name in _trained(job, contract)})
    return job, _of_spec(job, SyntheticSpec.parse(_mapping(described), f"{path}: synthetic"))


def resized(size: DataSize, wanted: Sizes) -> DataSize:
    """The same data set with other numbers of rows, row groups, files and table rows.

    What is not named follows the rows: row groups, files, events of histories. Tables keep their rows, since ids need not be new.

    Raises:
        ConfigError: source rows are named for a job that trains on none, or a table that is not there.
    """
    if wanted.rows_source is not None and len(size.trained) == 1:
        raise ConfigError(
            "Source rows are trained on where data.source_batch_size is above 0. "
            f"Received: --rows-source {wanted.rows_source}, data.source_batch_size=0. Set it, or leave --rows-source out."
        )
    asked = (wanted.rows_target, wanted.rows_source)
    rows = {name: number or domain.num_rows for (name, domain), number in zip(size.trained.items(), asked, strict=False)}
    # Bucket k of every domain holds the same users, so all have as many files.
    growth = {name: Fraction(rows[name], domain.num_rows) for name, domain in size.trained.items()}
    grown = max(growth.values())
    trained = {}
    for name, domain in size.trained.items():
        files = ceil(domain.num_files * grown) if wanted.files is None else max(1, wanted.files // len(size.trained))
        if wanted.row_groups is None:
            groups = ceil(rows[name] / domain.row_group_rows)
        else:
            groups = wanted.row_groups * rows[name] // sum(rows.values())
        trained[name] = DomainSize(rows[name], max(files, groups), files)
    tables = dict(size.contract.tables)
    for name, num_rows in wanted.tables:
        if name not in tables:
            raise ConfigError(f"--table has to name a table of the data set. Received: {name}. {nearest(name, tables)}")
        if num_rows < 2:
            raise ConfigError(f"A table has to have two rows, of which one is for unknown ids. Received: {name}={num_rows}. Raise it.")
        tables[name] = Table(num_rows=num_rows, hashed=tables[name].hashed)
    # A domain that is read for its histories alone has the users of the others.
    domains = {name: _with_events(domain, growth.get(name, grown)) for name, domain in size.contract.domains.items()}
    return DataSize(size.contract.model_copy(update={"tables": tables, "domains": domains}), trained)


def _with_events(domain: Domain, growth: Fraction) -> Domain:
    if domain.history is None:
        return domain
    history = domain.history.model_copy(update={"num_events": ceil(domain.history.num_events * growth)})
    return domain.model_copy(update={"history": history})


def _trained(job: JobConfig, contract: Contract) -> tuple[str, ...]:
    return (contract.target, *(contract.sources[:1] if job.data.source_batch_size else ()))


def _of_files(contract: Contract, path: str, domain: str) -> DomainSize:
    manifest = read_manifest(contract, path, domain, "train")
    return DomainSize(int(manifest.num_rows.sum()), len(manifest.num_rows), len(manifest.files))


def _of_spec(job: JobConfig, spec: SyntheticSpec) -> DataSize:
    contract = drafted(spec)
    files = contract.num_buckets
    rows = {name: spec.rows_of(name, "train") for name in _trained(job, contract)}
    return DataSize(contract, {name: DomainSize(num, files * ceil(num / (files * ROW_GROUP_ROWS)), files) for name, num in rows.items()})


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _table(text: str) -> tuple[str, int]:
    name, _, rows = text.partition("=")
    try:
        return name, int(float(rows))
    except (ValueError, OverflowError):
        raise ConfigError(f"--table has to be NAME=ROWS. Received: {text}. Write it like item=1e9.") from None


def _mapping(described: Any) -> Mapping[str, Any]:
    if not isinstance(described, Mapping):
        raise ConfigError(f"synthetic has to be a section. Received: {described!r}. Write its keys below it.")
    return described
