"""Which rank holds which part of which table, and how many bytes that is: arithmetic, without torch.

The same plan sizes a cluster on paper and places the shards of a run. Tables are float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raytrain.embeddings.config import TableConfig
from raytrain.errors import TablesError
from raytrain.settings import nearest

FLOAT_BYTES = 4
MIB = 2**20
SHARDINGS = ("auto", "row_wise", "table_wise", "column_wise", "data_parallel")
OPTIMIZERS = ("rowwise_adagrad", "adagrad", "sgd")

# FBGEMM vectorises rows in groups of 4 floats.
_COLUMN_MULTIPLE = 4


@dataclass(frozen=True)
class PlannedShard:
    """A rectangle of a table on one rank."""

    rank: int
    first_row: int
    num_rows: int
    first_column: int
    num_columns: int


@dataclass(frozen=True)
class PlannedTable:
    """One table's shards."""

    table: str
    num_rows: int
    dim: int
    sharding: str
    """row_wise | table_wise | column_wise, or local"""
    optimizer: str
    """The kind that keeps state beside the weights; "frozen" keeps none."""
    num_ranks: int
    shards: tuple[PlannedShard, ...]

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks that hold a part, ascending."""
        return tuple(sorted({shard.rank for shard in self.shards}))

    @property
    def bytes_per_rank(self) -> tuple[int, ...]:
        """Weights and optimizer state on each of the R ranks, zeros included."""
        sizes = [0] * self.num_ranks
        for shard in self.shards:
            floats_per_row = shard.num_columns + _state_floats_per_row(self.optimizer, shard.num_columns)
            sizes[shard.rank] += FLOAT_BYTES * shard.num_rows * floats_per_row
        return tuple(sizes)

    @property
    def mib_per_rank(self) -> tuple[float, ...]:
        return tuple(size / MIB for size in self.bytes_per_rank)


def plan_tables(configs: Sequence[TableConfig], optimizer: str, num_ranks: int, sharding: str = "auto") -> tuple[PlannedTable, ...]:
    """Places tables on ranks; ``sharding`` and ``optimizer`` are the values of the ``tables`` section.

    row_wise gives each rank ceil(rows / R) consecutive rows, so the last rank may hold fewer (TorchRec's rule); a table so
    short that a rank would hold none stays whole. Whole tables (table_wise) and column blocks (column_wise) go, largest
    first, to the rank with the fewest floats of them (our choice); a table that goes beside another goes where that one does.

    Raises:
        TablesError: a name is unknown, or the tables cannot be sharded so.
    """
    if sharding not in SHARDINGS:
        raise TablesError(f"tables.sharding has to be a known one. Received: sharding={sharding}. {nearest(sharding, SHARDINGS)}")
    if optimizer not in OPTIMIZERS:
        raise TablesError(f"tables.optimizer has to be a known one. Received: optimizer={optimizer}. {nearest(optimizer, OPTIMIZERS)}")
    if sharding == "data_parallel":
        # TorchRec gives data-parallel tables a dense kernel and drops the fused optimizer: they would never move.
        raise TablesError(
            "tables.sharding has to keep the optimizer fused into backward, which TorchRec does for sharded tables only. "
            "Received: sharding=data_parallel. Set tables.sharding=auto."
        )
    if sharding == "auto":
        sharding = "row_wise" if num_ranks > 1 else "table_wise"
    for config in configs:
        _check_shape(config, optimizer, num_ranks, sharding)
    kinds = ["table_wise" if sharding == "row_wise" and _leaves_empty(config, num_ranks) else sharding for config in configs]
    apart = iter(_spread([config for config, kind in zip(configs, kinds, strict=True) if kind != "row_wise"], num_ranks, sharding))
    return tuple(
        PlannedTable(
            config.name,
            config.num_rows,
            config.dim,
            kind,
            _kept(config, optimizer),
            num_ranks,
            _row_shards(config, num_ranks) if kind == "row_wise" else next(apart),
        )
        for config, kind in zip(configs, kinds, strict=True)
    )


def whole_tables(configs: Sequence[TableConfig], optimizer: str) -> tuple[PlannedTable, ...]:
    """Every table whole on the one rank there is: the plan of ``LocalTables``."""
    return tuple(
        PlannedTable(
            config.name,
            config.num_rows,
            config.dim,
            "local",
            _kept(config, optimizer),
            1,
            (PlannedShard(0, 0, config.num_rows, 0, config.dim),),
        )
        for config in configs
    )


def column_block(dim: int, num_ranks: int) -> int:
    """Columns of a column_wise shard: the smallest block that divides ``dim``, is a multiple of 4 and gives at most R blocks."""
    least = -(-dim // num_ranks)
    return next((block for block in range(least, dim) if dim % block == 0 and block % _COLUMN_MULTIPLE == 0), dim)


def describe(plan: Sequence[PlannedTable]) -> str:
    """The plan as an aligned text table, with the sum over tables in its last line; MiB include optimizer state."""
    rows = [("table", "rows", "dim", "sharding", "on ranks", "MiB per rank")]
    for planned in plan:
        held = [planned.mib_per_rank[rank] for rank in planned.ranks]
        rows.append((planned.table, f"{planned.num_rows:,}", str(planned.dim), planned.sharding, _ranges(planned.ranks), _span(held)))
    totals = [sum(sizes) for sizes in zip(*(planned.mib_per_rank for planned in plan), strict=True)]
    ranks = _ranges(range(len(totals)))
    rows.append(("all", f"{sum(planned.num_rows for planned in plan):,}", "", "", ranks, _span(totals)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    numeric = {1, 2, 5}
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _kept(config: TableConfig, optimizer: str) -> str:
    return "frozen" if config.frozen else optimizer


def _state_floats_per_row(optimizer: str, num_columns: int) -> int:
    return {"rowwise_adagrad": 1, "adagrad": num_columns}.get(optimizer, 0)


def _check_shape(config: TableConfig, optimizer: str, num_ranks: int, sharding: str) -> None:
    if config.num_rows < 1 or config.dim < 1 or config.dim % _COLUMN_MULTIPLE:
        raise TablesError(
            f"Table {config.name} has to have a row, and dim a multiple of {_COLUMN_MULTIPLE}. "
            f"Received: num_rows={config.num_rows}, dim={config.dim}. Change it, or set tables.backend=local."
        )
    split = sharding == "column_wise" and column_block(config.dim, num_ranks) < config.dim
    if split and _kept(config, optimizer) == "rowwise_adagrad":
        # One state scalar per row and block would make R ranks learn otherwise than one rank.
        raise TablesError(
            "tables.sharding=column_wise has to keep whole rows with the row-wise optimizer. "
            f"Received: optimizer={optimizer}, {num_ranks} ranks. Set tables.sharding=row_wise or tables.optimizer=adagrad."
        )


def _leaves_empty(config: TableConfig, num_ranks: int) -> bool:
    """Whether the last rank would hold no row: FBGEMM takes tables of no rows at all for CUDA ones and fails."""
    block = -(-config.num_rows // num_ranks)
    return (num_ranks - 1) * block >= config.num_rows


def _row_shards(config: TableConfig, num_ranks: int) -> tuple[PlannedShard, ...]:
    block = -(-config.num_rows // num_ranks)
    firsts = range(0, config.num_rows, block)
    return tuple(PlannedShard(rank, first, min(block, config.num_rows - first), 0, config.dim) for rank, first in enumerate(firsts))


def _spread(configs: Sequence[TableConfig], num_ranks: int, sharding: str) -> list[tuple[PlannedShard, ...]]:
    blocks = [column_block(config.dim, num_ranks) if sharding == "column_wise" else config.dim for config in configs]
    index_of = {config.name: index for index, config in enumerate(configs)}
    leader = [index if config.beside is None else index_of[config.beside] for index, config in enumerate(configs)]
    pieces = [
        (config.num_rows * block * leader.count(index), index, first)
        for index, (config, block) in enumerate(zip(configs, blocks, strict=True))
        if leader[index] == index
        for first in range(0, config.dim, block)
    ]
    load = [0] * num_ranks
    shards: list[list[PlannedShard]] = [[] for _ in configs]
    for size, index, first in sorted(pieces, key=lambda piece: -piece[0]):
        rank = load.index(min(load))
        load[rank] += size
        shards[index].append(PlannedShard(rank, 0, configs[index].num_rows, first, blocks[index]))
    return [tuple(shards[index]) for index in leader]


def _ranges(ranks: Sequence[int]) -> str:
    """ "0-2,5" for 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and runs[-1][1] == rank - 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _span(values: Sequence[float]) -> str:
    low, high = f"{min(values, default=0.0):,.2f}", f"{max(values, default=0.0):,.2f}"
    return high if low == high else f"{low}-{high}"
