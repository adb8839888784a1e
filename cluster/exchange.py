"""What travels between ranks in a step, as arithmetic on the tables' plan: ids out, vectors back, gradients out again.

``ShardedTables`` looks an id up once a step and rank, however many events use it. Shapes: N ids of a rank, U distinct ones,
D floats a vector, R ranks, P dense parameters.
"""

from dataclasses import dataclass
from math import expm1, log1p

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.embeddings.config import TableConfig
from raytrain.embeddings.plan import FLOAT_BYTES, PlannedTable
from raytrain.footprint import TENSOR_BYTES
from raytrain.model_config import LcnModel

CANDIDATE_BYTES = 2 * TENSOR_BYTES + 1
"""Beside the vector of one of LCN's candidates: its item, its user, and whether the user took it."""


@dataclass(frozen=True)
class DenseSize:
    """The network beside the tables, as torch builds it."""

    num_parameters: int
    """P"""
    num_tensors: int
    """That P are in."""
    buffer_bytes: int
    num_buffers: int


@dataclass(frozen=True)
class Exchange:
    """Bytes that a rank sends in a step, on average over the ranks."""

    num_ids: int
    """N, over all tables."""
    num_distinct: float
    """U, over all tables."""
    ids: float
    vectors: float
    gradients: float
    negatives: float
    """LCN's candidates for every other rank, and the sum of what all ranks say of them."""
    dense: float
    """Of a ring all-reduce of the dense gradients."""
    buffers: float
    """Of the network's running figures, which DDP takes from rank 0 before every forward pass."""

    @property
    def tables(self) -> float:
        return self.ids + self.vectors + self.gradients

    @property
    def total(self) -> float:
        return self.tables + self.negatives + self.dense + self.buffers


def exchange_of(
    job: JobConfig,
    contract: Contract,
    configs: tuple[TableConfig, ...],
    plan: tuple[PlannedTable, ...],
    rows_per_rank: int,
    dense: DenseSize,
) -> Exchange:
    """Every history at its longest, and ids as if drawn uniformly: any other draw has fewer distinct ones on average."""
    num_ranks = plan[0].num_ranks
    away = (num_ranks - 1) / num_ranks
    values = {feature.name: feature.max_values or 1 for feature in contract.features}
    total_ids, distinct, ids, vectors, gradients = 0, 0.0, 0.0, 0.0, 0.0
    for config, planned in zip(configs, plan, strict=True):
        num_ids = rows_per_rank * ids_per_row(job, contract, config, values)
        num_distinct = distinct_ids(num_ids, config.num_rows)
        # Each block of columns has to be told which rows are wanted.
        blocks = len({shard.first_column for shard in planned.shards})
        ids += away * num_distinct * blocks * TENSOR_BYTES
        vectors += away * num_distinct * config.dim * FLOAT_BYTES
        gradients += 0.0 if config.frozen else away * num_distinct * config.dim * FLOAT_BYTES
        total_ids, distinct = total_ids + num_ids, distinct + num_distinct
    return Exchange(
        num_ids=total_ids,
        num_distinct=distinct,
        ids=ids,
        vectors=vectors,
        gradients=gradients,
        negatives=_negatives(job, rows_per_rank, num_ranks),
        dense=2 * away * dense.num_parameters * FLOAT_BYTES,
        buffers=away * dense.buffer_bytes,
    )


def _negatives(job: JobConfig, rows_per_rank: int, num_ranks: int) -> float:
    """At most: both items of every pair to every rank, forward; a ring all-reduce of their vectors' gradients, backward."""
    if not isinstance(job.model, LcnModel) or not job.model.contrast.weight or job.model.contrast.negatives != "all_ranks":
        return 0.0
    section = job.model.contrast
    offered = rows_per_rank * (1 + section.target_events) * (1 + section.num_pairs)
    vector = job.model.aligned_dim * FLOAT_BYTES
    # A ring all-reduce of R parts sends 2 (R - 1) / R of all of them.
    return (num_ranks - 1) * offered * (vector + CANDIDATE_BYTES + 2 * vector)


def ids_per_row(job: JobConfig, contract: Contract, config: TableConfig, values: dict[str, int]) -> int:
    """Ids of one table that a sample looks up, padding included."""
    found = sum(values[name] for name in config.features)
    for name in config.histories:
        history = contract.domains[name].history
        assert history is not None, name
        found += min(job.data.history_length, history.max_events)
    return found


def distinct_ids(num_ids: int, num_rows: int) -> float:
    """Expected distinct ids of ``num_ids`` uniform draws from ``num_rows``: rows x (1 - (1 - 1 / rows) ** ids)."""
    return -num_rows * expm1(num_ids * log1p(-1 / num_rows)) if num_rows > 1 else min(1.0, num_ids)
