"""The pool against a Ray that starts, answers and loses processes when the test says so."""

from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError

from pipelines import run_pool
from pipelines.run_pool import RunPool
from raytrain.config import JobConfig
from raytrain.errors import ResourceError, RunError
from tests.pipelines.fake_rolls import printed, quiet

JOB = JobConfig.parse({"data": {"path": "data"}, "model": {"name": "dnn"}, "scaling": {"in_process": True}}, "test")


class Call:
    """A method of a process; every call is a promise that the test keeps."""

    def __init__(self, cluster: "FakeRay", actor: "Actor", name: str) -> None:
        self.cluster, self.actor, self.name = cluster, actor, name

    def remote(self, *arguments: Any) -> str:
        ref = f"{self.name} of {self.actor.number}"
        self.cluster.asked.append(ref)
        return ref


class Actor:
    def __init__(self, cluster: "FakeRay", number: int) -> None:
        self.number = number
        self.ready, self.train, self.said = (Call(cluster, self, name) for name in ("ready", "train", "said"))


class FakeRay:
    """Stands for the module ``ray``."""

    def __init__(self) -> None:
        self.actors: list[Actor] = []
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        self.killed: list[int] = []

    def remote(self, *arguments: Any) -> "FakeRay":
        if arguments:
            return self
        self.actors.append(Actor(self, len(self.actors)))
        return self.actors[-1]  # type: ignore[return-value]

    def options(self, **options: Any) -> "FakeRay":
        return self

    def wait(self, refs: list[str], num_returns: int = 1, timeout: float | None = None) -> tuple[list[str], list[str]]:
        done = [ref for ref in refs if ref in self.answers][:num_returns]
        return done, [ref for ref in refs if ref not in done]

    def get(self, ref: str) -> Any:
        found = self.answers.pop(ref)
        if isinstance(found, Exception):
            raise found
        return found

    def kill(self, actor: Actor) -> None:
        self.killed.append(actor.number)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr(run_pool, "ray", fake)
    return fake


def test_runs_go_to_processes_that_have_started(cluster: FakeRay) -> None:
    console = quiet()
    with RunPool(2, 1.0, 1, 3, console) as pool:
        assert pool.room == 0
        cluster.answers["ready of 1"] = 17
        assert pool.room == 1
        pool.begin("late", JOB, resume=False)
        assert "train of 1" in cluster.asked
        assert pool.next() is None
        cluster.answers |= {"said of 1": ["step 1"], "train of 1": ({"auc": 1.0}, "", ["wrote it"])}
        assert pool.next() == ("late", {"auc": 1.0})
        assert printed(console).splitlines() == ["late  step 1", "late  wrote it"]
        cluster.answers["ready of 0"] = 18
        assert pool.room == 2
    assert sorted(cluster.killed) == [0, 1]


@pytest.mark.parametrize("where", ["train", "said"])
def test_a_process_that_is_lost_costs_its_run_and_is_replaced(cluster: FakeRay, where: str) -> None:
    with RunPool(1, 1.0, 1, 3, quiet()) as pool:
        cluster.answers["ready of 0"] = 17
        assert pool.room == 1
        pool.begin("large", JOB, resume=False)
        cluster.answers[f"{where} of 0"] = OutOfMemoryError("too little memory at s3://me:hunter2@bucket")
        if where == "said":
            assert pool.next() is None, "what it said is not worth a run"
            cluster.answers["train of 0"] = ({}, "no reason", [])
            name, error = pool.next() or ("", {})
            assert (name, str(error), cluster.killed) == ("large", "no reason", [])
            return
        name, error = pool.next() or ("", {})
        assert name == "large"
        assert isinstance(error, RunError)
        assert "too little memory" in str(error)
        assert "hunter2" not in str(error)
        assert (cluster.killed, pool.room) == ([0], 0)
        cluster.answers["ready of 1"] = 18
        assert pool.room == 1


def test_a_pool_without_a_process_waits_for_a_while_and_says_so(cluster: FakeRay, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunPool(2, 1.0, 1, 3, quiet()) as pool:
        assert pool.next() is None
        monkeypatch.setattr(run_pool, "START_LIMIT_S", 0.0)
        with pytest.raises(ResourceError, match="none in 0 s"):
            pool.next()
