"""How long training waited for data."""

import time
from collections.abc import Iterable, Iterator

from raytrain.data.batch import Batch


class TimedStream:
    """Iterates and measures how long the consumer waited."""

    def __init__(self, stream: Iterable[Batch]) -> None:
        self._stream = stream
        self.wait_s = 0.0
        self._paused_s = 0.0
        self._start: float | None = None

    def __iter__(self) -> Iterator[Batch]:
        iterator = iter(self._stream)
        # The first batch pays for starting the data set, which is reported apart.
        first = next(iterator, None)
        self._start = time.perf_counter()
        if first is None:
            return
        yield first
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self.wait_s += time.perf_counter() - before
            if batch is None:
                return
            yield batch

    def pause(self, seconds: float) -> None:
        """Takes evaluation out of the training time."""
        self._paused_s += seconds

    @property
    def total_s(self) -> float:
        return 0.0 if self._start is None else time.perf_counter() - self._start - self._paused_s
