"""A job against the place it would run on, by hand-computed numbers."""

import pytest

from cluster.checks import Check
from cluster.fit import check_cores, check_memory, check_tables
from cluster.nodes import Node, Place
from raytrain.config import JobConfig
from raytrain.data.contract import Contract, Domain, Feature, Split, Table
from raytrain.errors import TablesError
from raytrain.footprint import PROCESS_BYTES, RUN_BYTES
from raytrain.machine import GIB, MIB, Machine
from raytrain.settings import with_overrides

SPLITS = {name: Split(path=name, num_rows=100, num_positives=50) for name in ("train", "valid", "test")}
CONTRACT = Contract(
    dataset="paper",
    content_hash="0",
    num_buckets=1,
    tables={"user": Table(num_rows=10), "item": Table(num_rows=1_000_000)},
    features=(Feature(name="user", kind="id", table="user"), Feature(name="item", kind="id", table="item")),
    domains={"ads": Domain(role="target", splits=SPLITS)},
)


def job_for(*overrides: str) -> JobConfig:
    values = {"data": {"path": "x", "batch_size": 64, "window_batches": 1}, "model": {"name": "dnn", "skip_features": ["user"]}}
    return JobConfig.parse(with_overrides(values, overrides), "test")


def machine(num_cpus: float = 2, memory: int = 8 * GIB, num_gpus: int = 0, gpu_memory: int = 0) -> Place:
    return Place((Node("this machine", num_cpus, memory, memory // 3, num_gpus, gpu_memory, starts_ray=True),))


def cluster(*memories: int, num_cpus: float = 4, free_cpus: float | None = None) -> Place:
    return Place(tuple(Node(f"10.0.0.{index}", num_cpus, memory, memory // 3) for index, memory in enumerate(memories)), free_cpus)


def cores(place: Place, *overrides: str) -> dict[str, Check]:
    return {check.name: check for check in check_cores(job_for(*overrides), place)}


def memory(place: Place, *overrides: str, num_dense: int = 0) -> dict[str, Check]:
    return {check.name: check for check in check_memory(job_for(*overrides), CONTRACT, place, num_dense)}


def test_cpus_that_fit_are_shown_with_their_arithmetic():
    check = cores(machine())["CPUs"]
    assert (check.status, check.found) == (
        "ok", "scaling.num_workers=1 x scaling.cpus_per_worker=1 + 2 streams x data.cpus_per_read_task=0.5 = 2 CPUs, and there are 2"
    )  # fmt: skip


def test_a_source_stream_is_one_more_read_task():
    check = cores(machine(), "data.source_batch_size=32")["CPUs"]
    assert check.status == "fail"
    assert "3 streams x data.cpus_per_read_task=0.5 = 2.5 CPUs, and there are 2." in check.found
    assert check.fix == "Set scaling.cpus_per_worker=0.5, or fewer workers."


def test_forty_workers_on_two_cpus_are_told_how_many_fit():
    check = cores(machine(), "scaling.num_workers=40")["CPUs"]
    assert (check.status, check.fix) == ("fail", "Set scaling.num_workers=1.")


@pytest.mark.parametrize(
    ("num_cpus", "expected"),
    [(1, ("fail", "warn")), (2, ("ok", "warn")), (7, ("ok", "warn")), (8, ("ok", "ok"))],
    ids=["too few for one", "enough for one", "too few for four", "enough for four"],
)
def test_elastic_workers_need_room_for_the_fewest(num_cpus, expected):
    # Streams of elastic workers reserve nothing: Ray gives the workers every CPU that fits one.
    checks = cores(
        machine(num_cpus), "scaling.num_workers={min: 1, max: 4}", "scaling.cpus_per_worker=2", "training.checkpoint_every_steps=9"
    )
    assert (checks["CPUs at 1"].status, checks["CPUs at 4"].status) == expected


def test_a_worker_does_not_straddle_nodes():
    check = cores(cluster(GIB, GIB, num_cpus=4), "scaling.num_workers=2", "scaling.cpus_per_worker=3")["CPUs"]
    assert check.status == "ok"
    check = cores(cluster(GIB, GIB, GIB, num_cpus=2), "scaling.cpus_per_worker=3")["CPUs"]
    assert check.status == "fail"
    assert "nodes of at most 2 CPUs, where 0 such workers fit" in check.found


def test_cpus_that_other_jobs_hold_are_a_warning():
    check = cores(cluster(GIB, GIB, num_cpus=4, free_cpus=1.5))["CPUs"]
    assert (check.status, check.fix) == ("warn", "The run waits until other jobs end.")
    assert "there are 8, 1.5 of them free now" in check.found


def test_every_worker_needs_a_gpu():
    both = ("scaling.use_gpu=true", "scaling.num_workers=2", "scaling.cpus_per_worker=0.5")
    assert cores(machine(num_gpus=2), *both)["GPUs"].status == "ok"
    check = cores(machine(num_gpus=1), *both)["GPUs"]
    assert check.status == "fail"
    assert "scaling.num_workers=2, and there are 1 GPUs" in check.found


def test_tables_are_counted_with_their_state():
    # 1,000,000 rows x (16 + 1) floats x 4 bytes = 68 MB = 64.8 MiB, half of it on each of two ranks.
    check = check_tables(job_for("scaling.num_workers=2"), CONTRACT)
    assert check.found == "item 1,000,000 rows x (16 + 1 state) x 4 bytes = 64.8 MiB: 32.4 MiB on the fullest of 2 rank(s)"
    with pytest.raises(TablesError):
        check_tables(job_for("tables.dim=6"), CONTRACT)


def test_memory_is_processes_tables_vectors_and_reading():
    # Vectors: 64 rows x 1 id x 16 x 4 bytes x 8 = 32 KiB.
    # A row: 40 bytes and two ids = 48; the window: 1 x (64 + 64) rows = 6 KiB; the store: 2 windows + 4 x 64 rows = 24 KiB.
    tables = 1_000_000 * 17 * 4
    # Validation rows are kept as tensors of twice the size: 100 x 96 bytes = 9.4 KiB.
    # While a checkpoint is written there are the tables once more.
    need = PROCESS_BYTES + 2 * tables + 32 * 1024 + 9600 + 6 * 1024 + 24 * 1024 + RUN_BYTES
    assert memory(machine(memory=need))["memory"].status == "ok"
    check = memory(machine(memory=need - 1))["memory"]
    assert check.status == "fail"
    worker = "process 450.0 MiB + tables 64.8 MiB + a step's vectors 32.0 KiB + kept validation rows 9.4 KiB + a checkpoint's copy 64.8 MiB"
    assert f"1 worker(s) x ({worker})" in check.found
    assert "read tasks 6.0 KiB + object store 24.0 KiB + driver and Ray 2.0 GiB = 2.6 GiB, and this machine has 2.6 GiB" in check.found


def test_the_dense_network_is_counted_once_it_is_known():
    # 100 M parameters with gradients and Adam's two states: 100 M x 4 x 4 bytes = 1.5 GiB.
    check = memory(machine(memory=7 * GIB // 2), num_dense=100_000_000)["memory"]
    assert check.status == "fail"
    assert "dense network 1.5 GiB" in check.found


def test_too_few_cpus_are_no_lack_of_memory():
    assert memory(machine(), "scaling.num_workers=5")["memory"].status == "ok"


def test_elastic_workers_are_counted_at_both_ends():
    checks = memory(
        machine(memory=4 * GIB), "scaling.num_workers={min: 1, max: 8}", "scaling.cpus_per_worker=0.1", "training.checkpoint_every_steps=9"
    )
    assert (checks["memory at 1"].status, checks["memory at 8"].status) == ("ok", "warn")


def test_workers_that_pack_a_small_node_are_a_warning_while_others_have_room():
    two = ("scaling.num_workers=2",)
    assert memory(cluster(2 * GIB, 2 * GIB), *two)["memory"].status == "ok"
    check = memory(cluster(3 * GIB // 4, 2 * GIB), *two)["memory"]
    assert (check.status, check.fix) == ("warn", "Raise scaling.cpus_per_worker, so that fewer workers share a node.")
    assert "10.0.0.0 has 768.0 MiB" in check.found
    assert memory(cluster(GIB // 4, GIB // 4), *two)["memory"].status == "fail"


def test_on_gpus_tables_lie_in_gpu_memory():
    gpu = ("scaling.use_gpu=true",)
    checks = memory(machine(num_gpus=1, gpu_memory=GIB), *gpu)
    assert checks["GPU memory"].status == "ok"
    assert "tables" not in checks["memory"].found
    check = memory(machine(num_gpus=1, gpu_memory=64 * MIB), *gpu)["GPU memory"]
    assert check.status == "fail"
    assert "tables 64.8 MiB + a step's vectors 32.0 KiB = 64.9 MiB, and a GPU has 64.0 MiB" in check.found
    assert memory(machine(num_gpus=1), *gpu)["GPU memory"].found.endswith("how much a GPU has is not known")


def test_windows_larger_than_the_object_store_are_a_warning():
    # 100,000 batches x 128 rows x 48 bytes = 586 MiB a window.
    check = memory(machine(memory=3 * GIB), "data.window_batches=100000")["object store"]
    assert check.status == "warn"
    assert "2 windows of 585.9 MiB" in check.found
    assert memory(machine())["object store"].status == "ok"


def test_a_run_in_process_is_held_to_this_machine_without_ray(monkeypatch):
    monkeypatch.setattr("cluster.fit.this_machine", lambda: Machine(2.0, 8 * GIB, 2 * GIB))
    options = ("scaling.in_process=true", "tables.backend=local")
    far = cluster(64 * GIB)
    assert cores(far, *options)["CPUs"].found == "one worker in this process, and there are 2"
    check = memory(far, *options)["memory"]
    assert check.status == "ok"
    assert "object store" not in check.found
    assert "Ray" not in check.found
    check = memory(far, *options, "tables.dim=512")["memory"]
    assert check.status == "fail"
    assert "and this machine has 2.0 GiB available" in check.found
