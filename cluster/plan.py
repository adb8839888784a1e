"""`raytrain plan`: what a job would take on a cluster that nobody has rented yet, and whether it fits.

No row is read and no worker is started: contract and footers, or a section ``synthetic`` in place of a data set. A process of
its own loads torch to count the dense network.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cluster.apart import run_apart
from cluster.capacity import Assumed, Capacity
from cluster.data_size import Sizes, read_plan, resized
from cluster.exchange import DenseSize
from cluster.measured import EFFICIENCY, NETWORK_BYTES_PER_S, UPLOAD_BYTES_PER_S, WRITE_BYTES_PER_S
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.errors import ConfigError, RunError
from raytrain.footprint import PROCESS_BYTES, footprint_of
from raytrain.machine import MIB
from raytrain.models.declared import DECLARED

PROBE = "raytrain.training.dense_size"
TIMEOUT_S = 300.0
MAX_WORKERS = 4096
"""As far as the least number that fits is looked for."""
ASSUMED = Assumed(EFFICIENCY, NETWORK_BYTES_PER_S, WRITE_BYTES_PER_S, UPLOAD_BYTES_PER_S)


@dataclass(frozen=True)
class Plan:
    """A capacity, held against the memory of a machine and of a GPU."""

    capacity: Capacity
    memory: int | None = None
    """Bytes of the machine of each worker, and of the driver's; null holds it against nothing."""
    least_workers: int | None = None
    """With which it fits into what is given; null where no number was found, or there is nothing to fit into."""
    gpu_memory: int | None = None
    """Bytes of each worker's GPU; null holds it against nothing."""

    @property
    def fits(self) -> bool:
        has_driver = self.memory is None or self.capacity.driver <= self.memory
        return has_driver and worker_fits(self.capacity, self.memory, self.gpu_memory)


def plan_job(
    config: str,
    overrides: Sequence[str] = (),
    num_workers: int | None = None,
    memory: int | None = None,
    sizes: Sizes | None = None,
    assumed: Assumed = ASSUMED,
    dense: DenseSize | None = None,
    gpu_memory: int | None = None,
) -> Plan:
    """Sizes the job of a config, as ``raytrain train`` or ``raytrain bench`` takes it.

    Args:
        num_workers: instead of scaling.num_workers, of which elastic jobs are planned at the most.
        memory: bytes of the machine of each worker.
        dense: of the network; null builds it, apart.
        gpu_memory: bytes of the GPU of each worker, of a job on GPUs.

    Raises:
        RaytrainError: config, data set or sizes are not right, the model is fitted in memory, or its network cannot be built.
    """
    job, size = read_plan(config, tuple(overrides))
    if job.model.name not in DECLARED:
        raise ConfigError(
            f"A plan is of models that train on workers. Received: model.name={job.model.name}, which is fitted in one process. "
            f"Choose one of: {', '.join(DECLARED)}."
        )
    if gpu_memory is not None and not job.scaling.use_gpu:
        raise ConfigError(
            "The memory of a GPU is of jobs that train on GPUs. Received: --gpu-memory, scaling.use_gpu=false. "
            "Set scaling.use_gpu=true, or leave --gpu-memory out."
        )
    asked = job.scaling.max_workers if num_workers is None else num_workers
    job = with_workers(job, asked)
    footprint_of(job, size.contract, asked)
    dense = dense or count_dense(job, size.contract)
    capacity = Capacity(job, resized(size, sizes or Sizes()), asked, dense, assumed)
    return Plan(capacity, memory, least_workers(capacity, memory, gpu_memory), gpu_memory)


def assumed_of(samples_per_s: float | None, efficiency: float | None, upload_mib_per_s: float | None) -> Assumed:
    """What the command line knows better."""
    return Assumed(
        efficiency=efficiency or ASSUMED.efficiency,
        network_bytes_per_s=ASSUMED.network_bytes_per_s,
        write_bytes_per_s=ASSUMED.write_bytes_per_s,
        upload_bytes_per_s=ASSUMED.upload_bytes_per_s if upload_mib_per_s is None else upload_mib_per_s * MIB,
        samples_per_s=samples_per_s,
    )


def with_workers(job: JobConfig, num_workers: int) -> JobConfig:
    """The job on exactly so many workers; raises ConfigError where that is no job."""
    values = job.model_dump(mode="json")
    return JobConfig.parse(values | {"scaling": values["scaling"] | {"num_workers": num_workers}}, "--workers")


def gpu_bytes(capacity: Capacity) -> int:
    """Of the GPU of one worker: the model where it computes, and the step that it is given."""
    return capacity.footprint.model_per_rank + capacity.batch + capacity.dense.buffer_bytes


def worker_fits(capacity: Capacity, memory: int | None, gpu_memory: int | None) -> bool:
    """Whether a worker fits into its machine and its GPU, of which null holds it against nothing."""
    return (memory is None or capacity.worker <= memory) and (gpu_memory is None or gpu_bytes(capacity) <= gpu_memory)


def least_workers(capacity: Capacity, memory: int | None, gpu_memory: int | None = None) -> int | None:
    """The smallest number of workers with which the job fits; None where there is none, or nothing to fit into.

    Looked for one by one: a table too short for all ranks is kept whole on one of them, so that more workers may need more.
    """
    if memory is None and gpu_memory is None:
        return None
    alone, room = replace(capacity, num_workers=1), gpu_memory
    if memory is not None:
        left = memory - PROCESS_BYTES - alone.footprint.window
        if capacity.driver > memory or left <= 0:
            return None
        room = gpu_memory if capacity.job.scaling.use_gpu else left
    # Fewer could not even hold their share of the tables.
    first = 1 if room is None else max(1, sum(alone.footprint.tables_per_rank) // room)
    last = 1 if capacity.job.tables.backend == "local" else min(MAX_WORKERS, capacity.job.data.batch_size)
    numbers = range(first, last + 1)
    return next((number for number in numbers if worker_fits(replace(capacity, num_workers=number), memory, gpu_memory)), None)


def count_dense(job: JobConfig, contract: Contract) -> DenseSize:
    """Builds the network where torch may be loaded.

    Raises:
        RunError: it cannot be built.
    """
    inputs = {"job.json": json.dumps(job.model_dump(mode="json")), "contract.json": json.dumps(contract.model_dump(mode="json"))}
    outcome = run_apart(PROBE, inputs, TIMEOUT_S)
    found = outcome.records[0] if outcome.records else {"error": f"the process {outcome.ended}: {outcome.last_words}"}
    if "error" in found:
        raise RunError(f"The dense network has to be built to be counted. Received: {found['error']}. Try `raytrain doctor` with this job.")
    return DenseSize(**found)
