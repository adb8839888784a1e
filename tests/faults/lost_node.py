"""A node that is lost under a job: ``python -m tests.faults.lost_node --seeds 0:10``.

A head without CPUs and two nodes with addresses of their own (127.0.0.x, each a process tree of its own), a job submitted to the head's
dashboard by ``raytrain submit``, two elastic workers, one on each node, since no node has CPUs for both. At a step that the seed draws
every process of a node is killed (SIGKILL) or stopped as if its cable were cut (SIGSTOP, killed once the job is over). The job has to go
on with the worker that is left, and to end by itself. Every other seed trains the counting model, in which every row has to be trained
exactly once an epoch; the others a model that learns, which has to score within TOLERANCE of the same job undisturbed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import typer
import yaml

from cluster.config import KEEPALIVE
from raytrain.settings import with_overrides
from tests.data.build import build_dataset
from tests.faults.counting import check_counts, counting_job, write_counting_dataset
from tests.ray.test_submit import PORTS, ROOT, TOKEN, free_ports

NUM_ROWS = 6_000
START_LIMIT_S, JOB_LIMIT_S = 120.0, 420.0
LAST_STEP = 250
"""Counting takes 2 x 375 steps, learning 2 x 394: a node that is lost later might be lost after the end."""
TOLERANCE = 0.02
"""Of the AUC: rows come in another order after a loss."""


ELASTIC = (
    "scaling.num_workers={min: 1, max: 2}",
    "scaling.cpus_per_worker=1.2",
    "scaling.threads_per_worker=1",
    "scaling.resize_interval_s=5",
    "training.checkpoint_every_steps=20",
    "training.log_every_steps=5",
)


class Cluster:
    """A head without CPUs and nodes of two each, every one killed with all that it has started."""

    def __init__(self, num_nodes: int, folder: Path) -> None:
        self._folder, self._marks = folder, [uuid.uuid4().hex for _ in range(num_nodes + 1)]
        self._processes: list[subprocess.Popen[bytes]] = []
        gcs, *rest = free_ports(1 + len(PORTS))
        ports = dict(zip(PORTS, rest, strict=True))
        self.dashboard = f"http://127.0.0.1:{ports['dashboard-port']}"
        self._start(0, ["--head", f"--port={gcs}", "--num-cpus=0", *(f"--{name}={port}" for name, port in ports.items())])
        for number in range(1, num_nodes + 1):
            self._start(number, [f"--address=127.0.0.1:{gcs}", "--num-cpus=2"])

    def _start(self, number: int, options: list[str]) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--node-ip-address=127.0.0.{number + 1}"]
        options = [*options, "--disable-usage-stats", "--object-store-memory=150000000"]
        if number == 0:
            options.append(f"--temp-dir={self._folder / 'r'}")
        environment = {**os.environ, **TOKEN, "RAYTRAIN_NODE": self._marks[number], "RAY_health_check_period_ms": "1000", **KEEPALIVE}
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment.pop("RAY_ADDRESS", None)
        log = self._folder / f"node-{number}.log"
        with log.open("wb") as file:
            self._processes.append(subprocess.Popen([*command, *options], env=environment, stdout=file, stderr=subprocess.STDOUT))
        deadline = time.monotonic() + START_LIMIT_S
        while b"Ray runtime started" not in log.read_bytes():
            assert self._processes[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"node {number} did not start in {START_LIMIT_S:.0f} s: {log.read_text()}"
            time.sleep(0.2)

    def signal(self, number: int, signum: int) -> int:
        """Sends it to every process of a node; returns how many there were."""
        found = 0
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"RAYTRAIN_NODE={self._marks[number]}".encode() in (process / "environ").read_bytes():
                    os.kill(int(process.name), signum)
                    found += 1
            except (OSError, ProcessLookupError):
                continue
        return found

    def close(self) -> None:
        for number in range(len(self._marks)):
            self.signal(number, signal.SIGKILL)
        for process in self._processes:
            process.wait(30)


def run_seed(seed: int, disturbed: bool = True, learning: bool = False) -> dict[str, Any]:
    """One job; ``disturbed`` false leaves the nodes alone.

    Raises:
        AssertionError: a row was counted too often or too seldom, or the job failed or hung; the message has its log.
    """
    draw, started = np.random.default_rng(seed), time.monotonic()
    lost_at, number = int(draw.integers(5, LAST_STEP)), int(draw.integers(1, 3))
    how = signal.SIGKILL if draw.random() < 0.5 else signal.SIGSTOP
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rt", dir="/tmp", ignore_cleanup_errors=True)))
        data, runs = str(folder / "data"), str(folder / "runs")
        values = learning_job(data, runs) if learning else counting_values(data, runs)
        cluster = Cluster(2, folder)
        stack.callback(cluster.close)
        job = submitted(cluster, folder, values)
        run = Path(runs) / "counted"
        if disturbed:
            wait_for_step(run, lost_at, cluster, job)
            assert cluster.signal(number, how), "the node had no process left"
        code, log = followed(cluster, job)
        assert code == 0, f"seed {seed}: the job ended with {code}\n{log[-4000:]}"
        result = json.loads((run / "result.json").read_text())
        if not learning:
            check_counts(data, str(run), num_epochs=2)
        assert result["rows_trained"] == result["rows_expected"], (seed, result)
        sizes = [start["world_size"] for start in result["starts"]]
        assert sizes == ([2, 1] if disturbed else [2]), (seed, result["starts"])
        what = {signal.SIGKILL: "killed", signal.SIGSTOP: "cut off"}[how] if disturbed else "undisturbed"
        return {
            "seed": seed,
            "node": f"{number} {what} after step {lost_at}" if disturbed else what,
            "starts": result["starts"],
            "auc": result["test"]["target"]["auc"] if learning else None,
            "wall_s": round(time.monotonic() - started, 1),
        }


def counting_values(data: str, runs: str) -> dict[str, Any]:
    """A data set, and a job that counts its rows."""
    write_counting_dataset(data, NUM_ROWS, NUM_ROWS)
    return counting_job(data, runs, *ELASTIC).model_dump(mode="json")


def learning_job(data: str, runs: str) -> dict[str, Any]:
    """A data set with something to learn, and a job that learns it."""
    build_dataset(data, num_users=1_500, num_items=20, events_per_user=12, source_events_per_user=24)
    values = {
        "run": {"name": "counted", "storage_path": runs, "tensorboard": False},
        "data": {"path": data, "batch_size": 32, "window_batches": 4, "history_length": 20, "cpus_per_read_task": 0.2},
        "model": {"name": "din", "hidden_units": [32]},
        "tables": {"dim": 8, "lr": 0.1},
        "optimizer": {"lr": 0.01},
        "training": {"epochs": 2, "evals_per_epoch": 1, "early_stopping": {"patience": None}},
    }
    return with_overrides(values, ELASTIC)


def submitted(cluster: Cluster, folder: Path, values: dict[str, Any]) -> str:
    """The id of the job, sent with this working tree and a config in it."""
    sent = folder / "sent"
    for package in ("raytrain", "pipelines", "cluster", "tuning"):
        shutil.copytree(ROOT / package, sent / package, ignore=shutil.ignore_patterns("__pycache__", "studies"))
    (sent / "job.yaml").write_text(yaml.safe_dump(values))
    code, output = raytrain(cluster, sent, "submit", "--detach", "--name", "counted", "--", "train", "job.yaml")
    assert code == 0, output
    return next(word for word in output.split() if word.startswith("counted-"))


def raytrain(cluster: Cluster, folder: Path, command: str, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the command line, against the cluster's dashboard."""
    line = [sys.executable, "-m", "raytrain", *command.split(), "--address", cluster.dashboard, *arguments]
    environment = {**os.environ, **TOKEN, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, timeout=JOB_LIMIT_S)
    except subprocess.TimeoutExpired as err:
        raise AssertionError(f"`{' '.join(line)}` hung for {JOB_LIMIT_S:.0f} s\n{err.stdout}") from None
    return done.returncode, done.stdout + done.stderr


