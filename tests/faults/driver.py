"""A driver process with one fault planted in it, its controller or one of its workers: ``python -m tests.faults.driver SPEC``.

A death kills a process with SIGKILL once, at a point its spec names; a marker file keeps it from firing again. A refusal
makes every upload of the launch fail from a point on. A clock runs backwards in the workers and the controller.
"""

import errno
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from raytrain.data.cursor import Cursor
from raytrain.run import train
from raytrain.training import commit, delivery, engine
from raytrain.training.worker import run_worker
from tests.faults.counting import counting_job

DEATHS = (
    "worker at a step",
    "worker before its upload",
    "worker amid its upload",
    "worker after its upload",
    "controller before the commit",
    "controller after the commit",
    "driver at a step",
)
REFUSALS = {"disk full": errno.ENOSPC, "storage read-only": errno.EROFS, "storage gone amid the upload": errno.EIO}
CLOCK = "clock going backwards"
KINDS = (*DEATHS, *REFUSALS, CLOCK)


class Fault:
    """Fires at the ``at``-th time it is asked."""

    def __init__(self, kind: str, at: int, marker: str) -> None:
        self.kind, self._left, self._marker = kind, at, marker

    def fire(self, kind: str) -> None:
        if kind != self.kind:
            return
        self._left -= 1
        if self._left <= 0 and self._mark():
            os.kill(os.getpid(), signal.SIGKILL)

    def refuse(self) -> None:
        if self.kind not in REFUSALS:
            return
        self._left -= 1
        if self._left <= 0:
            self._mark()
            raise OSError(REFUSALS[self.kind], os.strerror(REFUSALS[self.kind]))

    def turn_back_the_clock(self) -> None:
        if self.kind != CLOCK:
            return
        self._mark()
        wall, monotonic = time.time(), time.monotonic()
        time.time = lambda: wall - 3600 - (time.monotonic() - monotonic)

    def _mark(self) -> bool:
        """Whether the fault fires for the first time."""
        try:
            os.close(os.open(self._marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True


def mortal_worker(config: dict[str, Any]) -> None:
    """``run_worker`` of which one rank dies."""
    from ray.train import get_context
    from ray.train.v2._internal.execution.storage import StorageContext

    spec = config["fault"]
    if spec and get_context().get_world_rank() == spec["rank"] % get_context().get_world_size():
        fault = Fault(spec["kind"], spec["at"], spec["marker"])
        fault.turn_back_the_clock()
        add, persist = Cursor.add, StorageContext.persist_current_checkpoint

        def mortal_add(self: Cursor, part: Any) -> None:
            fault.fire("worker at a step")
            add(self, part)

        def mortal_persist(self: StorageContext, checkpoint: Any, name: str) -> Any:
            fault.fire("worker before its upload")
            if fault.kind in ("worker amid its upload", "storage gone amid the upload"):
                first = min(Path(checkpoint.path).iterdir())
                target = self.build_checkpoint_path_from_name(name)
                self.storage_filesystem.create_dir(target)
                with self.storage_filesystem.open_output_stream(f"{target}/{first.name}") as half:
                    half.write(first.read_bytes()[: first.stat().st_size // 2])
            fault.fire("worker amid its upload")
            fault.refuse()
            persisted = persist(self, checkpoint, name)
            fault.fire("worker after its upload")
            return persisted

        Cursor.add, StorageContext.persist_current_checkpoint = mortal_add, mortal_persist  # type: ignore[method-assign]
    run_worker(config)


class MortalCommit(commit.CommitCallback):
    """The controller's commit, in which it dies."""

    spec: dict[str, Any] | None = None

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        if not hasattr(self, "fault") and self.spec:
            self.fault = Fault(self.spec["kind"], self.spec["at"], self.spec["marker"])
            self.fault.turn_back_the_clock()
        if self.spec:
            self.fault.fire("controller before the commit")
        super().after_report(run_context, metrics, checkpoint)
        if self.spec:
            self.fault.fire("controller after the commit")


def main() -> None:
    spec = json.loads(sys.argv[1])
    fault = spec["fault"]
    if fault:
        trainer, drain = engine.PatientTrainer, delivery.Delivery._drain

        def mortal_trainer(fn: Any, train_loop_config: dict[str, Any], **rest: Any) -> Any:
            return trainer(mortal_worker, train_loop_config=train_loop_config | {"fault": fault}, **rest)

        def mortal_commit(*args: Any) -> MortalCommit:
            callback = MortalCommit(*args)
            callback.spec = fault
            return callback

        def mortal_drain(self: delivery.Delivery) -> None:
            drain(self)
            records = self._progress.records
            if fault["kind"] == "driver at a step" and max((record.get("step", 0) for record in records), default=0) >= fault["at"]:
                Fault(fault["kind"], 1, fault["marker"]).fire(fault["kind"])

        engine.PatientTrainer, engine.CommitCallback, delivery.Delivery._drain = mortal_trainer, mortal_commit, mortal_drain  # type: ignore
    delivery.POLL_INTERVAL_S = 0.1
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    job = counting_job(spec["data"], spec["runs"], *spec["overrides"])
    train(job, Console(soft_wrap=True), resume=spec["resume"])


if __name__ == "__main__":
    main()
