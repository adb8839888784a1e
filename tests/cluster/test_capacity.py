"""A job's capacity, by hand and against the tables and files that training makes."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.capacity import Capacity
from cluster.measured import COSTS, TENSOR_FILE_BYTES, UPLOAD_BYTES_PER_S, WRITE_BYTES_PER_S
from cluster.plan import Plan, least_workers
from raytrain.config import JobConfig
from raytrain.data.contract import Table, load_contract
from raytrain.embeddings.config import TableOptimizer
from raytrain.embeddings.local import LocalTables
from raytrain.embeddings.sharded import ShardedTables
from raytrain.footprint import PROCESS_BYTES, RUN_BYTES
from raytrain.machine import GIB
from raytrain.models.declared import declared_histories, declared_tables
from raytrain.training.checkpoint import save_checkpoint
from raytrain.training.dense_size import dense_size
from raytrain.training.loop import build_learner
from raytrain.training.parallel import World
from tests.cluster.planned import CONTRACT, DENSE, capacity_of, job_for


def test_every_part_is_what_a_hand_counts():
    found = capacity_of(job_for())
    # Ranks hold ceil(rows / 2) rows of 16 + 1 floats: 101 + 501 + 4 + 10, and the last one 100 + 500 + 3 + 10.
    assert found.footprint.tables_per_rank == (616 * 68, 613 * 68)
    assert found.rows_per_rank == 50 + 30
    # Weights, Adam's two states, 80 bytes of buffers; 4 tables of 2 shards, each with its state; 4 tensors x (1 + 3), 2 buffers.
    assert (found.saved_dense, found.saved_tensors) == (1_000 * 4 * 3 + 80, 4 * 2 * 2 + 4 * 4 + 2)
    assert found.checkpoint == 1_229 * 68 + 12_080 + 34 * TENSOR_FILE_BYTES + found.cursor
    part = 616 * 68 + 12_080
    assert found.checkpoint_s == pytest.approx(part / WRITE_BYTES_PER_S + part / UPLOAD_BYTES_PER_S)
    store = -(-found.footprint.store // 2)
    valid = found.footprint.kept_validation
    model = found.footprint.model_per_rank
    assert found.worker == PROCESS_BYTES + valid + model + found.batch + part + found.footprint.window + store
    assert found.driver == RUN_BYTES + sum(stream.plan_bytes for stream in found.streams)


def test_speed_is_the_measured_cost_and_the_assumed_rest():
    found = capacity_of(job_for())
    cost = COSTS["din"]
    one = 1e6 / (cost.row + cost.event * 60 + cost.id * found.exchange.num_distinct / 80)
    assert found.events == 60
    assert found.samples_per_s_of_one == pytest.approx(one)
    assert found.step_s == pytest.approx(80 / (one * 0.8) + found.exchange.total / 1.25e9)
    assert found.samples_per_s == pytest.approx(160 / (80 / (one * 0.8) + found.exchange.total / 1.25e9))
    alone = capacity_of(job_for(), 1)
    assert alone.samples_per_s == pytest.approx(alone.samples_per_s_of_one)
    given_rate = replace(alone, assumed=replace(alone.assumed, samples_per_s=500.0))
    assert given_rate.samples_per_s == pytest.approx(500.0)


def test_what_nobody_has_measured_has_no_speed():
    found = capacity_of(job_for("twin"))
    assert (found.samples_per_s_of_one, found.step_s, found.samples_per_s) == (None, None, None)


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [
        *itertools.product(["lcn", "din", "dnn", "adsnet", "ecdctr", "tpm"], ["rowwise_adagrad"]),
        ("lcn", "adagrad"),
        ("ecdctr", "adagrad"),
        ("adsnet", "sgd"),
        ("counter", "sgd"),
    ],
)
@pytest.mark.parametrize("backend", ["local", "sharded"])
def test_tables_take_the_bytes_that_were_planned(model, optimizer, backend):
    counting = ("model.feature=user", "tables.lr=1.0") if model == "counter" else ()
    job = job_for(model, f"tables.optimizer={optimizer}", f"tables.backend={backend}", *counting)
    World.alone()
    configs, fused = declared_tables(job, CONTRACT), TableOptimizer(optimizer, 0.1)
    tables = LocalTables(configs, fused, 0) if backend == "local" else ShardedTables(configs, fused, 0)
    found = capacity_of(job, 1)
    saved = weights_of(tables.state_dict()) + weights_of(tables.optimizer_state_dict())
    frozen = weights_of(tables.frozen_state_dict())
    assert sum(found.saved_tables) == saved
    assert found.footprint.tables_per_rank == (saved + frozen,)
    assert (frozen > 0) == (model == "ecdctr")


def weights_of(state: dict[str, object]) -> int:
    """Bytes of plain tensors, or of this rank's shards."""
    parts = [[shard.tensor for shard in value.local_shards()] if hasattr(value, "local_shards") else [value] for value in state.values()]
    return sum(tensor.nbytes for part in parts for tensor in part)


