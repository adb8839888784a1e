"""The arithmetic of CPUs, and who is asked about it."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.config import JobConfig
from raytrain.errors import ResourceError
from raytrain.resources import Needs, cluster_address, is_alone, needs_of, num_training_streams
from raytrain.settings import with_overrides
from raytrain.training.launch import wait_for_nodes
from tests.messages import assert_three_parts


def job_for(*overrides: str) -> JobConfig:
    return JobConfig.parse(with_overrides({"data": {"path": "x"}, "model": {"name": "din"}}, overrides), "test")


def test_workers_and_streams_are_added_up():
    job = job_for("scaling.num_workers=3", "scaling.cpus_per_worker=0.5", "data.source_batch_size=8", "data.cpus_per_read_task=0.25")
    needs = needs_of(job, num_training_streams(job))
    # 3 x 0.5 + (target, source, validation) x 0.25
    assert needs.total == 2.25
    needs.check(2.25)
    with pytest.raises(ResourceError) as error:
        needs.check(2)
    assert_three_parts(
        error.value, "3 x scaling.cpus_per_worker=0.5 + 3 streams", "= 2.25 CPUs, and there are 2", "scaling.cpus_per_worker=0.41"
    )


def test_of_elastic_workers_the_fewest_have_to_fit():
    assert (
        needs_of(job_for("scaling.num_workers={min: 2, max: 9}", "scaling.use_gpu=true", "training.checkpoint_every_steps=9"), 1).num_gpus
        == 2
    )


def test_a_worker_is_on_one_node():
    needs = Needs(2, 10.0, 2, 0.5)
    with pytest.raises(ResourceError) as error:
        needs.check_nodes([{"CPU": 8.0}, {"CPU": 16.0}])
    assert_three_parts(
        error.value,
        "scaling.num_workers=2 x scaling.cpus_per_worker=10, and nodes of 8, 16 CPUs = 1 workers",
        "Set scaling.cpus_per_worker=8, or",
    )
    with pytest.raises(ResourceError, match=r"nodes of 8, 8 CPUs and 2, 0 GPUs = 2 workers. Set scaling.num_workers=2."):
        Needs(4, 1.0, 1, 0.5, num_gpus=4).check_nodes([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}, {"GPU": 4.0}])
    with pytest.raises(ResourceError, match=r"Set scaling.threads_per_worker=8 or less"):
        Needs(1, 12.0, 0, 0.0).check_nodes([{"CPU": 8.0}, {"CPU": 8.0}])
    needs.check_nodes([{"CPU": 12.0}, {"CPU": 12.0}])
    assert not Needs(2, 1.0, 0, 0.0, num_gpus=2).fits([{"CPU": 8.0, "GPU": 1.0}, {"CPU": 0.0, "GPU": 4.0}])


def test_sums_of_floats_are_no_over_ask():
    Needs(3, 0.1, 7, 0.1).check(1)


def test_gpus_are_one_a_worker():
    Needs(2, 1, 1, 0.5, num_gpus=2).check_gpus(2)
    with pytest.raises(ResourceError, match=r"scaling\.num_workers=2, and there are 1 GPUs"):
        Needs(2, 1, 1, 0.5, num_gpus=2).check_gpus(1)


@given(
    st.integers(1, 200),
    st.sampled_from([0.1, 0.25, 0.5, 1, 2, 3.5]),
    st.integers(1, 3),
    st.sampled_from([0.1, 0.25, 0.5, 1]),
    st.integers(1, 64),
)
def test_advice_that_is_followed_is_enough(num_workers, cpus_per_worker, num_streams, cpus_per_read_task, available):
    needs = Needs(num_workers, cpus_per_worker, num_streams, cpus_per_read_task)
    if needs.total <= available:
        return
    advice = needs.advice(available)
    smaller, fewer = re.search(r"cpus_per_worker=([\d.]+\d)", advice), re.search(r"num_workers=(\d+)", advice)
    if smaller:
        replace(needs, cpus_per_worker=float(smaller[1])).check(available)
    elif fewer:
        replace(needs, num_workers=int(fewer[1])).check(available)
    else:
        assert replace(needs, num_workers=1).total > available
        assert "data.cpus_per_read_task" in advice


def test_a_cluster_is_joined_only_by_its_address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert cluster_address() is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.2:6379")
    assert cluster_address() == "10.0.0.2:6379"
    assert not is_alone()


def test_a_cluster_that_grows_is_asked_once_and_the_request_is_taken_back():
    needs = needs_of(job_for("scaling.num_workers=2", "scaling.use_gpu=true", "scaling.wait_for_nodes_s=30"), 1)
    nodes = iter([[{"CPU": 1.0}], [{"CPU": 1.0}], [{"CPU": 1.0}, {"CPU": 3.0}], [{"CPU": 4.0, "GPU": 2.0}]])
    asked, said = [], []
    wait_for_nodes(needs, lambda: next(nodes), lambda bundles: asked.append(bundles), said.append, poll_s=0.001)
    assert asked == [[{"CPU": 1.0, "GPU": 1.0}] * 2 + [{"CPU": 0.5}] * 2, []]
    assert next(nodes, None) is None
    [line] = said
    assert line.startswith("waiting for nodes: the job needs scaling.num_workers=2 x scaling.cpus_per_worker=1 + 2 streams")
    assert line.endswith("= 3 CPUs and 2 GPUs, and there are 1 CPUs and 0 GPUs on 1 nodes; 30 s left")


def test_a_cluster_that_does_not_grow_is_given_up_and_one_that_is_large_enough_not_asked():
    needs, asked, said = Needs(4, 1.0, 1, 0.5, wait_s=0.3), [], []
    wait_for_nodes(needs, lambda: [{"CPU": 1.0}], lambda bundles: asked.append(len(bundles)), said.append, poll_s=0.005, say_every_s=0.1)
    assert asked == [5, 0]
    num_said = len(said)
    assert num_said in (2, 3), "at once, after 0.1 s and, unless the machine slept, after 0.2 s"
    wait_for_nodes(needs, lambda: [{"CPU": 8.0}], lambda bundles: asked.append(len(bundles)), said.append)
    assert asked == [5, 0]
    assert len(said) == num_said
