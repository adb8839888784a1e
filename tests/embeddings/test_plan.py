"""The table plan on paper: placements and bytes by hand."""

import subprocess
import sys

import pytest

from raytrain.embeddings.plan import column_block, describe, plan_tables
from raytrain.embeddings.tables import TableConfig
from raytrain.errors import TablesError

BIG = TableConfig("big", 10, 8)
SMALL = TableConfig("small", 4, 4)


def test_importing_the_plan_loads_no_torch() -> None:
    code = "import sys, raytrain.embeddings.plan; assert not {'torch', 'torchrec', 'ray'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [("rowwise_adagrad", (144, 144, 72)), ("adagrad", (256, 256, 128)), ("sgd", (128, 128, 64))],
    ids=["one scalar a row", "one state a weight", "no state"],
)
def test_row_wise_gives_ceil_rows_to_each_rank(optimizer: str, expected: tuple[int, ...]) -> None:
    # 10 rows on 3 ranks: 4, 4, 2 rows of 8 floats and their state.
    (planned,) = plan_tables([BIG], optimizer, 3)
    assert planned.sharding == "row_wise"
    assert planned.bytes_per_rank == expected


def test_a_table_too_short_to_give_every_rank_a_row_stays_whole() -> None:
    # Blocks of ceil(4 / 3) = 2 rows would leave rank 2 empty.
    big, small = plan_tables([BIG, SMALL], "sgd", 3, "row_wise")
    assert (big.sharding, big.ranks) == ("row_wise", (0, 1, 2))
    assert (small.sharding, small.ranks, small.bytes_per_rank) == ("table_wise", (0,), (64, 0, 0))


def test_auto_keeps_whole_tables_on_one_rank() -> None:
    (planned,) = plan_tables([BIG], "sgd", 1)
    assert (planned.sharding, planned.ranks) == ("table_wise", (0,))


def test_table_wise_fills_the_emptiest_rank_largest_table_first() -> None:
    plan = plan_tables([SMALL, BIG, TableConfig("middle", 5, 4)], "sgd", 2, "table_wise")
    assert {planned.table: planned.ranks for planned in plan} == {"small": (1,), "big": (0,), "middle": (1,)}


def test_column_wise_blocks_are_multiples_of_four() -> None:
    assert [column_block(dim, 2) for dim in (8, 16, 12, 4)] == [4, 8, 12, 4]
    (planned,) = plan_tables([BIG], "adagrad", 2, "column_wise")
    assert [(shard.rank, shard.first_column, shard.num_columns) for shard in planned.shards] == [(0, 0, 4), (1, 4, 4)]


def test_a_frozen_table_keeps_no_optimizer_state() -> None:
    (planned,) = plan_tables([TableConfig("old", 10, 8, frozen=True)], "adagrad", 1)
    assert planned.bytes_per_rank == (320,)


def test_a_billion_rows_on_64_workers() -> None:
    (planned,) = plan_tables([TableConfig("item", 10**9, 16)], "rowwise_adagrad", 64)
    # 64 GB of weights and 4 GB of state.
    assert planned.bytes_per_rank[0] == 1_062_500_000


def test_description_is_aligned_and_totals_the_ranks() -> None:
    tables = [TableConfig("item", 3 * 2**18, 4), TableConfig("user", 2**18, 4)]
    assert describe(plan_tables(tables, "sgd", 2, "table_wise")).splitlines() == [
        "table       rows  dim  sharding    on ranks  MiB per rank",
        "item     786,432    4  table_wise  0                12.00",
        "user     262,144    4  table_wise  1                 4.00",
        "all    1,048,576                   0-1         4.00-12.00",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([BIG], "sgd", 2, "row-wise"), "Did you mean row_wise?"),
        (([BIG], "adam", 2, "auto"), "optimizer=adam"),
        (([BIG], "sgd", 2, "data_parallel"), "fused into backward"),
        (([TableConfig("odd", 5, 6)], "sgd", 1, "auto"), "dim=6"),
        (([BIG], "rowwise_adagrad", 2, "column_wise"), "tables.sharding=row_wise"),
    ],
    ids=["misspelt sharding", "unknown optimizer", "data parallel", "dim FBGEMM cannot hold", "columns apart from their row state"],
)
def test_what_cannot_be_planned_says_what_to_change(arguments: tuple[list[TableConfig], str, int, str], message: str) -> None:
    with pytest.raises(TablesError, match=message.replace("?", r"\?")):
        plan_tables(*arguments)
