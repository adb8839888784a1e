"""A quiet Ray for one job, and its progress lines."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.data

from raytrain.resources import cluster_address

_QUIET = ("ray", "ray.data")


@contextmanager
def ray_session(num_cpus: int | None) -> Iterator[float]:
    """Yields the number of CPUs of a Ray that runs already, or of a local one that is started and stopped here."""
    started = not ray.is_initialized()
    levels = {name: logging.getLogger(name).level for name in _QUIET}
    context = ray.data.DataContext.get_current()
    bars = context.enable_progress_bars
    try:
        if started:
            # A cluster has the CPUs it has; without an address Ray would join any that runs on this machine.
            address = cluster_address()
            own: dict[str, Any] = {} if address else {"num_cpus": num_cpus, "include_dashboard": False}
            ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
        for name in _QUIET:
            logging.getLogger(name).setLevel(logging.ERROR)
        context.enable_progress_bars = False
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield resources.get("CPU", 0.0)
    finally:
        context.enable_progress_bars = bars
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if started:
            ray.shutdown()


class Progress:
    """One line for each finished step with the seconds it took."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._start = self._last = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        self._say(f"[{now - self._last:6.1f} s] {what}")
        self._last = now

    def finish(self, what: str) -> None:
        """The last line, with the seconds since the start."""
        self._say(f"[{time.monotonic() - self._start:6.1f} s] in all: {what}")
