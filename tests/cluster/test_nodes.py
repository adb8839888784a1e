"""Where a job would run: this machine, or the cluster that is addressed."""

import json
from pathlib import Path

import pytest

from cluster import nodes
from cluster.apart import Outcome
from cluster.doctor import diagnose
from cluster.nodes import Node, Place, cluster_place, this_place
from raytrain.errors import ResourceError
from raytrain.machine import GIB, Gpu, Machine
from tests.cluster.facts import named, sound_facts, write_job
from tests.messages import assert_three_parts


def test_this_machine_gives_its_free_memory_a_third_of_it_to_the_store():
    place = this_place(Machine(8, 64 * GIB, 40 * GIB, (Gpu("a", 80 * GIB), Gpu("b", 40 * GIB))))
    assert place == Place((Node("this machine", 8, 40 * GIB, 12 * GIB, 2, 40 * GIB, starts_ray=True),))


def test_a_cluster_that_does_not_answer_is_a_failed_check(tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(nodes, "run_apart", lambda module, inputs, timeout_s: Outcome((), "was not done after 60 s", "no route to host"))
    with pytest.raises(ResourceError) as error:
        cluster_place()
    assert_three_parts(error.value, "RAY_ADDRESS=10.0.0.1:6379", "was not done after 60 s (no route to host)", "unset RAY_ADDRESS")
    checks = named(list(diagnose(write_job(tmp_path, dataset), (), sound_facts())))
    assert checks["cluster"].status == "fail"
    assert "CPUs" not in checks
    assert checks["tables"].status == "ok"


def test_a_job_is_held_against_the_cluster_and_not_against_this_machine(tmp_path: Path, dataset: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    answer = {"nodes": [vars(Node(f"10.0.0.{index}", 16, 32 * GIB, 9 * GIB)) for index in (1, 2)], "free_cpus": 30.0}
    monkeypatch.setattr(nodes, "run_apart", lambda module, inputs, timeout_s: Outcome((json.loads(json.dumps(answer)),), ""))
    config = write_job(tmp_path, dataset, scaling={"num_workers": 28}, run={"storage_path": "nowhere://runs"})
    checks = named(list(diagnose(config, (), sound_facts())))
    assert checks["cluster"].found == "10.0.0.1:6379: 2 nodes, 32 CPUs, 0 GPUs"
    assert (checks["CPUs"].status, checks["memory"].status) == ("ok", "ok")
    assert "16 worker(s) x (process" in checks["memory"].found