def followed(cluster: Cluster, job: str) -> tuple[int, str]:
    return raytrain(cluster, ROOT, "job logs", job, "--follow")


def wait_for_step(run: Path, step: int, cluster: Cluster, job: str) -> None:
    file, deadline = run / "metrics.jsonl", time.monotonic() + JOB_LIMIT_S
    while True:
        lines = file.read_text().splitlines() if file.exists() else []
        if max((json.loads(line).get("step", 0) for line in lines if line.endswith("}")), default=0) >= step:
            return
        assert time.monotonic() < deadline, f"step {step} was not reached: {followed(cluster, job)[1][-3000:]}"
        time.sleep(0.5)


def main(seeds: str = "0:10") -> None:
    """Runs the learning job undisturbed, then the seeds from A to B of ``--seeds A:B``; prints a line each."""
    first, last = (int(part) for part in seeds.split(":"))
    alone = run_seed(first, disturbed=False, learning=True)
    typer.echo(json.dumps(alone))
    for seed in range(first, last):
        found = run_seed(seed, learning=bool(seed % 2))
        typer.echo(json.dumps(found))
        assert found["auc"] is None or abs(found["auc"] - alone["auc"]) <= TOLERANCE, (found, alone)


if __name__ == "__main__":
    typer.run(main)
