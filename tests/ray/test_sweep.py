"""A real sweep on two CPUs: trials that are stopped early give their workers back, and a kill -9 costs nothing that was finished."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tuning.sweeps import write_sweep

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
LIMIT_S = 240


def begin(path: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from raytrain.cli import main; main()", "sweep", path, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.timeout(2 * LIMIT_S)
def test_a_sweep_is_killed_and_goes_on_to_its_end(tmp_path: Path) -> None:
    base = {
        "data": {"path": str(tmp_path / "data"), "batch_size": 64, "cpus_per_read_task": 0.25},
        "scaling": {"cpus_per_worker": 0.8},
        "training": {"epochs": 3, "evals_per_epoch": 1, "early_stopping": {"patience": None}},
    }
    path = write_sweep(tmp_path, base=base, num_trials=4, stopping={"first_evaluation": 1, "reduction": 2})
    trials = tmp_path / "sweep" / "trials"
    first = begin(path)
    limit = time.monotonic() + LIMIT_S
    while not any('"finished"' in file.read_text() for file in trials.glob("*.json")):
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < limit, "no trial has finished"
        time.sleep(0.3)
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=30)
    kept = {file.name: file.read_text() for file in trials.glob("*.json") if '"finished"' in file.read_text()}

    again = begin(path, "--resume")
    said, _ = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0, said
    assert {name: (trials / name).read_text() for name in kept} == kept
    result = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert result["num_trials"] == 4
    assert result["counts"]["failed"] == 0
    assert result["counts"]["finished"] + result["counts"]["stopped"] == 4
    assert set(result["test"]["metrics"][0]) >= {"auc", "gauc", "logloss"}
    assert (tmp_path / "sweep" / "best.yaml").exists()
    assert "is the best on validation" in said
