"""One stage in a process of its own, started and watched from a parent that never loads torch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines.bench_plan import Measured, Request, Steps
from raytrain.config import JobConfig
from raytrain.errors import RunError
from raytrain.settings import parse_yaml
from raytrain.training.process import ALLOCATOR

TIMEOUT_S = 900.0
LOG_LINES = 12


def measure(stage: str, job: JobConfig, steps: Steps, num_threads: int, directory: Path, timeout_s: float = TIMEOUT_S) -> Measured:
    """Runs ``pipelines.bench_stage``; request, log and result stay in ``directory``, the run that a stage makes is deleted.

    Raises:
        RunError: the process failed, was killed, or was not done in time; with the end of its log.
    """
    scratch, request_file, result_file = directory / "run", directory / "request.json", directory / "measured.json"
    directory.mkdir(parents=True)
    request = Request(
        stage=stage,
        job=job,
        num_threads=num_threads,
        window_steps=steps.window,
        scratch=str(scratch),
        launched_at=time.time(),
    )
    request_file.write_text(request.model_dump_json(indent=2))
    command = [sys.executable, "-m", "pipelines.bench_stage", str(request_file), str(result_file)]
    # OpenMP of libraries besides torch would take every core. Ray gives its workers the allocator itself.
    environment = os.environ | {"OMP_NUM_THREADS": str(num_threads)} | ({} if stage.startswith("ray") else ALLOCATOR)
    try:
        with (directory / "log.txt").open("wb") as log:
            # A session of its own: a stage that hangs is stopped with everything it has started.
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                raise RunError(f"A stage has to be done within {timeout_s:g} s. Received: no end.{_end_of(directory)}") from None
            finally:
                _stop(process)
        if code != 0 or not result_file.exists():
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise RunError(f"A stage has to finish. Received: {how}.{_end_of(directory)}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Measured.parse(parse_yaml(result_file.read_text(), str(result_file)), str(result_file))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group; what has ended already is left alone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_of(directory: Path) -> str:
    log = directory / "log.txt"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-LOG_LINES:]
    return f" The end of {log}:\n" + "\n".join(lines)
