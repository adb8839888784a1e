"""Several runs of one command at one time, in processes of one Ray instance.

A process is used again for the next run: what takes seconds to load is loaded once.
"""

import io
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayError
from rich.console import Console

from pipelines.runs import Ended
from raytrain.capacity import DRIVER_BYTES, Capacity
from raytrain.config import CONFIG_FILE, JobConfig
from raytrain.errors import RaytrainError, ResourceError, RunError
from raytrain.resources import beside_others, largest, needs_beside_others
from raytrain.storage import Storage, masked
from raytrain.training.process import ALLOCATOR, quieten

START_LIMIT_S = 300.0
"""For the first process of the pool to be there; the cluster may be busy with others."""
POLL_S = 1.0


@dataclass
class _Busy:
    """A process of the pool and the run that it works on."""

    actor: Any
    name: str
    answer: Any
    said: Any = None
    """A question what it says that has not been answered: a process that is being started takes its time."""


class RunPool:
    """Runs in Ray actors. One that dies is started anew by Ray and goes on with its run, ``scaling.max_failures`` times."""

    def __init__(self, room: int, num_cpus: float, max_failures: int, console: Console) -> None:
        """``num_cpus``: of a process, for runs that train in it; the workers of others ask for theirs."""
        self.room = room
        self._console = console
        self._actor = ray.remote(RunProcess).options(
            num_cpus=num_cpus,
            memory=DRIVER_BYTES,
            max_restarts=max_failures,
            max_task_retries=max_failures,
            max_concurrency=2,
            runtime_env={"env_vars": {name: value for name, value in ALLOCATOR.items() if name not in os.environ}},
        )
        self._idle: list[Any] = []
        self._busy: list[_Busy] = []

    def __enter__(self) -> Self:
        """Raises ResourceError where no process could be started in ``START_LIMIT_S``."""
        self._idle = [self._actor.remote() for _ in range(self.room)]
        ready, _ = ray.wait([actor.ready.remote() for actor in self._idle], timeout=START_LIMIT_S)
        if not ready:
            self.close()
            raise ResourceError(
                f"A process for runs has to start. Received: none in {START_LIMIT_S:.0f} s. The cluster is busy with others: "
                "wait for them, or add nodes."
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for actor in [*self._idle, *(busy.actor for busy in self._busy)]:
            ray.kill(actor)
        self._idle, self._busy = [], []

    def begin(self, name: str, job: JobConfig, resume: bool) -> None:
        actor: Any = self._idle.pop(0) if self._idle else self._actor.remote()
        self._busy.append(_Busy(actor, name, actor.train.remote(beside_others(job).model_dump(mode="json"))))

    def next(self) -> Ended | None:
        done, _ = ray.wait([busy.answer for busy in self._busy], timeout=POLL_S)
        for busy in self._busy:
            self._print_of(busy)
        if not done:
            return None
        ended = next(busy for busy in self._busy if busy.answer == done[0])
        self._busy.remove(ended)
        try:
            result, error, lines = ray.get(ended.answer)
        except RayActorError as err:
            # It was started anew as often as it may be: the next run gets another process.
            return ended.name, RunError(f"A run has to outlive its process. Received: one that died again and again. {masked(str(err))}")
        except RayError as err:
            self._idle.append(ended.actor)
            return ended.name, RunError(f"A run has to end. Received: {masked(str(err))}")
        self._idle.append(ended.actor)
        self._print(ended, lines)
        return ended.name, RunError(error) if error else result

    def _print_of(self, busy: _Busy) -> None:
        """What the run has said since."""
        if busy.said is None:
            busy.said = busy.actor.said.remote()
        done, _ = ray.wait([busy.said], timeout=0.0)
        if not done:
            return
        said, busy.said = busy.said, None
        try:
            self._print(busy, ray.get(said))
        except RayActorError:
            # It died: what it would have said is in its run's metrics.jsonl.
            return

    def _print(self, busy: _Busy, lines: list[str]) -> None:
        for line in lines:
            self._console.print(f"{busy.name}  {line}", markup=False, highlight=False)


@dataclass
class _Screen(io.TextIOBase):
    """Keeps whole lines until somebody asks for them."""

    lines: list[str] = field(default_factory=list)
    _part: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def write(self, text: str) -> int:
        with self._lock:
            *whole, self._part = (self._part + text).split("\n")
            self.lines += whole
        return len(text)

    def taken(self) -> list[str]:
        with self._lock:
            found, self.lines = self.lines, []
        return found


class RunProcess:
    """A Ray actor: trains one run after the other, in a thread beside the one that says how it goes."""

    def __init__(self) -> None:
        self._screen = _Screen()

    def ready(self) -> int:
        """Loads what a run takes; returns the process's id."""
        import raytrain.training.neural  # noqa: F401

        return os.getpid()

    def train(self, values: dict[str, Any]) -> tuple[dict[str, Any], str, list[str]]:
        """(result or {}, why it failed or "", what it said last). A run that was begun, perhaps by a process that died, is gone on with."""
        from raytrain.run import train

        job = JobConfig.parse(values, "pool")
        begun = Storage(Storage(job.run.storage_path).join(str(job.run.name))).exists(CONFIG_FILE)
        try:
            result, error = train(job, Console(file=self._screen, width=200), resume=begun), ""  # type: ignore[arg-type]
        except RaytrainError as err:
            result, error = {}, masked(str(err))
        except Exception as err:  # Not every exception can be pickled.
            result, error = {}, masked(f"{type(err).__name__}: {err}")
        return result, error, self._screen.taken()

    def said(self) -> list[str]:
        return self._screen.taken()


def pool_of(jobs: Iterable[JobConfig], asked: int | None, what: str, console: Console) -> RunPool | None:
    """A pool for as many of ``jobs`` as have room on the cluster at one time; None where that is one.

    Args:
        asked: the most that the user wants.
        what: what messages call a run.

    Raises:
        ResourceError: not even one fits, or fewer than are asked for.
    """
    wanted = list(jobs)
    if asked == 1 or len(wanted) <= 1:
        return None
    from raytrain.training.launch import connect

    quieten()
    needs = largest(needs_beside_others(job) for job in wanted)
    connect(needs, console)
    capacity = Capacity.of_cluster(needs, ray.cluster_resources(), what)  # type: ignore[no-untyped-call]
    room = min(capacity.concurrency(asked), len(wanted))
    if room == 1:
        return None
    console.print(f"{room} {what}s at one time: {capacity.arithmetic}", markup=False, highlight=False)
    num_cpus = needs.total if all(job.scaling.in_process for job in wanted) else 0.0
    return RunPool(room, num_cpus, max(job.scaling.max_failures for job in wanted), console)
