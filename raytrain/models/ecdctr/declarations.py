"""The tables of E-CDCTR's models, read off config and contract. Torch-free."""

from raytrain.config import JobConfig
from raytrain.data.contract import Contract, Feature
from raytrain.ecdctr_config import EcdctrModel, TpmModel
from raytrain.embeddings.config import TableConfig
from raytrain.errors import ContractError
from raytrain.models.baselines.declarations import feature_tables, sequence_tables
from raytrain.settings import nearest


def entities(contract: Contract) -> dict[str, str]:
    """Feature -> table of what monthly vectors are kept of: the user, then the item."""
    tables = {feature.name: feature.table for feature in contract.features if feature.kind == "id" and feature.table}
    return {name: tables[name] for name in (contract.user, contract.item)}


def month_table(month: int, feature: str) -> str:
    """Name of the table with the vectors of the ``month``-th snapshot, 0 for the oldest."""
    return f"month{month}_{feature}"


def num_snapshots(model: EcdctrModel, job: JobConfig) -> int:
    """Months that tables are held of: rows of one batch may see different ones."""
    return max(model.months, len(job.start.snapshots)) if model.months else 0


def ecdctr_tables(model: EcdctrModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    found = list(sequence_tables(model, job, contract))
    for month in range(num_snapshots(model, job)):
        for feature, table in entities(contract).items():
            num_rows = contract.tables[table].num_rows
            # Rows of a month that is not given stay 0, as those of an id that it did not see.
            name = month_table(month, feature)
            found.append(TableConfig(name, num_rows, model.month_dim, features=(feature,), init_std=0.0, frozen=True))
    return tuple(found)


def check_snapshot_features(model: EcdctrModel, contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError unless monthly vectors have a user and an item to belong to."""
    if model.months:
        _check_entities(contract, "model.months")


def tpm_histories(model: TpmModel, contract: Contract) -> tuple[str, ...]:
    return ()


def tpm_tables(model: TpmModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    return feature_tables(job, contract, skipped_features(model, contract), ())


def skipped_features(model: TpmModel, contract: Contract) -> tuple[str, ...]:
    """Features of the data set that are not basic."""
    if model.features is None:
        return tuple(feature.name for feature in contract.features if feature.kind != "id")
    return tuple(feature.name for feature in contract.features if feature.name not in model.features)


def check_basic_features(model: TpmModel, contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError unless the basic features exist, and user and item are among them."""
    _check_entities(contract, "model.name=tpm")
    names = [feature.name for feature in contract.features]
    for name in model.features or ():
        if name not in names:
            raise ContractError(f"model.features has to name features of the data set. Received: {name}. {nearest(name, names)}")
    for name in entities(contract):
        if model.features is not None and name not in model.features:
            raise ContractError(
                f"TPM is trained for the vectors of {contract.user} and {contract.item}. Received: model.features="
                f"{list(model.features)}, without {name}. Add it."
            )


def _check_entities(contract: Contract, asked: str) -> None:
    features: dict[str, Feature] = {feature.name: feature for feature in contract.features}
    for name in (contract.user, contract.item):
        if name not in features or features[name].kind != "id":
            raise ContractError(
                f"Monthly vectors are kept of users and items, which have to be id features. Received: {asked}, a data set without "
                f"{name}. Prepare it with that feature, or set model.months=0."
            )
