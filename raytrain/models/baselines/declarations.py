"""The histories and tables of the neural baselines, read off config and contract. Torch-free."""

from collections.abc import Collection

from raytrain.config import JobConfig
from raytrain.data.contract import Contract, History
from raytrain.embeddings.config import TableConfig
from raytrain.errors import ConfigError, ContractError
from raytrain.model_config import CounterModel, DnnModel, LcnModel, MinetModel, SimModel, SingleDomainModel
from raytrain.sequence_config import SequenceModel
from raytrain.settings import Section, nearest

COUNTS = "counts"
"""The table of the counter."""


def sequence_histories(model: SequenceModel, contract: Contract) -> tuple[str, ...]:
    """As configured, else every domain with a history, or the target alone for ``single_domain``."""
    if model.histories is not None:
        return model.histories
    if isinstance(model, SingleDomainModel):
        return (contract.target,)
    return tuple(name for name, domain in contract.domains.items() if domain.history is not None)


def sequence_tables(model: SequenceModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    return feature_tables(job, contract, model.skip_features, sequence_histories(model, contract))


def side_of(model: SequenceModel, history: History) -> dict[str, int]:
    """Side information of a history that the model uses -> number of its codes, in the order of the contract."""
    return {side.name: side.num_values for side in history.side if model.side is None or side.name in model.side}


def check_category(model: SimModel, contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError unless histories and candidate both have the category that SIM's hard search compares, in the same codes."""
    if model.category is None:
        return
    features = {feature.name: feature for feature in contract.features if feature.kind == "id"}
    if model.category not in features:
        raise ContractError(
            f"model.category has to be an id feature of the candidate. Received: {model.category}. {nearest(model.category, features)}"
        )
    num_codes = contract.table_of(features[model.category]).num_rows
    for name in histories:
        history = contract.domains[name].history
        assert history is not None, name
        found = {side.name: side.num_values for side in history.side}
        if found.get(model.category) != num_codes:
            raise ContractError(
                f"model.category has to be side information of the history of {name}, with the {num_codes} codes of the feature. "
                f"Received: {model.category}, side information with numbers of codes {found}. Prepare the data set with it, "
                "or set model.search=soft."
            )


def check_two_domains(model: MinetModel, contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError unless MiNet has a target's and a source's history to mix."""
    if contract.target not in histories or len(histories) < 2:
        raise ContractError(
            f"MiNet has to have the history of {contract.target} and one of a source domain. "
            f"Received: model.histories={list(histories)}. Name both, or prepare the data set with both."
        )


def check_contrast(model: LcnModel, contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError when there is no history to attend to, or the pairs that ``model.contrast`` asks for cannot be told."""
    if not histories:
        raise ContractError("LCN attends to histories. Received: none, of model.histories=[]. Name one, or train model.name=din without.")
    section = model.contrast
    if not section.weight or all(name == contract.target for name in histories):
        return
    if contract.group != contract.user:
        raise ContractError(
            "LCN's contrastive pairs are of one user, by whom GAUC has to group. "
            f"Received: group={contract.group}, user={contract.user}. Prepare the data set with group={contract.user}, "
            "or set model.contrast.weight=0."
        )
    asked = [("pair_side", section.pair_side, histories), ("passed_over_side", section.passed_over_side, (contract.target,))]
    for key, side, domains in asked:
        for domain in domains:
            history = contract.domains[domain].history
            sizes = {info.name: info.num_values for info in history.side} if history is not None else {}
            for name, codes in side.items():
                if name not in sizes:
                    raise ContractError(
                        f"model.contrast.{key} has to name side information of every history it is drawn from. "
                        f"Received: {name}, which {domain} has not. {nearest(name, sizes)}"
                    )
                if not codes or not all(0 < code < sizes[name] for code in codes):
                    raise ContractError(
                        f"model.contrast.{key}.{name} has to list codes in 1..{sizes[name] - 1}. Received: {list(codes)}. Change them."
                    )


def idle_contrast(model: LcnModel, contract: Contract, histories: tuple[str, ...]) -> str | None:
    """What to change where the contrastive loss has no source domain's items to align, or settings that it cannot follow; else None."""
    if not model.contrast.weight:
        return None
    if any(name != contract.target for name in histories):
        if contract.target in histories or not model.contrast.passed_over_side:
            return None
        return (
            "What a user passed over is read from the target's history, so without it there are no such negatives. Received: "
            f"model.contrast.passed_over_side={model.contrast.passed_over_side}, histories={list(histories)}. "
            f"Name {contract.target} in model.histories, or set model.contrast.passed_over_side={{}}."
        )
    has_source = any(domain.history is not None for name, domain in contract.domains.items() if name != contract.target)
    source = "Name a source domain in model.histories" if has_source else "Prepare the data set with a source domain"
    return (
        "LCN's contrastive loss aligns items of a source domain with the target's, so it needs the history of one; it is 0 here. "
        f"Received: model.contrast.weight={model.contrast.weight:g}, histories={list(histories)}. {source}, or set model.contrast.weight=0."
    )


def num_contrasted(model: Section, rows_per_rank: int, global_rows: int) -> int:
    """Numbers in LCN's matrices of pairs x candidates on one rank, at most; 0 for other models."""
    if not isinstance(model, LcnModel) or not model.contrast.weight:
        return 0
    section = model.contrast
    num_targets = 1 + section.target_events
    offered = (global_rows if section.negatives == "all_ranks" else rows_per_rank) * num_targets
    return rows_per_rank * num_targets * section.num_pairs * offered * (1 + section.num_pairs)


def no_warning(model: Section, contract: Contract, histories: tuple[str, ...]) -> str | None:
    return None


def no_event_ages(model: Section) -> bool:
    return False


def lcn_event_ages(model: LcnModel) -> bool:
    """Pairs of events across domains are told by time."""
    return model.contrast.weight > 0


def dnn_histories(model: DnnModel, contract: Contract) -> tuple[str, ...]:
    return ()


def dnn_tables(model: DnnModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    return feature_tables(job, contract, model.skip_features)


def counter_histories(model: CounterModel, contract: Contract) -> tuple[str, ...]:
    return ()


def counter_tables(model: CounterModel, job: JobConfig, contract: Contract) -> tuple[TableConfig, ...]:
    """One table of zeros.

    Raises:
        ConfigError: the feature is missing, or the optimizer would not add one a visit.
    """
    features = {feature.name: feature for feature in contract.features if feature.kind == "id"}
    if model.feature not in features:
        raise ConfigError(
            f"model.feature has to name an id that is unique to each sample. Received: {model.feature}. {nearest(model.feature, features)}"
        )
    if (job.tables.optimizer, job.tables.lr, job.optimizer.schedule, job.optimizer.warmup_steps) != ("sgd", 1.0, "constant", 0):
        raise ConfigError(
            "The counter has to add one a visit. "
            f"Received: tables.optimizer={job.tables.optimizer}, tables.lr={job.tables.lr}, optimizer.schedule={job.optimizer.schedule}, "
            f"optimizer.warmup_steps={job.optimizer.warmup_steps}. Set tables.optimizer=sgd, tables.lr=1, optimizer.schedule=constant."
        )
    num_rows = contract.table_of(features[model.feature]).num_rows
    return (TableConfig(name=COUNTS, num_rows=num_rows, dim=job.tables.dim, features=(model.feature,), init_std=0.0),)


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
