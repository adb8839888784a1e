"""The histories and tables of the neural baselines, read off config and contract. Torch-free."""

from collections.abc import Collection

from raytrain.config import DinModel, DnnModel, JobConfig, SingleDomainModel
from raytrain.data.contract import Contract
from raytrain.embeddings.config import TableConfig


def din_histories(model: DinModel, contract: Contract) -> tuple[str, ...]:
    """As configured, else every domain with a history, or the target alone for ``single_domain``."""
    if model.histories is not None:
        return model.histories
    if isinstance(model, SingleDomainModel):
        return (contract.target,)
    return tuple(name for name, domain in contract.domains.items() if domain.history is not None)


def din_tables(model: DinModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    return feature_tables(job, contract, model.skip_features, din_histories(model, contract))


def dnn_histories(model: DnnModel, contract: Contract) -> tuple[str, ...]:
    return ()


def dnn_tables(model: DnnModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    return feature_tables(job, contract, model.skip_features)


def feature_tables(
    job: JobConfig, contract: Contract, skipped: Collection[str], histories: tuple[str, ...] = ()
) -> tuple[TableConfig, ...]:
    """One table per id space that a feature that is not skipped, or one of the domains' ``histories``, uses."""
    spaces = {name: history.table for name in histories if (history := contract.domains[name].history) is not None}
    features = [feature for feature in contract.features if feature.name not in skipped]
    used = {feature.table for feature in features} | set(spaces.values())
    return tuple(
        TableConfig(
            name=name,
            num_rows=table.num_rows,
            dim=job.tables.dim,
            features=tuple(feature.name for feature in features if feature.table == name),
            histories=tuple(key for key, space in spaces.items() if space == name),
            init_std=job.tables.init_std,
        )
        for name, table in contract.tables.items()
        if name in used
    )
