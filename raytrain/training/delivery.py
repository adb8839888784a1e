"""From the mailbox actor to the driver's progress; a worker sends records and never waits for them."""

import contextlib
import threading

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrain.training.mailbox import Mailbox
from raytrain.training.progress import Progress
from raytrain.training.stopping import Watch

POLL_INTERVAL_S = 0.5


class Delivery:
    """Hands the records that come into ``mailbox`` to ``progress`` until ``close``.

    Args:
        watch: takes every validation record and says whether training goes on; the workers wait for its answer.
    """

    def __init__(self, progress: Progress, watch: Watch | None = None) -> None:
        # Beside the driver: on a node that is lost the records would be lost with it, those of the run's end too.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.mailbox = Mailbox.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
        self._progress = progress
        self._watch = watch
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True, name="delivery")
        self._thread.start()

    def close(self) -> None:
        """Takes the last records."""
        self._closing.set()
        self._thread.join()
        # A cluster that is gone must not hide why the run ended.
        with contextlib.suppress(RayError):
            self._drain()

    def _poll(self) -> None:
        while not self._closing.wait(POLL_INTERVAL_S):
            with contextlib.suppress(RayError):
                self._drain()
            self._progress.tick()

    def _drain(self) -> None:
        for record in ray.get(self.mailbox.take.remote()):
            self._progress.add(record)
            if self._watch is not None and record["kind"] == "valid":
                self.mailbox.answer.remote(record["step"], self._watch(record))
