"""ShardedTables on 1, 2 and 3 ranks against LocalTables on one."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from raytrain.embeddings.local import LocalTables
from raytrain.embeddings.plan import plan_tables
from raytrain.embeddings.sharded import ShardedTables
from raytrain.embeddings.tables import TableConfig, TableOptimizer
from raytrain.errors import TablesError
from tests.distributed.ranks import run_ranks
from tests.embeddings.cases import (
    CONFIGS,
    FROZEN,
    PADDED_USER,
    PAIR,
    PAIRS,
    assemble,
    blended,
    global_batch,
    local_parts,
    row_loss,
    train_step,
)

KINDS = ("rowwise_adagrad", "adagrad", "sgd")
ALL = (*CONFIGS, FROZEN)
NUM_STEPS = 4


def optimizer(kind: str) -> TableOptimizer:
    return TableOptimizer(kind, 0.1, eps=1e-8)


def train(kinds: tuple[str, ...], sharding: str) -> dict[str, Any]:
    result = {}
    for kind in kinds:
        tables = ShardedTables(ALL, optimizer(kind), seed=5, sharding=sharding)
        initial = local_parts(tables.state_dict() | tables.frozen_state_dict())
        for step in range(NUM_STEPS):
            train_step(tables, step, dist.get_rank(), dist.get_world_size())
        trained = local_parts(tables.state_dict() | tables.frozen_state_dict())
        states = local_parts(tables.optimizer_state_dict())
        seen = tables.zero_untrained_rows() if kind != "sgd" else {}
        result[kind] = (initial, trained, states, seen, local_parts(tables.state_dict()))
    return result


@pytest.mark.parametrize(
    ("num_ranks", "sharding", "kinds"),
    [
        (1, "auto", KINDS),
        (2, "auto", KINDS),
        (3, "auto", KINDS),
        (1, "row_wise", ("rowwise_adagrad",)),
        (2, "table_wise", ("rowwise_adagrad",)),
        (2, "column_wise", ("adagrad",)),
    ],
    ids=["1 rank", "2 ranks", "3 ranks", "1 rank, row_wise", "2 ranks, table_wise", "2 ranks, column_wise"],
)
def test_any_number_of_ranks_trains_as_one(num_ranks: int, sharding: str, kinds: tuple[str, ...]) -> None:
    ranks = run_ranks(train, num_ranks, kinds, sharding)
    for kind in kinds:
        local = LocalTables(ALL, optimizer(kind), seed=5)
        initial = {key: value.clone() for key, value in (local.state_dict() | local.frozen_state_dict()).items()}
        for step in range(NUM_STEPS):
            train_step(local, step)
        starts, ends, states, seen, zeroed = zip(*(rank[kind] for rank in ranks), strict=True)
        got = assemble(list(starts), initial)
        assert all(torch.equal(got[key], initial[key]) for key in initial), "backends have to start bit-equal"
        trained = assemble(list(ends), initial)
        torch.testing.assert_close(trained, local.state_dict() | local.frozen_state_dict(), rtol=1e-5, atol=1e-6)
        states_of_local = local.optimizer_state_dict()
        torch.testing.assert_close(assemble(list(states), states_of_local), states_of_local, rtol=1e-4, atol=1e-7)
        # Rows of weight 0, rows never seen and frozen tables: the same bytes.
        assert torch.equal(trained["user.weight"][PADDED_USER], initial["user.weight"][PADDED_USER])
        assert torch.equal(trained["user.weight"][6:], initial["user.weight"][6:])
        assert torch.equal(trained["old_item.weight"], initial["old_item.weight"])
        if kind != "sgd":
            counts = local.zero_untrained_rows()
            assert {table: sum(of_rank.get(table, 0) for of_rank in seen) for table in counts} == counts
            torch.testing.assert_close(assemble(list(zeroed), local.state_dict()), local.state_dict(), rtol=1e-5, atol=1e-6)


def plans(kind: str, sharding: str) -> tuple[Any, str, int, int]:
    tables = ShardedTables(ALL, optimizer(kind), seed=0, sharding=sharding)
    weights = tables.state_dict() | tables.frozen_state_dict()
    states = [part for state in (weights, tables.optimizer_state_dict()) for part in local_parts(state).values()]
    return tables.planned(), tables.describe(), tables.num_bytes(), sum(values.nbytes for part in states for _, values in part)


@pytest.mark.parametrize(("kind", "sharding"), [("rowwise_adagrad", "row_wise"), ("adagrad", "table_wise"), ("sgd", "column_wise")])
def test_the_plan_on_paper_is_the_plan_that_runs(kind: str, sharding: str) -> None:
    paper = plan_tables(ALL, kind, 2, sharding)
    for rank, (actual, text, weight_bytes, held_bytes) in enumerate(run_ranks(plans, 2, kind, sharding)):
        assert actual == paper
        assert sum(planned.bytes_per_rank[rank] for planned in actual) == held_bytes
        assert weight_bytes <= held_bytes
        assert text.splitlines()[1].startswith("user")


def step_at_rates() -> list[float]:
    tables = ShardedTables(CONFIGS, optimizer("sgd"), seed=0)
    moved = []
    for rate in (0.1, 0.0, 0.2):
        before = local_parts(tables.state_dict())["item.weight"][0][1]
        tables.set_lr(rate)
        train_step(tables, 0, dist.get_rank(), dist.get_world_size())
        moved.append((local_parts(tables.state_dict())["item.weight"][0][1] - before).abs().max().item())
    batch = global_batch(0)
    assert not row_loss(tables.train(False)(batch), batch).requires_grad
    return moved


def test_set_lr_rules_the_next_backward_and_evaluation_takes_no_gradient() -> None:
    ((first, none, last),) = run_ranks(step_at_rates, 1)
    assert first > 0
    assert none == 0
    assert last > 0


TINY = (TableConfig("country", 2, 4, ("country",)), TableConfig("user", 41, 4, ("user",)))


def train_tiny(configs: tuple[TableConfig, ...]) -> Any:
    tables = ShardedTables(configs, optimizer("sgd"), seed=0, sharding="row_wise")
    batch = global_batch(0)
    batch.ids["country"].clamp_(max=1)
    embedded = tables(batch)
    sum(embedded[config.name].of(config.name).sum() for config in configs).backward()
    return local_parts(tables.state_dict())


@pytest.mark.parametrize("configs", [TINY[:1], TINY], ids=["alone", "beside a longer one"])
def test_a_table_of_fewer_rows_than_ranks_trains(configs: tuple[TableConfig, ...]) -> None:
    start = LocalTables(configs, optimizer("sgd"), seed=0).state_dict()
    whole = assemble(run_ranks(train_tiny, 3, configs), start)["country.weight"]
    # The 3 ranks each count every row once and are averaged, so row i moves by 0.1 times its number of rows.
    counts = torch.bincount(global_batch(0).ids["country"].clamp(max=1), minlength=2)
    torch.testing.assert_close(whole, start["country.weight"] - 0.1 * counts[:, None])


def state_of(tables: Any) -> dict[str, Any]:
    # DCP loads frozen tables where they are; what the loss makes of their rows shows that it did.
    parts = {"tables": tables.state_dict(), "frozen": tables.frozen_state_dict(), "table_optimizer": tables.optimizer_state_dict()}
    return {name: part for name, part in parts.items() if part}


def save(path: str) -> dict[str, Any]:
    result = {}
    for kind in KINDS:
        tables = ShardedTables(ALL, optimizer(kind), seed=5)
        train_step(tables, 0, dist.get_rank(), dist.get_world_size())
        dcp.save(state_of(tables), checkpoint_id=f"{path}/{kind}")
        train_step(tables, 1, dist.get_rank(), dist.get_world_size())
        result[kind] = local_parts(tables.state_dict())
    return result


def restore(tables: Any, path: str) -> None:
    state = state_of(tables)
    dcp.load(state, checkpoint_id=path)
    tables.load_state_dict(state["tables"])
    tables.load_optimizer_state_dict(state.get("table_optimizer", {}))


def load_and_step(path: str, sharding: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    result = {}
    for kind in kinds:
        tables = ShardedTables(ALL, optimizer(kind), seed=99, sharding=sharding)
        restore(tables, f"{path}/{kind}")
        train_step(tables, 1, dist.get_rank(), dist.get_world_size())
        result[kind] = local_parts(tables.state_dict())
    return result


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_of_two_ranks_goes_on_anywhere(tmp_path: Path) -> None:
    like = LocalTables(ALL, optimizer("sgd"), seed=5).state_dict()
    saved = run_ranks(save, 2, str(tmp_path))
    expected = {kind: assemble([rank[kind] for rank in saved], like) for kind in KINDS}
    for num_ranks, sharding in ((1, "auto"), (3, "auto"), (2, "table_wise")):
        loaded = run_ranks(load_and_step, num_ranks, str(tmp_path), sharding, KINDS)
        for kind in KINDS:
            torch.testing.assert_close(assemble([rank[kind] for rank in loaded], like), expected[kind], rtol=1e-5, atol=1e-6)
    for kind in KINDS:
        local = LocalTables(ALL, optimizer(kind), seed=99)
        restore(local, str(tmp_path / kind))
        train_step(local, 1)
        torch.testing.assert_close(local.state_dict(), expected[kind], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_sharded_tables_load_a_local_checkpoint(tmp_path: Path) -> None:
    kind = "rowwise_adagrad"
    local = LocalTables(ALL, optimizer(kind), seed=5)
    train_step(local, 0)
    dcp.save(state_of(local), checkpoint_id=str(tmp_path / kind))
    train_step(local, 1)
    loaded = run_ranks(load_and_step, 2, str(tmp_path), "auto", (kind,))
    torch.testing.assert_close(assemble([rank[kind] for rank in loaded], local.state_dict()), local.state_dict(), rtol=1e-5, atol=1e-6)


def load_in_memory(sharding: str, weights: dict[str, torch.Tensor], states: dict[str, torch.Tensor]) -> Any:
    tables, copy = (ShardedTables(ALL, optimizer("adagrad"), seed=seed, sharding=sharding) for seed in (0, 1))
    tables.load_state_dict(weights)
    tables.load_optimizer_state_dict(states)
    copy.load_state_dict(tables.state_dict())
    copy.load_optimizer_state_dict(tables.optimizer_state_dict())
    return local_parts(copy.state_dict()), local_parts(copy.optimizer_state_dict())


@pytest.mark.parametrize("sharding", ["row_wise", "table_wise"])
def test_whole_tensors_load_into_shards_and_shards_into_shards(sharding: str) -> None:
    local = LocalTables(ALL, optimizer("adagrad"), seed=5)
    train_step(local, 0)
    expected = local.state_dict(), local.optimizer_state_dict()
    for got, whole in zip(zip(*run_ranks(load_in_memory, 2, sharding, *expected), strict=True), expected, strict=True):
        torch.testing.assert_close(assemble(list(got), whole), whole, rtol=0, atol=0)


def test_without_a_process_group_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    # A test before this one may have left a group of one rank.
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: False)
    with pytest.raises(TablesError, match="init_process_group"):
        ShardedTables(CONFIGS, optimizer("sgd"), seed=0)


def build_without(module: str) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        del sys.modules[name]
    sys.modules[module] = None  # type: ignore[assignment]
    ShardedTables(CONFIGS, optimizer("sgd"), seed=0)


@pytest.mark.parametrize("module", ["torchrec", "fbgemm_gpu"])
def test_a_missing_backend_gives_the_commands_to_run(module: str) -> None:
    with pytest.raises(TablesError, match=r"pip install --no-deps torchrec==1.8.0 fbgemm-gpu-cpu==1.8.0"):
        run_ranks(build_without, 1, module)


QUIET = """
import torch.distributed as dist
from tests.embeddings.cases import CONFIGS, train_step
from raytrain.embeddings.sharded import ShardedTables
from raytrain.embeddings.tables import TableOptimizer
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
tables = ShardedTables(CONFIGS, TableOptimizer("rowwise_adagrad", 0.1), seed=0)
train_step(tables, 0)
tables.state_dict(), tables.optimizer_state_dict()
dist.destroy_process_group()
"""


def test_a_first_step_prints_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def train_and_blend(sharding: str) -> Any:
    tables = ShardedTables(PAIR, optimizer("adagrad"), seed=5, sharding=sharding)
    blended(tables, dist.get_rank(), dist.get_world_size())
    return tables.planned(), local_parts(tables.state_dict()), local_parts(tables.optimizer_state_dict())


@pytest.mark.parametrize(("num_ranks", "sharding"), [(1, "auto"), (3, "row_wise"), (2, "table_wise"), (2, "column_wise")])
def test_shards_are_blended_where_they_lie(num_ranks: int, sharding: str) -> None:
    local = LocalTables(PAIR, optimizer("adagrad"), seed=5)
    blended(local)
    plans, weights, states = zip(*run_ranks(train_and_blend, num_ranks, sharding), strict=True)
    assert plans[0] == plan_tables(PAIR, "adagrad", num_ranks, sharding)
    places = {planned.table: planned.shards for planned in plans[0]}
    assert all(places[vanilla] == places[gain] for vanilla, gain in PAIRS)
    torch.testing.assert_close(assemble(list(weights), local.state_dict()), local.state_dict(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(assemble(list(states), local.optimizer_state_dict()), local.optimizer_state_dict(), rtol=1e-5, atol=1e-6)


def blend_apart() -> None:
    tables = ShardedTables([PAIR[0], replace(PAIR[2], beside=None)], optimizer("sgd"), seed=5, sharding="table_wise")
    tables.blend([PAIRS[0]], 1.0)


def test_tables_placed_apart_are_not_blended() -> None:
    with pytest.raises(TablesError, match=r"Received: v/user and g/user, placed apart\. Declare one beside the other"):
        run_ranks(blend_apart, 2)
