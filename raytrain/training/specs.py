"""From a job and its contract to the streams it reads, every file checked on the driver."""

from dataclasses import replace

from raytrain.adsnet_config import AdsnetModel
from raytrain.config import JobConfig
from raytrain.data.contract import PROBE, Contract
from raytrain.data.manifest import check_history_files, check_labels, read_manifest
from raytrain.data.stream import StreamSpec
from raytrain.errors import ConfigError, ContractError
from raytrain.ltv_config import CdafModel, LtvModel
from raytrain.models.adsnet.declarations import needs_probe
from raytrain.models.declared import reads_event_ages, reads_slices


def training_specs(job: JobConfig, contract: Contract, histories: tuple[str, ...], quarantine_path: str) -> tuple[StreamSpec, ...]:
    """One stream per domain of a step, target first. Every stream lasts as long as the target's epochs.

    Raises:
        ConfigError, ContractError: what would otherwise stop a worker.
    """
    target = _spec(job, contract, contract.target, "train", histories, quarantine_path)
    target = replace(target, event_ages=reads_event_ages(job))
    target = target.lasting(range(job.training.epochs), job.training.max_steps)
    _check_preparation(job, target.total_batches)
    if not job.data.source_batch_size:
        return (target,)
    if len(contract.sources) != 1:
        raise ConfigError(
            f"data.source_batch_size needs a data set with one source domain. Received: {list(contract.sources)}. Set it to 0."
        )
    source = _spec(job, contract, contract.sources[0], "train", histories, quarantine_path, job.data.source_batch_size)
    source = replace(source, event_ages=target.event_ages)
    num_epochs = -(-target.total_batches // source.plan.num_batches)
    return target, source.lasting(range(num_epochs), target.total_batches)


def _check_preparation(job: JobConfig, num_steps: int) -> None:
    """Raises ConfigError where every step would go to what comes before training proper."""
    if isinstance(job.model, AdsnetModel) and job.data.source_batch_size:
        falling = job.model.gain.falling_steps
        what = f"model.warmup_steps={job.model.warmup_steps}" + (f" + model.gain.tau_steps={falling}" if falling else "")
    elif isinstance(job.model, LtvModel | CdafModel):
        what = f"model.pretrain_steps={job.model.preparation_steps}"
    else:
        return
    if job.model.preparation_steps >= num_steps:
        raise ConfigError(
            f"Steps have to be left when preparation is over. Received: {what} of {num_steps} steps. Lower it, or raise training.epochs."
        )


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


def scored_specs(
    job: JobConfig, contract: Contract, histories: tuple[str, ...], quarantine_path: str
) -> tuple[StreamSpec | None, tuple[StreamSpec, ...]]:
    """(the validation split, what is scored when training is over).

    A data set that is kept by day has no validation split, and a day may have rows of one class alone: its AUC is undefined then.
    """
    if job.data.days is None:
        valid, test = (scoring_spec(job, contract, contract.target, split, histories, quarantine_path) for split in ("valid", "test"))
        return valid, (test,)
    if job.data.days.test is None:
        return None, ()
    return None, (scoring_spec(job, contract, contract.target, "test", histories, quarantine_path, labelled=False),)


def probe_spec(job: JobConfig, contract: Contract, quarantine_path: str | None) -> StreamSpec | None:
    """The target's rows held out of training, once; None for a model that measures no gain on them."""
    if not (isinstance(job.model, AdsnetModel) and needs_probe(job.model.gain) and job.data.source_batch_size):
        return None
    return _spec(job, contract, contract.target, PROBE, (), quarantine_path)


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
    slices = reads_slices(job)
    if slices and contract.slice is None:
        raise ContractError(
            f"{job.model.name} keeps gain by slice, so the data set has to name a slice column. Received: slice=null in contract.yaml. "
            "Prepare it with one."
        )
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
        # Amounts are measured by the size of the slice, whatever the model reads.
        slices=slices or (contract.amount is not None and contract.slice is not None),
    )