@pytest.mark.parametrize(("model", "optimizer"), [("lcn", "adam"), ("din", "adagrad"), ("dnn", "sgd")])
def test_a_checkpoint_is_as_large_as_planned(dataset, tmp_path, model, optimizer):
    contract = load_contract(dataset)
    job = job_for(model, f"data.path={dataset}", f"optimizer.name={optimizer}", "data.source_batch_size=0")
    learner = build_learner(job, contract, World.alone())
    for parameter in learner.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner.optimizer.step()
    save_checkpoint(tmp_path, learner.tables, learner.network, learner.optimizer)
    planned = capacity_of(job, 1, dense_of(job, dataset))
    planned = replace(planned, size=replace(planned.size, contract=contract, trained={"target": planned.size.trained["ads"]}))
    tensors = [*learner.tables.state_dict().values(), *learner.tables.optimizer_state_dict().values()]
    tensors += [tensor for values in learner.optimizer.state_dict()["state"].values() for tensor in values.values()]
    tensors += learner.network.state_dict().values()
    assert planned.saved_tensors == len(tensors)
    on_disk = sum(file.stat().st_size for file in Path(tmp_path).iterdir())
    assert planned.checkpoint - planned.cursor == pytest.approx(on_disk, rel=0.1)


def dense_of(job: JobConfig, dataset: str):
    contract = load_contract(dataset)
    return replace(DENSE, **dense_size(build_learner(job, contract, World.alone()).network))


@given(
    rows=st.lists(st.integers(10_000, 10_000_000), min_size=1, max_size=4),
    num_workers=st.integers(1, 99),
    model=st.sampled_from(["lcn", "dnn", "adsnet", "ecdctr"]),
)
def test_more_workers_never_need_more_on_each(rows, num_workers, model):
    # Every table has more rows than the square of the workers, so that each rank gets some of it.
    tables = {name: Table(num_rows=rows[index % len(rows)]) for index, name in enumerate(CONTRACT.tables)}
    job = job_for(model, "training.keep_validation_mib=0")
    found = capacity_of(job, num_workers)
    fewer = replace(found, size=replace(found.size, contract=CONTRACT.model_copy(update={"tables": tables})))
    more = replace(fewer, num_workers=num_workers + 1)
    copy_of_gradients = 4 * DENSE.num_parameters if num_workers == 1 else 0
    assert max(more.footprint.tables_per_rank) <= max(fewer.footprint.tables_per_rank)
    assert more.rows_per_rank <= fewer.rows_per_rank
    assert (more.batch, more.footprint.activations) <= (fewer.batch, fewer.footprint.activations)
    assert more.worker <= fewer.worker + copy_of_gradients
    assert (more.driver, more.cursor) == (fewer.driver, fewer.cursor)
    assert max(more.saved_tables) <= max(fewer.saved_tables)


def test_a_table_too_short_for_all_ranks_stays_whole_on_one():
    # 7 countries: ceil(7 / 4) = 2 rows on each of four ranks, and all 7 on one of five.
    tables = {name: Table(num_rows=7) for name in CONTRACT.tables}
    found = capacity_of(job_for("dnn"), 4)
    found = replace(found, size=replace(found.size, contract=CONTRACT.model_copy(update={"tables": tables})))
    assert max(found.footprint.tables_per_rank) == 4 * 2 * 68
    assert max(replace(found, num_workers=5).footprint.tables_per_rank) == 7 * 68


def large(num_workers: int = 4) -> Capacity:
    """An item table of 10^8 rows: 6.8 GB with its state."""
    found = capacity_of(job_for("dnn"), num_workers)
    tables = {**CONTRACT.tables, "item": Table(num_rows=10**8)}
    return replace(found, size=replace(found.size, contract=CONTRACT.model_copy(update={"tables": tables})))


def test_the_least_number_of_workers_is_the_first_that_fits():
    found = large()
    least = least_workers(found, 3 * GIB)
    # 450 MiB of process and twice 6.33 GiB of tables, once to be saved: a fifth of these is 2.5 GiB, a fourth 3.2.
    assert least == 5
    assert replace(found, num_workers=5).worker <= 3 * GIB < replace(found, num_workers=4).worker
    assert Plan(replace(found, num_workers=5), 3 * GIB, least).fits
    assert not Plan(replace(found, num_workers=2), 3 * GIB, least).fits


@pytest.mark.parametrize(
    ("memory", "overrides"),
    [(2 * GIB, ()), (PROCESS_BYTES, ()), (3 * GIB, ("tables.backend=local",)), (3 * GIB, ("data.batch_size=2",))],
    ids=["the driver needs more", "a process needs more", "tables stay on one worker", "a batch of fewer rows than workers"],
)
def test_where_no_number_of_workers_fits_there_is_none(memory, overrides):
    found = large(1)
    job = job_for("dnn", *overrides)
    assert least_workers(replace(found, job=job), memory) is None


def test_gpus_keep_the_model_out_of_the_machines_memory():
    found = capacity_of(job_for("din", "scaling.use_gpu=true"))
    plain = capacity_of(job_for("din"))
    assert plain.worker - found.worker == plain.footprint.model_per_rank
    assert declared_histories(plain.job, CONTRACT) == ("ads", "feed")
