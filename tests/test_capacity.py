"""How many runs go on at one time."""

from pathlib import Path

import pytest

from raytrain.capacity import Capacity
from raytrain.errors import ResourceError
from raytrain.machine import GIB
from raytrain.resources import Needs
from tests.tuning.sweeps import plan_in

TWO_CPUS = Needs(num_workers=1, cpus_per_worker=1.0, num_streams=2, cpus_per_read_task=0.5)


@pytest.mark.parametrize(
    ("capacity", "expected"),
    [
        (Capacity(TWO_CPUS, 2.0, 0.0, 8 * GIB), 1),
        (Capacity(TWO_CPUS, 7.9, 0.0, 64 * GIB), 3),
        (Capacity(TWO_CPUS, 64.0, 0.0, 2 * GIB), 2),
        (Capacity(Needs(2, 1.0, 2, 0.5, num_gpus=2), 64.0, 5.0, 64 * GIB), 2),
        (Capacity(Needs(3, 0.1, 2, 0.1), 1.0, 0.0, 64 * GIB), 2),
        (Capacity.of_cluster(Needs(1, 5.0, 2, 0.5), [{"CPU": 8.0, "memory": 64.0 * GIB}] * 3), 3),
        (
            Capacity.of_cluster(
                Needs(2, 1.0, 2, 0.5, num_gpus=2), [{"CPU": 8.0, "GPU": 3.0, "memory": 9.0 * GIB}, {"CPU": 1.0, "GPU": 4.0}]
            ),
            2,
        ),
        (Capacity.of_cluster(Needs(1, 1.0, 2, 0.5), [{"CPU": 8.0, "memory": 4.0 * GIB}] * 3, memory_each=3 * GIB), 3),
        (Capacity.of_cluster(Needs(1, 2.0, 0, 0.0), [{"CPU": 8.0, "memory": 1.0 * GIB}, {"memory": 90.0 * GIB}]), 1),
    ],
    ids=[
        "just one",
        "CPUs",
        "memory for drivers",
        "GPUs",
        "a sum of floats",
        "a worker on a node",
        "GPUs without CPUs",
        "memory of a node",
        "memory where no CPUs are",
    ],
)
def test_the_scarcest_resource_decides(capacity: Capacity, expected: int) -> None:
    assert capacity.concurrency(None) == expected
    assert f"room for {expected} at one time" in capacity.arithmetic


def test_fewer_may_be_asked_for_and_more_are_refused_with_the_arithmetic() -> None:
    capacity = Capacity(TWO_CPUS, 8.0, 0.0, 64 * GIB)
    assert capacity.concurrency(2) == 2
    with pytest.raises(ResourceError, match=r"max_concurrent=5; .* = 2 CPUs a trial, 8 CPUs: room for 4 at one time. Set max_concurrent=4"):
        capacity.concurrency(5)


@pytest.mark.parametrize(
    ("capacity", "message"),
    [
        (Capacity(TWO_CPUS, 1.5, 0.0, 64 * GIB), r"= 2 CPUs, and there are 1.5. Set scaling.cpus_per_worker=0.5"),
        (Capacity(TWO_CPUS, 2.0, 0.0, GIB / 4), r"700.0 MiB a trial, 256.0 MiB of memory: room for 0 at one time. Free some"),
        (Capacity(Needs(2, 0.5, 2, 0.5, num_gpus=2), 8.0, 1.0, 64 * GIB), r"2 GPUs a trial, 1 GPUs: room for 0"),
    ],
    ids=["CPUs", "memory", "GPUs"],
)
def test_not_even_one_trial_is_refused_instead_of_waiting(capacity: Capacity, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        capacity.concurrency(None)


def test_the_largest_trial_of_the_space_is_counted(tmp_path: Path) -> None:
    space = {"scaling.num_workers": {"choice": [1, 3]}, "data.source_batch_size": {"choice": [0, 64]}}
    needs = plan_in(tmp_path, space=space).needs
    assert (needs.num_workers, needs.num_streams) == (3, 3)
    own = plan_in(tmp_path, "scaling.in_process=true", "scaling.threads_per_worker=3").needs
    assert own.arithmetic == "scaling.in_process=true with 3 thread(s) = 3 CPUs"
