"""Runs that one command begins and waits for, wherever they are trained. Torch-free."""

from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console

from raytrain.config import JobConfig

Train = Callable[[JobConfig, Console, bool], dict[str, Any]]
"""(job, console, whether to go on with a run of that name) -> result"""
Ended = tuple[str, dict[str, Any] | Exception]
"""Name of a run, and its result or what it failed with"""


class Runs(Protocol):
    """Runs that have been begun, and end in whatever order."""

    @property
    def room(self) -> int:
        """How many go on at one time."""
        ...

    def begin(self, name: str, job: JobConfig, resume: bool) -> None:
        """Begins a run, or goes on with it; there is room for it."""
        ...

    def next(self) -> Ended | None:
        """The next run that has ended; None where none has for a while, so that the caller may look around."""
        ...


class OwnProcess:
    """One run at a time, on the command's own screen."""

    room = 1

    def __init__(self, train: Train, console: Console) -> None:
        self._train, self._console = train, console
        self._begun: list[tuple[str, JobConfig, bool]] = []

    def begin(self, name: str, job: JobConfig, resume: bool) -> None:
        self._begun.append((name, job, resume))

    def next(self) -> Ended | None:
        name, job, resume = self._begun.pop(0)
        try:
            return name, self._train(job, self._console, resume)
        except Exception as err:  # Whatever it is, the caller decides what one run's failure costs.
            return name, err
