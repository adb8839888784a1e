"""Several runs of one command at one time, in processes of one Ray instance.

A process is used again for the next run: what takes seconds to load is loaded once.
"""

import io
import json
import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError
from rich.console import Console

from pipelines.runs import Ended
from raytrain.capacity import Capacity
from raytrain.config import JobConfig
from raytrain.errors import RaytrainError, ResourceError, RunError
from raytrain.footprint import process_bytes
from raytrain.resources import beside_others, largest, needs_beside_others
from raytrain.storage import masked
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
    """Runs in Ray actors. One that dies is started anew by Ray and goes on with its run, ``max_failures`` times a run."""

    def __init__(self, most: int, num_cpus: float, memory: int, max_failures: int, console: Console) -> None:
        """
        Args:
            most: processes that are asked for; runs are given to those that have started.
            num_cpus, memory: of a process; the workers of runs that do not train in it ask for theirs.
        """
        self._most, self._console = most, console
        self._actor = ray.remote(RunProcess).options(
            num_cpus=num_cpus,
            memory=memory,
            # A process serves many runs: what is bounded is how often one of them is begun again.
            max_restarts=-1,
            max_task_retries=max_failures,
            max_concurrency=2,
            runtime_env={"env_vars": {name: value for name, value in ALLOCATOR.items() if name not in os.environ}},
        )
        self._starting: dict[Any, Any] = {}
        """What says that it has started -> actor"""
        self._idle: list[Any] = []
        self._busy: list[_Busy] = []
        self._none_since = time.monotonic()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for actor in [*self._starting.values(), *self._idle, *(busy.actor for busy in self._busy)]:
            ray.kill(actor)
        self._starting, self._idle, self._busy = {}, [], []

    @property
    def room(self) -> int:
        """Processes that there are: on a cluster that others use too they may come one by one."""
        self._admit(0.0)
        return len(self._idle) + len(self._busy)

    def begin(self, name: str, job: JobConfig, resume: bool) -> None:
        actor = self._idle.pop(0)
        # Not ``resume``: a process that dies and is started anew has to find out by itself.
        self._busy.append(_Busy(actor, name, actor.train.remote(beside_others(job).model_dump(mode="json"))))

    def next(self) -> Ended | None:
        """Raises ResourceError where no process could be started in ``START_LIMIT_S``."""
        if not self._busy:
            self._admit(POLL_S)
            if not self._idle and time.monotonic() - self._none_since > START_LIMIT_S:
                raise ResourceError(
                    f"A process for runs has to start. Received: none in {START_LIMIT_S:.0f} s. The cluster is busy with others: "
                    "wait for them, or add nodes."
                )
            return None
        done, _ = ray.wait([busy.answer for busy in self._busy], timeout=POLL_S)
        for busy in self._busy:
            self._print_of(busy)
        if not done:
            return None
        ended = next(busy for busy in self._busy if busy.answer == done[0])
        self._busy.remove(ended)
        try:
            result, error, lines = ray.get(ended.answer)
        except RayError as err:
            # Too little memory, a node that is gone, one death too many: another process takes the next run. Should this one still be
            # at work, somewhere that is out of reach, it is to stop.
            ray.kill(ended.actor)
            self._start()
            return ended.name, RunError(f"A run has to outlive its process. Received: {masked(str(err)).strip()}")
        self._idle.append(ended.actor)
        self._print(ended, lines)
        return ended.name, RunError(error) if error else result

    def _start(self) -> None:
        """As many processes as are wanted and not there."""
        for _ in range(self._most - len(self._starting) - len(self._idle) - len(self._busy)):
            actor: Any = self._actor.remote()
            self._starting[actor.ready.remote()] = actor

    def _admit(self, wait_s: float) -> None:
        """Takes over what has started; waits for the first one."""
        if self._starting:
            started, _ = ray.wait(list(self._starting), num_returns=len(self._starting) if not wait_s else 1, timeout=wait_s)
            self._idle += [self._starting.pop(one) for one in started]
        if self._idle or self._busy:
            self._none_since = time.monotonic()

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
        except RayError:
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
        from raytrain.run import clear_half_begun, train

        job = JobConfig.parse(values, "pool")
        begun = clear_half_begun(job)
        try:
            result, error = train(job, Console(file=self._screen, width=200), resume=begun), ""  # type: ignore[arg-type]
        except RaytrainError as err:
            result, error = {}, masked(str(err))
        except Exception as err:  # Not every exception can be pickled.
            result, error = {}, masked(f"{type(err).__name__}: {err}")
        return result, error, self._screen.taken()

    def said(self) -> list[str]:
        return self._screen.taken()


def pool_of(jobs: Iterable[JobConfig], asked: int | None, most: int, what: str, console: Console) -> RunPool | None:
    """A pool for as many of ``jobs`` as have room on the cluster at one time; None where that is one.

    Args:
        asked: the most that the user wants.
        most: that can go on at one time at all.
        what: messages call a run.

    Raises:
        ResourceError: not even one fits, or fewer than are asked for.
    """
    kinds = {_kind(job): job for job in jobs}
    if asked == 1 or most <= 1 or not kinds:
        return None
    from raytrain.training.launch import connect, living_nodes

    quieten()
    needs = largest(needs_beside_others(job) for job in kinds.values())
    connect(needs, console)
    memory = max(process_bytes(job) for job in kinds.values())
    capacity = Capacity.of_cluster(needs, living_nodes(), what, memory)
    room = min(capacity.concurrency(asked), most)
    if room == 1:
        return None
    console.print(f"{room} {what}s at one time: {capacity.arithmetic}", markup=False, highlight=False)
    in_process = all(job.scaling.in_process for job in kinds.values())
    return RunPool(room, needs.total if in_process else 0.0, memory, max(job.scaling.max_failures for job in kinds.values()), console)


def _kind(job: JobConfig) -> str:
    """Jobs that differ in their days alone, and in what they start from, take the same."""
    kept = job.model_dump(mode="json", exclude={"run", "start", "seed"})
    kept["data"].pop("days")
    return json.dumps(kept, sort_keys=True)
