"""Slow fault harness: real Ray, real processes, SIGKILL.

    python -m tests.faults.with_ray --seeds 0:30

A seed draws the data, the workers of every launch, order, upload mode, the storage (local or S3) and up to three faults
(``tests.faults.driver.KINDS``, and a checkpoint that loses a file). The run is resumed until it ends; then every row of
both domains has to be counted exactly once an epoch, in tables that were saved and restored with the checkpoints.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer

from raytrain.errors import RunError
from raytrain.storage import Storage
from raytrain.training.commit import CHECKPOINTS, newest
from tests.faults.counting import check_counts, write_counting_dataset
from tests.faults.driver import CLOCK, KINDS, REFUSALS

TIMEOUT_S = 240
NUM_EPOCHS = 2
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "90",
}


@dataclass(frozen=True)
class Outcome:
    """What became of a seed."""

    seed: int
    story: tuple[str, ...]
    fired: tuple[str, ...]
    """Kinds of faults that came to pass."""
    wall_s: float


def run_seed(
    seed: int, runs: str | None = None, kinds: tuple[str, ...] = KINDS, data_too: bool = False, limit_s: float = TIMEOUT_S
) -> Outcome:
    """Runs one seed to its end.

    Args:
        runs: where the run directory lies; a temporary directory when left out.
        data_too: the data set lies there as well.
        limit_s: of a launch, which hangs if it takes longer.

    Raises:
        AssertionError: a row was counted too often or too seldom, or a launch hung; the message has the seed and the story.
    """
    draw, started = np.random.default_rng(seed), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="raytrain-faults-") as directory:
        data, run = f"{directory}/data", f"{runs or directory}/seed-{seed}"
        num_target, num_source = draw.integers(120, 260, size=2).tolist()
        write_counting_dataset(data, num_target, num_source, row_group_rows=int(draw.integers(10, 60)))
        served = copied(data, f"{runs}/data-{seed}") if data_too else data
        overrides = [
            f"run.name=seed-{seed}",
            f"training.deterministic={bool(draw.integers(4))}",
            f"training.checkpoint_upload={draw.choice(['sync', 'async'])}",
            f"training.checkpoint_every_steps={draw.integers(2, 7)}",
            f"training.keep_checkpoints={draw.integers(1, 4)}",
            "training.log_every_steps=1",
        ]
        story, fired = [" ".join(overrides[1:4])], []
        num_faults = int(draw.integers(1, 4))
        for index in range(num_faults + 1):
            # With failures to spare Ray starts the workers anew, without any the run stops and is resumed.
            num_workers = int(draw.integers(1, 3))
            fault = None
            if index < num_faults:
                fault = {"kind": str(draw.choice(kinds)), "rank": int(draw.integers(2)), "marker": f"{directory}/fired-{index}"}
                fault["at"] = int(draw.integers(1, 24 if "step" in fault["kind"] else 5))
            scaling = [
                f"scaling.num_workers={num_workers}",
                f"scaling.cpus_per_worker={0.6 / num_workers:g}",
                f"scaling.max_failures={draw.integers(3)}",
            ]
            resume = Storage(run).exists("config.yaml")
            spec = {"data": served, "runs": runs or directory, "overrides": overrides + scaling, "resume": resume, "fault": fault}
            finished = _launch(spec, f"seed {seed}", story, limit_s)
            came = fault is not None and Path(str(fault["marker"])).exists()
            fired += [str(fault["kind"])] if fault and came else []
            what = f"{fault['kind']} {fault['at']}{'' if came else ' (never came to it)'}" if fault else "undisturbed"
            story.append(f"{num_workers} workers, {what} -> {'finished' if finished else 'stopped'}")
            if finished:
                break
            if draw.random() < 0.3:
                story.append(_lose_a_file(run, draw))
        result = Storage(run)
        assert result.exists("result.json"), f"seed {seed} did not finish: {story}"
        rows = json.loads(result.read_text("result.json"))
        assert rows["rows_trained"] == rows["rows_expected"], (seed, story, rows)
        try:
            check_counts(data, run, NUM_EPOCHS)
        except AssertionError as err:
            raise AssertionError(f"seed {seed} counted wrongly: {err}; {story}") from err
    return Outcome(seed, tuple(story), tuple(fired), time.monotonic() - started)


def copied(directory: str, uri: str) -> str:
    """Every file below the local ``directory``, now below ``uri`` as well; returns that."""
    storage = Storage(uri)
    for file in Path(directory).rglob("*"):
        if file.is_file():
            storage.write_bytes(str(file.relative_to(directory)), file.read_bytes())
    return uri


def _launch(spec: dict[str, Any], name: str, story: list[str], limit_s: float) -> bool:
    """Whether the driver came to its end by itself; whatever it leaves behind is ended."""
    mark = uuid.uuid4().hex
    environment = os.environ | SETTINGS | {"RAYTRAIN_FAULTS": mark}
    command = [sys.executable, "-m", "tests.faults.driver", json.dumps(spec)]
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, _ = driver.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        driver.kill()
        raise AssertionError(f"{name} hung for {limit_s:.0f} s: {story}, {spec}") from None
    finally:
        _end(mark)
    kind = spec["fault"]["kind"] if spec["fault"] else None
    assert not driver.returncode or kind not in (None, CLOCK), f"{name} failed without a fault: {story}\n{output[-3000:]}"
    said_why = "A checkpoint has to reach" in output and "--resume" in output
    assert not driver.returncode or kind not in REFUSALS or said_why, f"{name} did not say why it ended: {story}\n{output[-3000:]}"
    return driver.returncode == 0


def _end(mark: str) -> None:
    """Kills every process that inherited the mark: a killed driver leaves its Ray behind for a while."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def _lose_a_file(run: str, draw: np.random.Generator) -> str:
    """Deletes a file of the newest checkpoint where an older one is left."""
    storage = Storage(run)
    found = newest(storage)
    if found is None:
        return "nothing to lose"
    name = f"{CHECKPOINTS}/{found.name}/{draw.choice(sorted(found.files))}"
    kept = storage.read_bytes(name)
    storage.filesystem.delete_file(storage.path(name))
    try:
        newest(storage)
    except RunError:
        storage.write_bytes(name, kept)
        return "an only checkpoint, left whole"
    return f"lost {name.rpartition('/')[2]} of step {found.step}"


def main(seeds: str = typer.Option("0:30", help="first:last, the last left out")) -> None:
    first, last = map(int, seeds.split(":"))
    fired: Counter[str] = Counter()
    for seed in range(first, last):
        outcome = run_seed(seed)
        fired.update(outcome.fired)
        sys.stdout.write(f"seed {outcome.seed}  {outcome.wall_s:.0f} s  {'; '.join(outcome.story)}\n")
        sys.stdout.flush()
    faults = ", ".join(f"{count} x {kind}" for kind, count in sorted(fired.items()))
    sys.stdout.write(f"{last - first} seeds, {fired.total()} faults ({faults}): every row counted exactly once an epoch\n")


if __name__ == "__main__":
    typer.run(main)
