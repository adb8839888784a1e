"""What a job keeps in memory and in a checkpoint, as arithmetic on config and contract. Torch-free.

Tables and checkpoints are exact. What a process and a step take is an estimate: a job that fits by a hair may yet fail.
Shapes: G rows of a global batch, R ranks, P dense parameters.
"""

from dataclasses import dataclass
from functools import cached_property

from raytrain.capacity import DRIVER_BYTES
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.embeddings.plan import FLOAT_BYTES, PlannedTable, plan_tables, whole_tables
from raytrain.errors import RaytrainError, ResourceError
from raytrain.machine import GIB, MIB, Machine, size, this_machine
from raytrain.models.baselines.declarations import num_contrasted
from raytrain.models.declared import DECLARED, declared_histories, declared_tables, reads_event_ages
from raytrain.resources import is_alone, needs_of, num_training_streams

PROCESS_BYTES = 450 * MIB
"""A worker besides its tables and batches: Python, torch, TorchRec and Ray, its share of shared pages counted."""
RUN_BYTES = 2 * GIB
"""The driver and Ray's own dozen processes on the machine that starts them; 2.3 GiB were seen beside one worker."""
ACTIVATION_COPIES = 8
"""Vectors a network keeps of every embedded id through forward and backward. 8.4 were seen with din at dim 16."""
TENSOR_BYTES = 8
"""Of an id or an event once it is a tensor."""
AGE_BYTES = 8
"""Of a history event, where a model asks for ages in seconds."""
PAIR_BYTES = 20
"""Of a number in a matrix of pairs x candidates: scores, weights, their gradients and masks. Seen: 734 MiB for 6,144 x 6,144."""
ROW_BYTES = 40
"""Keys, label and provenance of a sample."""
NUM_SHOWN_TABLES = 3
STATE_FLOATS = {"adam": 2, "adamw": 2, "adagrad": 1, "sgd": 0}
"""Of the dense optimizer, per parameter."""


@dataclass(frozen=True)
class Footprint:
    """Bytes at R workers."""

    num_workers: int
    tables: tuple[PlannedTable, ...]
    activations: int
    """Of one step on one rank."""
    micro_batch: int
    """One rank's rows of all training streams, as Arrow, every history at its longest."""
    window: int
    """What one read task of every stream holds at one time, validation included."""
    prefetch_batches: int
    num_dense: int = 0
    """P; 0 where nobody has counted: torch has to build the network for that."""
    dense_state_floats: int = 0
    kept_validation: int = 0
    """Of the validation split on one rank, 0 where it is streamed anew each time."""

    @cached_property
    def tables_per_rank(self) -> tuple[int, ...]:
        """[R], optimizer state included."""
        return tuple(sum(sizes) for sizes in zip(*(planned.bytes_per_rank for planned in self.tables), strict=True))

    @property
    def table_arithmetic(self) -> str:
        """The largest tables, rows x floats x bytes, and the sum of all."""
        largest = sorted(self.tables, key=lambda planned: -sum(planned.bytes_per_rank))
        parts = [_one_table(planned) for planned in largest[:NUM_SHOWN_TABLES]]
        if len(largest) > NUM_SHOWN_TABLES:
            parts.append(f"{len(largest) - NUM_SHOWN_TABLES} smaller ones")
        return f"{' + '.join(parts)} = {size(sum(self.tables_per_rank))}"

    @property
    def dense(self) -> int:
        """Weights, gradients, DDP's copy of the gradients above one rank, optimizer state."""
        return FLOAT_BYTES * self.num_dense * (2 + (self.num_workers > 1) + self.dense_state_floats)

    @property
    def model_per_rank(self) -> int:
        """What the fullest rank keeps where it computes: in its GPU's memory, or in the machine's."""
        return max(self.tables_per_rank) + self.dense + self.activations

    @property
    def store(self) -> int:
        """In Ray's object store: of every stream a window being served and one being made, and what workers have fetched ahead."""
        return 2 * self.window + self.num_workers * self.prefetch_batches * self.micro_batch

    @cached_property
    def saved_tables(self) -> tuple[int, ...]:
        """[R]: frozen tables are another run's, and are not saved again."""
        sizes = [planned.bytes_per_rank for planned in self.tables if planned.optimizer != "frozen"]
        return tuple(map(sum, zip(*sizes, strict=True))) or (0,) * self.num_workers

    @property
    def saved_dense(self) -> int:
        """The network with its optimizer, which one rank writes."""
        return FLOAT_BYTES * self.num_dense * (1 + self.dense_state_floats)

    @property
    def checkpoint(self) -> int:
        """Tables and dense network with their optimizers' state."""
        return sum(self.saved_tables) + self.saved_dense

    @property
    def snapshot(self) -> int:
        """What a checkpoint copies on the fullest rank while it is written: seen is 132 MiB, for a part of 131."""
        return max(self.saved_tables) + self.saved_dense

    def a_worker(self, use_gpu: bool) -> int:
        """In the memory of its machine, amid a checkpoint."""
        return PROCESS_BYTES + self.kept_validation + self.snapshot + (0 if use_gpu else self.model_per_rank)

    def a_node(self, starts_ray: bool) -> int:
        """On a machine besides its workers: a read task of every stream and the object store; Ray itself where it is started."""
        return self.window + self.store + (RUN_BYTES if starts_ray else 0)


