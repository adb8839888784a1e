"""`raytrain doctor`: what stands in the way of a run, found before it is started.

Arithmetic comes first, from config, contract and footers, and loads no torch. Then a process of its own loads torch and
FBGEMM and decodes a first batch: it is left out once the arithmetic has refused the job.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cluster.checks import Check, Part, attempt, from_error, has_failed
from cluster.data_checks import check_contract, check_splits, histories_of
from cluster.facts import Facts, read_facts
from cluster.fit import check_cores, check_memory, check_tables
from cluster.machine_checks import machine_checks
from cluster.nodes import Place, cluster_place, this_place
from cluster.probe_checks import num_dense, probe_checks, run_probe
from cluster.storage_checks import check_run_name, check_space, check_writable
from raytrain.config import JobConfig, load_config
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.errors import RaytrainError
from raytrain.footprint import footprint_of
from raytrain.machine import size
from raytrain.models.declared import DECLARED
from raytrain.resources import cluster_address
from raytrain.storage import masked


@dataclass
class _Known:
    """What earlier checks have found and later ones build on; null where they could not."""

    job: JobConfig | None = None
    place: Place | None = None
    contract: Contract | None = None

    @property
    def is_neural(self) -> bool:
        return self.job is not None and self.job.model.name in DECLARED

    @property
    def needs_fbgemm(self) -> bool:
        return self.job is None or (self.is_neural and self.job.tables.backend == "sharded")


def diagnose(config: str | None = None, overrides: Sequence[str] = (), facts: Facts | None = None) -> Iterator[Part]:
    """Looks at the machine and, given a config, at everything a run of it would need; yields each part when it is done.

    Args:
        facts: of the machine; null reads them.
    """
    facts, known = facts or read_facts(), _Known()
    failed = False
    for part in _arithmetic(config, overrides, facts, known):
        failed |= has_failed([part])
        yield _shown(part)
    if failed:
        left_out = "left out: torch, FBGEMM and a first batch take seconds, and what failed above comes first"
        yield Part("torch and data", (Check("probe", "warn", left_out, "Change what failed, and run this again."),))
    else:
        yield _shown(Part("torch and data", tuple(_probe(known, facts))))


def _shown(part: Part) -> Part:
    """Without credentials in URIs: a message repeats what it was given, be it an address, an override or what a storage answered."""
    return replace(part, checks=tuple(replace(check, found=masked(check.found), fix=masked(check.fix)) for check in part.checks))


def _arithmetic(config: str | None, overrides: Sequence[str], facts: Facts, known: _Known) -> Iterator[Part]:
    if config is not None:
        yield Part("job", tuple(_job_checks(config, overrides, facts, known)))
    yield Part("machine", machine_checks(facts, known.needs_fbgemm))
    if known.job is not None:
        yield Part("data set", tuple(_data_checks(known.job, known)))
        yield Part("memory and storage", tuple(_room_checks(known.job, facts, known)))


def _job_checks(config: str, overrides: Sequence[str], facts: Facts, known: _Known) -> Iterator[Check]:
    try:
        job = load_config(config, tuple(overrides))
    except RaytrainError as err:
        yield Check("config", "fail", str(err), "Change them all.") if "\n" in str(err) else from_error("config", str(err))
        return
    known.job = job
    yield Check("config", "ok", f"{config}: model {job.model.name}, data {job.data.path}, seed {job.seed}")
    if not known.is_neural:
        yield Check("CPUs", "ok", f"{job.model.name} is fitted in one process, without Ray")
        return
    try:
        known.place = this_place(facts.machine) if cluster_address() is None else cluster_place()
    except RaytrainError as err:
        yield from_error("cluster", str(err))
        return
    if cluster_address() is not None:
        place = known.place
        yield Check("cluster", "ok", f"{cluster_address()}: {len(place.nodes)} nodes, {place.num_cpus:g} CPUs, {place.num_gpus} GPUs")
    yield from check_cores(job, known.place)


def _data_checks(job: JobConfig, known: _Known) -> Iterator[Check]:
    try:
        known.contract = contract_of(job.data)
    except RaytrainError as err:
        yield from_error("contract", str(err))
        return
    yield check_contract(known.contract)
    try:
        histories = histories_of(job, known.contract)
    except RaytrainError as err:
        yield from_error("model", str(err))
        return
    yield from check_splits(job, known.contract, histories)


def _room_checks(job: JobConfig, facts: Facts, known: _Known) -> Iterator[Check]:
    contract = known.contract
    if known.is_neural and contract is not None:
        tables = attempt("tables", lambda: check_tables(job, contract))
        yield tables
        if tables.status == "ok":
            if known.place is not None:
                yield from check_memory(job, contract, known.place)
            yield attempt("checkpoints", lambda: check_space(job, footprint_of(job, contract, job.scaling.min_workers), facts.temporary))
    yield check_writable(job.run.storage_path)
    named = check_run_name(job)
    if named is not None:
        yield named


def _probe(known: _Known, facts: Facts) -> Iterator[Check]:
    """``known.job`` has its contract and its place here: nothing has failed."""
    job, contract, place = known.job, known.contract, known.place
    outcome = run_probe(job)
    yield from probe_checks(outcome, job, known.needs_fbgemm, facts.machine.memory_available)
    count = num_dense(outcome)
    if job is None or contract is None or place is None or not count:
        return
    footprint = footprint_of(job, contract, job.scaling.min_workers, count)
    dense = f"{count:,} parameters, {size(footprint.dense)} a worker with gradients and optimizer state"
    yield Check("dense network", "ok", f"{dense}; a checkpoint takes {size(footprint.checkpoint)}")
    # The same arithmetic as before, now that the dense network is counted; only news is worth a line.
    for check in (*check_memory(job, contract, place, count), check_space(job, footprint, facts.temporary)):
        if check.status != "ok":
            yield check
