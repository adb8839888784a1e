"""What a job keeps, by hand; and what is refused before torch loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raytrain import footprint as module
from raytrain.config import JobConfig
from raytrain.data.contract import Contract, Domain, Feature, History, SideInformation, Split, Table
from raytrain.errors import ResourceError
from raytrain.footprint import PROCESS_BYTES, RUN_BYTES, check_tables, footprint_of, refuse_over_ask
from raytrain.machine import GIB, MIB, Gpu, Machine
from raytrain.settings import with_overrides
from tests.messages import assert_three_parts

SPLITS = {name: Split(path=name, num_rows=100, num_positives=50) for name in ("train", "valid", "test")}
HISTORY = History(
    path="h", table="item", side=(SideInformation(name="age", num_values=8, derived_from="age"),), num_events=1, num_users=1, max_events=30
)
CONTRACT = Contract(
    dataset="paper",
    content_hash="0",
    num_buckets=1,
    tables={"user": Table(num_rows=1000), "item": Table(num_rows=10_000_000), "tag": Table(num_rows=10)},
    features=(
        Feature(name="user", kind="id", table="user"),
        Feature(name="item", kind="id", table="item"),
        Feature(name="tags", kind="multi", table="tag", max_values=3),
    ),
    domains={"ads": Domain(role="target", splits=SPLITS, history=HISTORY), "feed": Domain(role="source", splits=SPLITS)},
)
SMALL = Machine(2, GIB // 2, GIB // 2)


def job_for(*overrides: str) -> JobConfig:
    values = {"data": {"path": "x", "batch_size": 100, "window_batches": 2, "history_length": 50}, "model": {"name": "din"}}
    return JobConfig.parse(with_overrides(values, overrides), "test")


def test_every_part_is_what_a_hand_counts():
    found = footprint_of(job_for("data.source_batch_size=60"), CONTRACT, 2, num_dense=1000)
    # Row-wise: 10 M, 1,000 and 10 rows x 17 floats, half of each on each rank.
    assert found.tables_per_rank == (10_001_010 // 2 * 68, 10_001_010 // 2 * 68)
    # 160 rows over two ranks, user + item + 3 tags + 30 events (the longest history is shorter than 50) x 16 floats x 8.
    assert found.activations == 80 * 35 * 16 * 4 * 8
    # Keys and provenance 40, 5 ids of 4 bytes, 30 events of an id and an age code.
    row = 40 + 5 * 4 + 30 * 5
    assert found.micro_batch == 80 * row
    assert found.window == 2 * (160 + 100) * row
    assert found.store == 2 * found.window + 2 * 4 * found.micro_batch
    # Weights, gradients, DDP's copy, Adam's two states; a checkpoint keeps weights and states.
    assert found.dense == 1000 * 4 * 5
    assert found.checkpoint == 10_001_010 * 68 + 1000 * 4 * 3
    assert found.model_per_rank == found.tables_per_rank[0] + found.activations + found.dense
    # 100 rows of validation, half on each rank, of 8 bytes a number; more than may be kept takes nothing.
    assert found.kept_validation == 2 * 50 * row
    assert footprint_of(job_for("training.keep_validation_mib=0"), CONTRACT, 2).kept_validation == 0
    # A checkpoint copies the fullest rank's tables and the network before it is written.
    a_worker = PROCESS_BYTES + found.kept_validation + found.tables_per_rank[0] + 1000 * 4 * 3
    assert (found.a_worker(use_gpu=False), found.a_worker(use_gpu=True)) == (a_worker + found.model_per_rank, a_worker)
    assert found.a_node(starts_ray=True) == found.a_node(starts_ray=False) + RUN_BYTES == found.window + found.store + RUN_BYTES


def test_local_tables_stand_whole_and_sgd_keeps_no_state():
    found = footprint_of(job_for("tables.backend=local", "tables.optimizer=sgd", "tables.dim=6", "optimizer.name=sgd"), CONTRACT, 1, 10)
    assert found.tables_per_rank == (10_001_010 * 24,)
    assert found.dense == 10 * 4 * 2


def test_tables_larger_than_the_machine_are_refused_with_the_arithmetic():
    # 10,001,010 rows x 17 x 4 bytes = 648.6 MiB over all ranks, which are all here.
    with pytest.raises(ResourceError) as error:
        check_tables(footprint_of(job_for(), CONTRACT, 4), SMALL, use_gpu=False)
    assert_three_parts(
        error.value,
        "item 10,000,000 rows x (16 + 1 state) x 4 bytes + user 1,000 rows x (16 + 1 state) x 4 bytes",
        "= 648.6 MiB, and this machine has 512.0 MiB",
        "Lower tables.dim",
    )
    check_tables(footprint_of(job_for("tables.dim=8"), CONTRACT, 4), SMALL, use_gpu=False)


def test_on_gpus_the_fullest_rank_counts():
    job = job_for("scaling.num_workers=2")
    check_tables(footprint_of(job, CONTRACT, 2), Machine(2, MIB, MIB, (Gpu("small", GIB // 2),)), use_gpu=True)
    with pytest.raises(ResourceError, match=r"324\.3 MiB of it on the fullest rank, and a GPU has 256\.0 MiB"):
        check_tables(footprint_of(job, CONTRACT, 2), Machine(2, GIB, GIB, (Gpu("small", GIB // 4),)), use_gpu=True)
    check_tables(footprint_of(job, CONTRACT, 2), Machine(2, MIB, MIB, (Gpu("untold", 0),)), use_gpu=True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("scaling.num_workers=40",), "scaling.num_workers=40 x"),
        (("scaling.use_gpu=true",), "Every worker needs a GPU"),
        ((), "Embedding tables have to fit into memory"),
    ],
    ids=["CPUs", "GPUs", "memory"],
)
def test_an_over_ask_of_anything_is_refused(monkeypatch, overrides, message):
    monkeypatch.setattr(module, "is_alone", lambda: True)
    monkeypatch.setattr(module, "this_machine", lambda: SMALL)
    with pytest.raises(ResourceError, match=message):
        refuse_over_ask(job_for(*overrides), CONTRACT)


def test_scoring_reads_one_stream(monkeypatch):
    monkeypatch.setattr(module, "is_alone", lambda: True)
    monkeypatch.setattr(module, "this_machine", lambda: Machine(2, GIB, GIB))
    refuse_over_ask(job_for("scaling.cpus_per_worker=1.5"), CONTRACT, training=False)
    with pytest.raises(ResourceError, match="2 streams"):
        refuse_over_ask(job_for("scaling.cpus_per_worker=1.5"), CONTRACT)


def test_a_cluster_decides_for_itself(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(module, "this_machine", lambda: SMALL)
    refuse_over_ask(job_for("scaling.num_workers=40"), CONTRACT)


def test_a_run_is_refused_before_torch_and_ray_are_loaded():
    code = "import sys, raytrain.run; assert not {'torch', 'ray', 'sklearn', 'matplotlib'} & set(sys.modules), set(sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