def footprint_of(job: JobConfig, contract: Contract, num_workers: int, num_dense: int = 0) -> Footprint:
    """The footprint of a neural job.

    Raises:
        ContractError, TablesError: model and data set do not fit each other, or the tables cannot be sharded as asked.
    """
    histories = declared_histories(job, contract)
    configs = declared_tables(job, contract)
    if job.tables.backend == "local":
        tables = whole_tables(configs, job.tables.optimizer)
    else:
        tables = plan_tables(configs, job.tables.optimizer, num_workers, job.tables.sharding)
    events = {name: _longest(job, contract, name) for name in histories}
    values = {feature.name: feature.max_values or 1 for feature in contract.features}
    row_bytes = ROW_BYTES + FLOAT_BYTES * sum(values.values())
    for name, length in events.items():
        history = contract.domains[name].history
        assert history is not None, name
        row_bytes += length * (FLOAT_BYTES + len(history.side) + (AGE_BYTES if reads_event_ages(job) else 0))
    valid = contract.domains[contract.target].splits.get("valid")
    num_kept = TENSOR_BYTES // FLOAT_BYTES * row_bytes * -(-valid.num_rows // num_workers) if valid else 0
    trained = job.data.batch_size + job.data.source_batch_size
    rows_per_rank = -(-trained // num_workers)
    embedded = sum(values[feature] for config in configs for feature in config.features) + sum(events.values())
    return Footprint(
        num_workers=num_workers,
        tables=tables,
        activations=rows_per_rank * embedded * job.tables.dim * FLOAT_BYTES * ACTIVATION_COPIES
        + PAIR_BYTES * num_contrasted(job.model, rows_per_rank, trained),
        micro_batch=rows_per_rank * row_bytes,
        window=job.data.window_batches * (trained + job.data.batch_size) * row_bytes,
        prefetch_batches=job.data.prefetch_batches,
        kept_validation=num_kept if num_kept <= job.training.keep_validation_mib * MIB else 0,
        num_dense=num_dense,
        dense_state_floats=STATE_FLOATS[job.optimizer.name],
    )


def process_bytes(job: JobConfig, contract: Contract | None = None) -> int:
    """Memory that the process of a run asks Ray for: what a run that trains in it keeps there, or a driver's.

    contract: of its data; null reads it.
    """
    if not job.scaling.in_process or job.model.name not in DECLARED:
        return DRIVER_BYTES
    try:
        return DRIVER_BYTES + footprint_of(job, contract or contract_of(job.data), 1).model_per_rank
    except RaytrainError:
        # A run that cannot be, as on days that are missing, says so itself and costs no other.
        return DRIVER_BYTES


def refuse_over_ask(job: JobConfig, contract: Contract, training: bool = True) -> None:
    """Refuses what this machine alone can never run, before torch and Ray take their seconds to load.

    Where a cluster is addressed, or a Ray has been started, it decides, unless the run is in this process.

    Raises:
        ResourceError: too few CPUs or GPUs, or tables larger than the memory, with the arithmetic.
        ContractError, TablesError: as ``footprint_of``.
    """
    footprint = footprint_of(job, contract, job.scaling.min_workers)
    if not is_alone() and not job.scaling.in_process:
        return
    machine = this_machine()
    needs = needs_of(job, num_training_streams(job) if training else 0)
    needs.check(machine.num_cpus)
    needs.check_gpus(len(machine.gpus))
    check_tables(footprint, machine, job.scaling.use_gpu)


def check_tables(footprint: Footprint, machine: Machine, use_gpu: bool) -> None:
    """Raises ResourceError unless the tables of all ranks fit into the memory of one machine, or a rank's into its GPU."""
    if use_gpu:
        asked, there = max(footprint.tables_per_rank), min((gpu.memory for gpu in machine.gpus if gpu.memory), default=0)
        where = f"{size(asked)} of it on the fullest rank, and a GPU has {size(there)}"
    else:
        asked, there = sum(footprint.tables_per_rank), machine.memory
        where = f"and this machine has {size(there)}"
    if there and asked > there:
        raise ResourceError(
            f"Embedding tables have to fit into memory with their optimizer's state. Received: {footprint.table_arithmetic}, {where}. "
            "Lower tables.dim, hash ids to fewer rows, or run on a cluster with more workers."
        )


def _one_table(planned: PlannedTable) -> str:
    """ "item 1,000,000 rows x (16 + 1 state) x 4 bytes"."""
    floats = sum(planned.bytes_per_rank) // FLOAT_BYTES // planned.num_rows
    width = f"({planned.dim} + {floats - planned.dim} state)" if floats > planned.dim else f"{planned.dim}"
    return f"{planned.table} {planned.num_rows:,} rows x {width} x {FLOAT_BYTES} bytes"


def _longest(job: JobConfig, contract: Contract, domain: str) -> int:
    history = contract.domains[domain].history
    return min(job.data.history_length, history.max_events) if history else 0
