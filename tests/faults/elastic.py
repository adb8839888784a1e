"""Elastic workers on a cluster of several raylets: ``python -m tests.faults.elastic``.

One node with room for one worker; a second node joins, and the workers become two; it is lost (SIGKILL), and they go on as
one. Prints the result's ``starts`` as JSON after holding the counts to exactly once an epoch.
"""

import json
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from rich.console import Console

from raytrain.data.cursor import Cursor
from raytrain.run import train
from raytrain.training import engine
from raytrain.training.worker import run_worker
from tests.faults.counting import check_counts, counting_job, write_counting_dataset

STEP_S = 0.25
NUM_ROWS = 1400


def slow_worker(config: dict[str, Any]) -> None:
    """``run_worker`` whose steps last long enough for nodes to come and go."""
    add = Cursor.add

    def slow_add(self: Cursor, part: Any) -> None:
        time.sleep(STEP_S / 2)
        add(self, part)

    Cursor.add = slow_add  # type: ignore[method-assign]
    run_worker(config)


def last_in(run: Path, kind: str) -> dict[str, Any]:
    """The newest record of a kind that the run has flushed, or nothing."""
    file = run / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return next((record for record in reversed(records) if record["kind"] == kind), {})


def join_and_leave(cluster: Cluster, run: Path) -> None:
    _wait(lambda: last_in(run, "checkpoint"))
    node = cluster.add_node(num_cpus=1)
    _wait(lambda: last_in(run, "start")["world_size"] == 2)
    resized_at = last_in(run, "start")["step"]
    _wait(lambda: last_in(run, "checkpoint").get("step", 0) > resized_at)
    cluster.remove_node(node, allow_graceful=False)


def _wait(condition: Any, timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the workers did not follow the nodes")
        time.sleep(0.5)


@contextmanager
def closing(cluster: Cluster) -> Iterator[None]:
    yield
    ray.shutdown()
    cluster.shutdown()


def main() -> None:
    trainer = engine.PatientTrainer
    engine.PatientTrainer = lambda fn, **rest: trainer(slow_worker, **rest)  # type: ignore
    engine.Progress.__init__.__globals__["FLUSH_INTERVAL_S"] = 1.0
    with tempfile.TemporaryDirectory(prefix="raytrain-elastic-") as directory:
        data = f"{directory}/data"
        write_counting_dataset(data, NUM_ROWS, NUM_ROWS)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        overrides = ("scaling.num_workers={min: 1, max: 2}", "scaling.cpus_per_worker=1", "scaling.resize_interval_s=3")
        job = counting_job(data, directory, "training.epochs=1", "run.name=elastic", "training.log_every_steps=1", *overrides)
        # Nodes set signal handlers, which takes the main thread.
        with ThreadPoolExecutor(1) as pool, closing(cluster):
            running = pool.submit(train, job, Console(stderr=True, soft_wrap=True))
            join_and_leave(cluster, Path(directory) / "elastic")
            assert not running.done(), "the run was over before the nodes had come and gone"
            result = running.result()
        check_counts(data, f"{directory}/elastic", num_epochs=1)
        sys.stdout.write(json.dumps(result["starts"]) + "\n")


if __name__ == "__main__":
    main()
