"""What a neural model asks of a data set before torch is loaded: the histories it reads and the tables it needs.

The cluster's preflight and a run's first refusals are arithmetic on this; ``registry.py`` adds the networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raytrain.adsnet_config import BackboneModel
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.embeddings.config import TableConfig
from raytrain.errors import ContractError
from raytrain.model_config import DnnModel
from raytrain.models.adsnet.declarations import (
    adsnet_tables,
    backbone_histories,
    backbone_tables,
    check_head,
    check_labels_and_probe,
)
from raytrain.models.baselines.declarations import (
    check_category,
    check_contrast,
    check_two_domains,
    counter_histories,
    counter_tables,
    dnn_histories,
    dnn_tables,
    idle_contrast,
    lcn_event_ages,
    no_event_ages,
    no_warning,
    sequence_histories,
    sequence_tables,
)
from raytrain.models.ecdctr.declarations import check_basic_features, check_snapshot_features, ecdctr_tables, tpm_histories, tpm_tables
from raytrain.sequence_config import SequenceModel
from raytrain.settings import nearest


@dataclass(frozen=True)
class Declaration:
    """The torch-free part of a model."""

    histories: Callable[[Any, Contract], tuple[str, ...]]
    """(its own config section, contract) -> the domains whose history it reads"""
    tables: Callable[[Any, JobConfig, Contract], tuple[TableConfig, ...]]
    """(its own config section, job, contract) -> the tables it needs"""
    queries_item: bool = True
    """Whether it looks the candidate item up by name, which then has to be among its features."""
    check: Callable[[Any, Contract, tuple[str, ...]], None] | None = None
    """(its own config section, contract, histories) raises ContractError where the data set lacks what this model alone needs."""
    warning: Callable[[Any, Contract, tuple[str, ...]], str | None] = no_warning
    """(its own config section, contract, histories) -> what is allowed, but hardly meant; None where there is nothing"""
    event_ages: Callable[[Any], bool] = no_event_ages
    """(its own config section) -> whether training reads the ages of history events in seconds"""
    amounts: bool = False
    """Whether it predicts amounts where the data set's labels are some; every model takes clicks."""
    slices: bool = False
    """Whether it reads the slice of every row, which the data set then has to name."""


DECLARED: dict[str, Declaration] = {
    "adsnet": Declaration(backbone_histories, adsnet_tables, queries_item=False, check=check_labels_and_probe, amounts=True, slices=True),
    "ltv": Declaration(backbone_histories, backbone_tables, queries_item=False, check=check_head, amounts=True),
    "cdaf": Declaration(backbone_histories, backbone_tables, queries_item=False, check=check_head, amounts=True),
    "lcn": Declaration(sequence_histories, sequence_tables, check=check_contrast, warning=idle_contrast, event_ages=lcn_event_ages),
    "din": Declaration(sequence_histories, sequence_tables),
    "single_domain": Declaration(sequence_histories, sequence_tables),
    "full_attention": Declaration(sequence_histories, sequence_tables),
    "sim": Declaration(sequence_histories, sequence_tables, check=check_category),
    "eta": Declaration(sequence_histories, sequence_tables),
    "sdim": Declaration(sequence_histories, sequence_tables),
    "twin": Declaration(sequence_histories, sequence_tables),
    "minet": Declaration(sequence_histories, sequence_tables, check=check_two_domains),
    "star": Declaration(sequence_histories, sequence_tables),
    "ecdctr": Declaration(sequence_histories, ecdctr_tables, check=check_snapshot_features),
    "tpm": Declaration(tpm_histories, tpm_tables, queries_item=False, check=check_basic_features),
    "dnn": Declaration(dnn_histories, dnn_tables, queries_item=False),
    "counter": Declaration(counter_histories, counter_tables, queries_item=False),
}


def declared_histories(job: JobConfig, contract: Contract) -> tuple[str, ...]:
    """The domains whose history the job's neural model reads.

    Raises:
        ContractError: the data set lacks a history or a feature that the model names, or has labels that it cannot predict.
    """
    declaration = DECLARED[job.model.name]
    if contract.amount is not None and not declaration.amounts:
        takers = ", ".join(name for name, other in DECLARED.items() if other.amounts)
        raise ContractError(
            f"Model {job.model.name} predicts clicks, so labels have to be 0 or 1. Received: amounts in {contract.amount.currency}. "
            f"{f'Use one of: {takers}' if takers else 'Prepare the data set with a click label'}."
        )
    histories = declaration.histories(job.model, contract)
    check_histories(contract, histories)
    if isinstance(job.model, SequenceModel) and job.model.side is not None:
        check_side(contract, histories, job.model.side)
    skipped = job.model.skip_features if isinstance(job.model, SequenceModel | DnnModel | BackboneModel) else ()
    check_features(contract, skipped, declaration.queries_item)
    if declaration.check is not None:
        declaration.check(job.model, contract, histories)
    return histories


def declared_warning(job: JobConfig, contract: Contract) -> str | None:
    """What to tell whoever starts the job before it runs; None where there is nothing. Plain baselines have none."""
    declaration = DECLARED.get(job.model.name)
    return None if declaration is None else declaration.warning(job.model, contract, declaration.histories(job.model, contract))


def declared_tables(job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    """The tables of the job's neural model; raises what ``declared_histories`` does."""
    declared_histories(job, contract)
    return DECLARED[job.model.name].tables(job.model, job, contract)


def reads_event_ages(job: JobConfig) -> bool:
    """Whether training needs the ages of history events in seconds; plain baselines, which are declared nowhere, do not."""
    declaration = DECLARED.get(job.model.name)
    return declaration is not None and declaration.event_ages(job.model)


def reads_slices(job: JobConfig) -> bool:
    """Whether batches have to carry the slices of their rows."""
    declaration = DECLARED.get(job.model.name)
    return declaration is not None and declaration.slices


def check_histories(contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError when a model wants a history that the data set has not."""
    for name in histories:
        if name not in contract.domains:
            raise ContractError(f"model.histories has to name domains of the data set. Received: {name}. {nearest(name, contract.domains)}")
        if contract.domains[name].history is None:
            raise ContractError(f"Domain {name} has to have a history. Received: none in contract.yaml. Prepare the data set with one.")


def check_side(contract: Contract, histories: tuple[str, ...], wanted: tuple[str, ...]) -> None:
    """Raises ContractError when a side information is named that none of the histories has."""
    names = sorted({side.name for name in histories if (history := contract.domains[name].history) for side in history.side})
    for name in wanted:
        if name not in names:
            raise ContractError(f"model.side has to name side information of the histories. Received: {name}. {nearest(name, names)}")


def check_features(contract: Contract, skipped: tuple[str, ...], queries_item: bool) -> None:
    """Raises ContractError when a feature to skip is unknown, none is left, or a model lacks the candidate item it queries."""
    names = [feature.name for feature in contract.features]
    for name in skipped:
        if name not in names:
            raise ContractError(
                f"model.skip_features has to name features of the data set. Received: {name}. {nearest(name, names)} "
                "'model.skip_features=[]' skips none."
            )
    if not set(names) - set(skipped):
        raise ContractError(
            f"A model has to have a feature left. Received: features {names}, model.skip_features={list(skipped)}. Skip fewer."
        )
    if queries_item and (contract.item in skipped or contract.item not in names):
        raise ContractError(
            f"The model attends to histories with the candidate item, so {contract.item} has to be a feature. "
            f"Received: features {names}, model.skip_features={list(skipped)}. Add it, or skip it no longer."
        )
