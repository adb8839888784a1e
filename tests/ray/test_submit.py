"""Jobs on a real cluster: a head with its dashboard, the tree that goes along, and how jobs end."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from raytrain.cli import app
from tests.data.build import build_dataset
from tests.ray.test_roll import build_rolled, rolled_values

pytestmark = [pytest.mark.ray]
ROOT = Path(__file__).parents[2]
# Ray would make one in the home directory otherwise, or go without, as it finds things there.
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
SECRET = "a value that nobody is to see"
PORTS = ("dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port", "ray-client-server-port")
MAIN = """
import os
from raytrain.cli import main

if __name__ == "__main__":
    print("the packed tree runs, and was given", os.environ.get("TEST_TOKEN"), flush=True)
    main()
"""


def free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """The dashboard's address of a head of two CPUs, whose processes end with the one that is known."""
    # Short: names of Unix sockets end at 107 characters.
    folder = tempfile.mkdtemp(prefix="rt", dir="/tmp")
    log = Path(folder) / "start.log"
    process, address = start_head(folder, log)
    try:
        for _ in range(2):
            if wait_until_started(process, log):
                break
            # On a busy machine: Ray gives up a node that is not there after 30 s.
            process, address = start_head(folder, log)
        assert wait_until_started(process, log), log.read_text()
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def start_head(folder: str, log: Path) -> tuple[subprocess.Popen[bytes], str]:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    options = ["--head", "--block", "--port=0", "--num-cpus=2", "--disable-usage-stats", f"--temp-dir={folder}"]
    options += ["--object-store-memory=150000000", *(f"--{name}={port}" for name, port in ports.items())]
    binaries = str(Path(sys.executable).parent)
    environment = {**os.environ, **TOKEN, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    environment.pop("RAY_ADDRESS", None)
    with log.open("w") as file:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", *options]
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    return process, f"http://127.0.0.1:{ports['dashboard-port']}"


def wait_until_started(process: subprocess.Popen[bytes], log: Path) -> bool:
    """Whether the head stands; its dashboard answers earlier, when it may still give up."""
    while process.poll() is None:
        if "Ray runtime started" in log.read_text():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with raytrain in it, whose command says that it is that one, and a job."""
    folder = tmp_path_factory.mktemp("tree")
    for package in ("raytrain", "pipelines", "cluster", "tuning"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "studies"))
    (folder / "raytrain/__main__.py").write_text(MAIN)
    build_dataset(folder / "data/toy", num_users=60, num_items=40)
    job = {
        "data": {"path": "data/toy", "batch_size": 64, "window_batches": 4, "history_length": 20, "cpus_per_read_task": 0.25},
        "model": {"name": "din", "hidden_units": [8]},
        "tables": {"dim": 4},
        "training": {"epochs": 1, "evals_per_epoch": 1},
        "scaling": {"cpus_per_worker": 0.5},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder


def raytrain(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_job_trains_fails_or_is_stopped_and_says_so(head: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    monkeypatch.setenv("TEST_TOKEN", SECRET)
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN["RAY_AUTH_TOKEN"])
    at = ("--address", head)

    code, output = raytrain("submit", *at, "--env", "TEST_TOKEN", "--", "train", "job.yaml", "run.name=first")
    assert code == 0, output
    assert "the packed tree runs, and was given ***" in output
    assert SECRET not in output
    assert json.loads((tree / "runs/first/result.json").read_text())["world_size"] == 1

    code, output = raytrain("submit", *at, "--name", "broken", "--detach", "--", "train", "job.yaml", "data.path=/nowhere/at all")
    assert code == 0, output
    broken = next(word for word in output.split() if word.startswith("broken-"))
    code, output = raytrain("job", "logs", broken, "--follow", *at)
    assert (code, "exit code 2" in output, "/nowhere/at all" in output) == (2, True, True), output
    assert "FAILED, exit code 2" in raytrain("job", "status", broken, *at)[1]

    code, output = raytrain("submit", *at, "--name", "long", "--detach", "--", "train", "job.yaml", "training.epochs=1000")
    long = next(word for word in output.split() if word.startswith("long-"))
    code, output = raytrain("job", "stop", long, *at)
    assert (code, f"{long} stopped" in output) == (0, True), output
    assert raytrain("job", "logs", long, "--follow", *at)[0] == 130
    listed = raytrain("job", "list", *at)[1]
    assert [word for word in listed.split() if word in ("SUCCEEDED", "FAILED,", "STOPPED")] == ["SUCCEEDED", "FAILED,", "STOPPED"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("command", "in_process"), [("study", False), ("sweep", False), ("roll", False), ("roll", True)])
def test_what_starts_runs_of_its_own_goes_to_the_cluster_too(
    head: str, tree: Path, monkeypatch: pytest.MonkeyPatch, command: str, in_process: bool
) -> None:
    """The command is the job's driver: its runs and trials are trained by the same Ray, stages of a roll side by side where they fit."""
    monkeypatch.chdir(tree)
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN["RAY_AUTH_TOKEN"])
    output, base = tree / "out" / f"{command}-{in_process}", yaml.safe_load((tree / "job.yaml").read_text())
    base["data"]["path"] = str(tree / "data/toy")
    values = {
        "study": {
            "presets": {"quick": {"seeds": [0]}},
            "arms": {"din": {}, "mean": {"overrides": ["model={name: item_mean}"], "deterministic": True}},
            "comparisons": [["din", "mean"]],
            "num_resamples": 50,
            "work_dir": str(output),
        },
        "sweep": {"space": {"tables.lr": {"log_uniform": [0.01, 1.0]}}, "num_trials": 2, "work_dir": str(output)},
        "roll": rolled_values(str(tree / "data/days"), str(output), in_process=in_process) | {"arms": {"alone": ["calendar.cpm=null"]}},
    }[command]
    if command == "roll" and not (tree / "data/days").exists():
        build_rolled(tree / "data/days")
    (tree / f"{command}.yaml").write_text(yaml.safe_dump({"name": "tiny", "base": base} | values))
    options = ("--preset", "quick") if command == "study" else ()
    code, said = raytrain("submit", "--address", head, "--", command, f"{command}.yaml", *options)
    assert code == 0, said
    result = json.loads(next(output.rglob({"study": "result.json", "sweep": "sweep.json", "roll": "roll.json"}[command])).read_text())
    if command == "study":
        assert set(result["arms"]) == {"din", "mean"}
    elif command == "sweep":
        assert result["counts"]["finished"] == 2
    else:
        assert len(result["arms"]["alone"]["days"]) == 2
        assert "2 stages at one time" in said
