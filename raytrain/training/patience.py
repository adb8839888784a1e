"""A TorchTrainer that does not wait for its workers without end, and says that it waits.

Ray's own starts a group that finds no room again and again, and of elastic workers starts none while the fewest have no room: both for
ever, and in silence.
"""

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.constants import (
    DEFAULT_WORKER_GROUP_START_TIMEOUT_S,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
    get_env_vars_to_propagate,
)
from ray.train.v2._internal.execution.controller import TrainController

from raytrain.errors import ResourceError

WAITING = ("INITIALIZING", "SCHEDULING", "RESCHEDULING", "RESTARTING", "RESIZING")
"""States of Ray Train's controller in which no workers are at work, and none are being ended."""
POLL_S = 1.0
SAY_EVERY_S = 60.0
ABORT_LIMIT_S = 60.0


def num_start_retries(limit_s: float) -> int:
    """Starts after the first one, each of which Ray gives up after a minute."""
    each_s = float(os.environ.get(WORKER_GROUP_START_TIMEOUT_S_ENV_VAR, DEFAULT_WORKER_GROUP_START_TIMEOUT_S))
    return max(0, math.ceil(limit_s / each_s) - 1)


class PatientTrainer(TorchTrainer):
    """Fails where workers have been waited for ``limit_s`` seconds: on end while elastic ones lack nodes; where starts fail, in all.

    Raises (of ``fit``):
        ResourceError: they have.
    """

    def __init__(self, *args: Any, limit_s: float, needs: str, say: Callable[[str], None], **options: Any) -> None:
        """
        Args:
            needs: what the workers take, in words.
            say: gets a line each minute of a wait.
        """
        super().__init__(*args, **options)
        self._limit_s, self._needs, self._say = limit_s, needs, say

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        """As Ray Train 2.60 does it, which keeps the controller's handle to itself."""
        here = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}  # type: ignore[attr-defined]
        environment = {"RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0", **get_env_vars_to_propagate()}
        kind = ray.remote(num_cpus=0, label_selector=here, runtime_env={"env_vars": environment})(TrainController)
        controller: Any = kind.remote(**options)
        if threading.current_thread() is threading.main_thread():
            self._register_sigint_handler(controller)  # type: ignore[attr-defined]
        run = controller.run.remote()
        self._wait(controller, run)
        ray.get(run)
        result: Result = ray.get(controller.get_result.remote())
        return result

    def _wait(self, controller: Any, run: Any) -> None:
        """A controller that tries to start workers answers nothing and ends by itself after ``num_start_retries``; any other answers."""
        since = said = time.monotonic()
        asked, state = None, WAITING[0]
        while not ray.wait([run], timeout=POLL_S)[0]:
            asked = asked or controller.get_state.remote()
            has_answered = bool(ray.wait([asked], timeout=0)[0])
            if has_answered:
                with contextlib.suppress(RayActorError):
                    state = ray.get(asked)._state_type.state_name
                asked = None
            now = time.monotonic()
            if state not in WAITING:
                since = said = now
            elif has_answered and now - since > self._limit_s:
                self._give_up(controller)
            elif now - said > SAY_EVERY_S:
                said = now
                self._say(f"no workers after {now - since:.0f} s of at most {self._limit_s:g}; {_free_cpus()}")

    def _give_up(self, controller: Any) -> None:
        # An abort ends by the controller's end; one that is not answered must not leave it behind with what it holds.
        with contextlib.suppress(RayError):
            ray.get(controller.abort.remote(), timeout=ABORT_LIMIT_S)
        ray.kill(controller)
        raise self.no_room()

    def no_room(self) -> ResourceError:
        return ResourceError(
            f"Workers have to find room on the cluster. Received: {self._needs}, and none for {self._limit_s:g} s; {_free_cpus()}. "
            "Wait for others to end, add nodes, or raise scaling.start_limit_s; a run goes on with --resume."
        )


def _free_cpus() -> str:
    free, there = (found.get("CPU", 0.0) for found in (ray.available_resources(), ray.cluster_resources()))  # type: ignore[no-untyped-call]
    return f"{free:g} of the cluster's {there:g} CPUs are free"
