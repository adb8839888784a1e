"""Runs side by side in one Ray instance: the same figures as in the command's own process, and a process that dies costs no run."""

import os
import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml

from pipelines.roll import run_roll
from pipelines.run_pool import RunPool, pool_of
from raytrain.config import JobConfig
from raytrain.errors import ResourceError
from raytrain.storage import Storage
from tests.pipelines.fake_rolls import printed, quiet
from tests.ray.test_roll import build_rolled, rolled_values

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_2_cpus")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("pool") / "data"
    build_rolled(path)
    return str(path)


def predictions(output: Path) -> dict[str, Any]:
    """Name of a stage's file -> its rows."""
    return {str(file.relative_to(output)): pq.read_table(file) for file in sorted(output.glob("stages/*/predictions/test/*.parquet"))}


def test_a_roll_side_by_side_is_the_roll_one_after_the_other(data: str, tmp_path: Path) -> None:
    values = rolled_values(data, str(tmp_path / "roll"), in_process=True) | {"arms": {"without_cpm": ["calendar.cpm=null"]}}
    values["base"]["tables"]["backend"] = "local"
    file = tmp_path / "roll.yaml"
    file.write_text(yaml.safe_dump(values))
    console = quiet()
    result = run_roll(str(file), (), console)
    assert not result["failed"]
    assert "2 stages at one time: scaling.in_process=true with 1 thread(s) = 1 CPUs a stage, 2 CPUs" in printed(console)
    assert f"{result['stages'][0]['name']}  the model is the one of step" in printed(console)
    serial = run_roll(str(file), ("max_concurrent=1", f"output={tmp_path / 'serial'}"), quiet())
    assert serial["arms"]["full"]["days"] == result["arms"]["full"]["days"]
    ours, theirs = predictions(tmp_path / "roll"), predictions(tmp_path / "serial")
    assert len(ours) == 4
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equals(theirs[name]) for name in ours)


def tiny(data: str, output: Path, name: str) -> JobConfig:
    values = rolled_values(data, "unused")["base"]
    values |= {
        "model": {"name": "dnn", "hidden_units": [8]},
        "run": {"name": name, "storage_path": str(output)},
        "data": values["data"] | {"days": {"train": {"start": "2020-09-20", "stop": "2020-10-03"}}},
        "tables": {"dim": 8, "backend": "local"},
        "training": {"epochs": 40, "checkpoint_every_steps": 5},
        "scaling": {"in_process": True},
    }
    return JobConfig.parse(values, "test")


def ended_of(pool: RunPool) -> tuple[str, dict[str, Any] | Exception]:
    while (ended := pool.next()) is None:
        continue
    return ended


def test_a_run_whose_process_dies_goes_on_in_another(data: str, tmp_path: Path) -> None:
    console = quiet()
    jobs = [tiny(data, tmp_path, "one"), tiny(data, tmp_path, "two")]
    pool = pool_of(jobs, None, 2, "run", console)
    assert pool is not None
    with pool:
        while pool.room < len(jobs):
            assert pool.next() is None
        for job in jobs:
            pool.begin(str(job.run.name), job, resume=False)
        committed = Storage(str(tmp_path / "one/checkpoints/committed.json"))
        while not committed.exists(""):
            assert pool.next() is None
        os.kill(ray.get(pool._busy[0].actor.ready.remote()), signal.SIGKILL)
        results = dict(ended_of(pool) for _ in jobs)
    assert not [result for result in results.values() if isinstance(result, Exception)]
    assert len(results["one"]["starts"]) == 2, "it went on from a checkpoint"
    assert len(results["two"]["starts"]) == 1
    assert results["one"]["rows_trained"] == results["two"]["rows_trained"]


def test_a_run_that_fails_says_why_and_its_process_takes_the_next(data: str, tmp_path: Path) -> None:
    good = tiny(data, tmp_path, "good")
    run, nowhere = good.run.model_copy(update={"name": "bad"}), good.data.model_copy(update={"domain": "no"})
    bad = good.model_copy(update={"run": run, "data": nowhere})
    pool = pool_of([good, bad], None, 2, "run", quiet())
    assert pool is not None
    with pool:
        while not pool.room:
            assert pool.next() is None
        pool.begin("bad", bad, resume=False)
        name, error = ended_of(pool)
        assert name == "bad"
        assert isinstance(error, Exception)
        assert "Received: " in str(error)
        pool.begin("good", good, resume=False)
        assert isinstance(ended_of(pool)[1], dict)


def test_more_than_fits_is_refused_and_one_takes_no_pool(data: str, tmp_path: Path) -> None:
    jobs = [tiny(data, tmp_path, name) for name in "abc"]
    with pytest.raises(ResourceError, match=r"Runs at one time have to fit on the cluster. Received: max_concurrent=3"):
        pool_of(jobs, 3, 3, "run", quiet())
    assert pool_of(jobs, None, 1, "run", quiet()) is None
    assert pool_of(jobs, 1, 3, "run", quiet()) is None
