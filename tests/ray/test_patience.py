"""Workers that nobody starts are given up in time, however Ray's controller spends it."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from raytrain.errors import ResourceError
from raytrain.training import patience
from raytrain.training.patience import PatientTrainer, num_start_retries
from tests.messages import assert_three_parts

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_2_cpus")]


class Controller:
    """One that starts nothing while nodes are missing, as Ray's does for elastic workers, or that has workers at work."""

    def __init__(self, state: str, run_s: float, abort_s: float) -> None:
        self._state, self._run_s, self._abort_s = state, run_s, abort_s

    async def run(self) -> None:
        await asyncio.sleep(self._run_s)

    def get_state(self) -> SimpleNamespace:
        return SimpleNamespace(_state_type=SimpleNamespace(state_name=self._state))

    async def abort(self) -> None:
        await asyncio.sleep(self._abort_s)
        ray.actor.exit_actor()


def waited(state: str, run_s: float, said: list[str], abort_s: float = 0.0) -> None:
    trainer = object.__new__(PatientTrainer)
    trainer._limit_s, trainer._needs, trainer._say = 3.0, "2 workers", said.append
    controller: Any = ray.remote(num_cpus=0)(Controller).options(name="controller").remote(state, run_s, abort_s)
    trainer._wait(controller, controller.run.remote())


def test_elastic_workers_without_nodes_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SAY_EVERY_S", 1.0)
    said: list[str] = []
    began = time.monotonic()
    with pytest.raises(ResourceError) as error:
        waited("SCHEDULING", 600.0, said)
    assert time.monotonic() - began < 60
    assert_three_parts(error.value, "Received: 2 workers, and none for 3 s; 2 of the cluster's 2 CPUs are free", "scaling.start_limit_s")
    assert any("of at most 3; 2 of the cluster's 2 CPUs are free" in line for line in said)


def test_a_controller_that_does_not_answer_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "ABORT_LIMIT_S", 1.0)
    with pytest.raises(ResourceError):
        waited("SCHEDULING", 600.0, [], abort_s=600.0)
    ended = time.monotonic() + 30
    while "controller" in ray.util.list_named_actors():
        assert time.monotonic() < ended
        time.sleep(0.1)


def test_workers_at_work_may_take_their_time() -> None:
    said: list[str] = []
    waited("RUNNING", 8.0, said)
    assert said == []


@pytest.mark.parametrize(("limit_s", "each_s", "expected"), [(3600, None, 59), (60, None, 0), (1, None, 0), (8, "3", 2)])
def test_starts_are_counted_by_what_ray_gives_each(
    limit_s: float, each_s: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", raising=False)
    if each_s is not None:
        monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", each_s)
    assert num_start_retries(limit_s) == expected
