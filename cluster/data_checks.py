"""Whether the data set is what its contract says, from contract.yaml and the files' footers: no row is read."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from cluster.checks import Check, attempt
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.data.manifest import check_history_files, check_labels, read_manifest
from raytrain.models.declared import DECLARED, declared_histories


def check_contract(contract: Contract) -> Check:
    domains = ", ".join(f"{name} ({domain.role})" for name, domain in contract.domains.items())
    tables = ", ".join(f"{name} {table.num_rows:,} rows" for name, table in contract.tables.items())
    return Check("contract", "ok", f"{contract.dataset}: domains {domains}; tables {tables}; {len(contract.features)} features")


def check_splits(job: JobConfig, contract: Contract, histories: tuple[str, ...]) -> Iterator[Check]:
    """Every split that training or scoring opens, and the history files beside it."""
    trained = [contract.target, *(contract.sources if job.data.source_batch_size else ())]
    for domain, split in [*((name, "train") for name in trained), (contract.target, "valid"), (contract.target, "test")]:
        yield attempt(f"{split}/{domain}", partial(_check_split, job, contract, histories, domain, split))


def histories_of(job: JobConfig, contract: Contract) -> tuple[str, ...]:
    """What the model reads; a plain baseline reads every history there is, in memory.

    Raises:
        ContractError: a neural model names one that is not there.
    """
    if job.model.name in DECLARED:
        return declared_histories(job, contract)
    return tuple(name for name, domain in contract.domains.items() if domain.history is not None)


def _check_split(job: JobConfig, contract: Contract, histories: tuple[str, ...], domain: str, split: str) -> Check:
    manifest = read_manifest(contract, job.data.path, domain, split)
    check_history_files(contract, job.data.path, histories, manifest)
    if split != "train":
        check_labels(contract, job.data.path, domain, split)
    num_files = len(np.unique(manifest.file_index))
    rows = f"{int(manifest.num_rows.sum()):,} rows in {num_files:,} files, {len(manifest.num_rows):,} row groups"
    return Check(f"{split}/{domain}", "ok", f"{rows}{'; histories of ' if histories else ''}{', '.join(histories)}")
