"""What a plain baseline reads: the splits, what they take in memory, and the columns it is fitted on."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from raytrain.config import JobConfig
from raytrain.data.asof.features import Features, Known, build_features, bytes_per_row, item_and_label
from raytrain.data.contract import Contract
from raytrain.data.frame import Frame, check_memory, concat_frames, read_events, read_frame
from raytrain.data.manifest import read_manifest
from raytrain.data.stored_columns import stored_columns
from raytrain.errors import ContractError, DataError
from raytrain.ltv_config import PlainLtvModel
from raytrain.model_config import LightGbmModel, LogisticModel, PlainSection
from raytrain.models.baselines.tabular import TABULAR_MODELS, Reads

SplitKey = tuple[str, str]
"""(domain, split)"""
Splits = dict[SplitKey, Frame]


class RowReader(Protocol):
    """One way of reading."""

    def others(self, job: JobConfig, contract: Contract, fitting: bool) -> list[SplitKey]:
        """Splits that are read beside those asked for."""
        ...

    def fitted_on(self, job: JobConfig, contract: Contract) -> list[str]:
        """Domains whose training rows the model is fitted on; of others it knows the past at most."""
        ...

    def memory(self, contract: Contract) -> tuple[int, int]:
        """(history events that are read, bytes a row or event takes at most)"""
        ...

    def training(self, job: JobConfig, contract: Contract, splits: Splits) -> tuple[Any, Any]:
        """What a model is fitted on, and the target's validation rows."""
        ...

    def scoring(self, job: JobConfig, contract: Contract, splits: Splits, key: SplitKey) -> Any:
        """The rows of one split."""
        ...


@dataclass(frozen=True)
class AsOfRows:
    """Items and labels, and the columns of the past where ``uses_past``."""

    uses_past: bool

    def others(self, job: JobConfig, contract: Contract, fitting: bool) -> list[SplitKey]:
        return [(name, split) for name, domain in contract.domains.items() for split in domain.splits] if self.uses_past else []

    def fitted_on(self, job: JobConfig, contract: Contract) -> list[str]:
        return [contract.target]

    def memory(self, contract: Contract) -> tuple[int, int]:
        events = [domain.history.num_events for domain in contract.domains.values() if domain.history is not None]
        widths = [feature.max_values for feature in contract.features]
        return sum(events) if self.uses_past else 0, bytes_per_row(widths, len(contract.domains), self.uses_past)

    def training(self, job: JobConfig, contract: Contract, splits: Splits) -> tuple[Features, Features]:
        train, valid = (splits[contract.target, split] for split in ("train", "valid"))
        both = self._features(job, contract, splits, concat_frames([train, valid]))
        return both.rows(slice(0, train.num_rows)), both.rows(slice(train.num_rows, None))

    def scoring(self, job: JobConfig, contract: Contract, splits: Splits, key: SplitKey) -> Features:
        return self._features(job, contract, splits, splits[key])

    def _features(self, job: JobConfig, contract: Contract, splits: Splits, rows: Frame) -> Features:
        if not self.uses_past:
            return item_and_label(contract, rows)
        assert isinstance(job.model, LogisticModel | LightGbmModel), job.model
        samples = concat_frames(list(splits.values()))
        domain = np.concatenate([np.full(frame.num_rows, name) for (name, _), frame in splits.items()])
        users = np.unique(samples.column(contract.user)).astype(np.int64)
        histories = {
            name: read_events(contract, job.data.path, name, users)
            for name, described in contract.domains.items()
            if described.history is not None
        }
        return build_features(contract, Known(samples, domain, histories), rows, job.model.prior_rows)


class StoredRows:
    """The data set's own columns; of the sources their training rows, where the model asks for them."""

    def others(self, job: JobConfig, contract: Contract, fitting: bool) -> list[SplitKey]:
        assert isinstance(job.model, PlainLtvModel), job.model
        if not (fitting and job.model.reads_source):
            return []
        found = [(name, "train") for name in contract.sources if "train" in contract.domains[name].splits]
        if not found:
            raise ContractError(
                f"{job.model.name} is fitted on external rows, so the data set has to have a source domain with training rows. "
                f"Received: domains {', '.join(contract.domains)}. Set model.rows=internal, or prepare it with one."
            )
        return found

    def fitted_on(self, job: JobConfig, contract: Contract) -> list[str]:
        assert isinstance(job.model, PlainLtvModel), job.model
        sources = [domain for domain, _ in self.others(job, contract, fitting=True)]
        return [contract.target, *sources] if job.model.reads_target else sources

    def memory(self, contract: Contract) -> tuple[int, int]:
        # As read, in float64, and chosen from.
        return 0, bytes_per_row([feature.max_values for feature in contract.features], 1, False) + 24 * len(contract.features)

    def training(self, job: JobConfig, contract: Contract, splits: Splits) -> tuple[Any, Any]:
        train = [(domain, rows) for (domain, split), rows in splits.items() if split == "train"]
        return stored_columns(contract, train), self.scoring(job, contract, splits, (contract.target, "valid"))

    def scoring(self, job: JobConfig, contract: Contract, splits: Splits, key: SplitKey) -> Any:
        return stored_columns(contract, [(key[0], splits[key])])


READERS: dict[Reads, RowReader] = {"item": AsOfRows(uses_past=False), "past": AsOfRows(uses_past=True), "stored": StoredRows()}


def reader_of(job: JobConfig) -> RowReader:
    """What the job's plain model reads by."""
    return READERS[TABULAR_MODELS[job.model.name].reads]


def planned_memory(job: JobConfig, contract: Contract, keys: list[SplitKey]) -> tuple[int, int]:
    """(samples and events of ``keys`` that are read, bytes each takes at most).

    Raises:
        ResourceError: together more than ``model.max_memory_mib``.
    """
    assert isinstance(job.model, PlainSection), job.model
    num_events, row_bytes = reader_of(job).memory(contract)
    num_rows = num_events + sum(contract.domains[domain].splits[split].num_rows for domain, split in keys)
    check_memory(num_rows, row_bytes, job.model.max_memory_mib)
    return num_rows, row_bytes


def planned_splits(job: JobConfig, contract: Contract, asked: list[SplitKey], fitting: bool) -> list[SplitKey]:
    """``asked`` and what is read beside it. Raises ContractError where a model's rows are not there."""
    return list(dict.fromkeys([*asked, *reader_of(job).others(job, contract, fitting)]))


def read_splits(job: JobConfig, contract: Contract, asked: list[SplitKey], fitting: bool) -> Splits:
    """Every split the model needs, in memory.

    Raises:
        ContractError, DataError: the data set is broken, or more than ``data.max_quarantine_share`` of a split's rows are bad.
        ResourceError: it needs more than ``model.max_memory_mib``.
    """
    keys = planned_splits(job, contract, asked, fitting)
    manifests = {key: read_manifest(contract, job.data.path, *key) for key in keys}
    planned_memory(job, contract, keys)
    splits = {key: read_frame(contract, job.data.path, manifest) for key, manifest in manifests.items()}
    for (domain, split), rows in splits.items():
        share = rows.num_quarantined / (rows.num_quarantined + rows.num_rows)
        if share > job.data.max_quarantine_share:
            raise DataError(
                f"At most data.max_quarantine_share={job.data.max_quarantine_share} of the rows of domain {domain} may be bad. "
                f"Received: {rows.num_quarantined} bad rows in split {split}, a share of {share:.4f}. "
                "Prepare the data set again or raise the share."
            )
    return splits
