"""From a job and its contract to the streams it reads, every file checked on the driver."""

from dataclasses import replace

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.data.manifest import check_history_files, check_labels, read_manifest
from raytrain.data.stream import StreamSpec
from raytrain.errors import ConfigError, ContractError
from raytrain.settings import nearest


def training_specs(job: JobConfig, contract: Contract, histories: tuple[str, ...], quarantine_path: str) -> tuple[StreamSpec, ...]:
    """One stream per domain of a step, target first. Every stream lasts as long as the target's epochs.

    Raises:
        ConfigError, ContractError: what would otherwise stop a worker.
    """
    target = _spec(job, contract, contract.target, "train", histories, quarantine_path)
    target = target.lasting(range(job.training.epochs), job.training.max_steps)
    if not job.data.source_batch_size:
        return (target,)
    if len(contract.sources) != 1:
        raise ConfigError(
            f"data.source_batch_size needs a data set with one source domain. Received: {list(contract.sources)}. Set it to 0."
        )
    source = _spec(job, contract, contract.sources[0], "train", histories, quarantine_path, job.data.source_batch_size)
    num_epochs = -(-target.total_batches // source.plan.num_batches)
    return target, source.lasting(range(num_epochs), target.total_batches)


def scoring_spec(
    job: JobConfig,
    contract: Contract,
    domain: str,
    split: str,
    histories: tuple[str, ...],
    quarantine_path: str | None = None,
    labelled: bool = True,
) -> StreamSpec:
    """Every row of a split once, in file order; ``labelled`` rows that are to be measured have to hold both classes."""
    spec = _spec(job, contract, domain, split, histories, quarantine_path)
    if labelled:
        check_labels(contract, job.data.path, domain, split)
    return replace(spec, shuffle=False)


def check_histories(contract: Contract, histories: tuple[str, ...]) -> None:
    """Raises ContractError when a model wants a history that the data set has not."""
    for name in histories:
        if name not in contract.domains:
            raise ContractError(f"model.histories has to name domains of the data set. Received: {name}. {nearest(name, contract.domains)}")
        if contract.domains[name].history is None:
            raise ContractError(f"Domain {name} has to have a history. Received: none in contract.yaml. Prepare the data set with one.")


def check_features(contract: Contract, skipped: tuple[str, ...], queries_item: bool) -> None:
    """Raises ContractError when a feature to skip is unknown, none is left, or a model lacks the candidate item it queries."""
    names = [feature.name for feature in contract.features]
    for name in skipped:
        if name not in names:
            raise ContractError(f"model.skip_features has to name features of the data set. Received: {name}. {nearest(name, names)}")
    if not set(names) - set(skipped):
        raise ContractError(
            f"A model has to have a feature left. Received: features {names}, model.skip_features={list(skipped)}. Skip fewer."
        )
    if queries_item and (contract.item in skipped or contract.item not in names):
        raise ContractError(
            f"The model attends to histories with the candidate item, so {contract.item} has to be a feature. "
            f"Received: features {names}, model.skip_features={list(skipped)}. Add it, or skip it no longer."
        )


def _spec(
    job: JobConfig,
    contract: Contract,
    domain: str,
    split: str,
    histories: tuple[str, ...],
    quarantine_path: str | None,
    batch_size: int | None = None,
) -> StreamSpec:
    manifest = read_manifest(contract, job.data.path, domain, split)
    check_history_files(contract, job.data.path, histories, manifest)
    return StreamSpec(
        contract=contract,
        data=job.data,
        domain=domain,
        split=split,
        manifest=manifest,
        batch_size=batch_size or job.data.batch_size,
        histories=histories,
        shuffle=job.data.shuffle,
        seed=job.seed,
        quarantine_path=quarantine_path,
    )
