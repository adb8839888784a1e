"""One measurement in a process of its own, started and watched from a parent that need not load torch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from pipelines.bench_plan import Measured, Request, Steps
from raytrain.config import JobConfig
from raytrain.errors import RunError
from raytrain.settings import Section, parse_yaml
from raytrain.training.process import ALLOCATOR

TIMEOUT_S = 900.0
LOG_LINES = 12

Result = TypeVar("Result", bound=Section)


def measure(stage: str, job: JobConfig, steps: Steps, num_threads: int, directory: Path, timeout_s: float = TIMEOUT_S) -> Measured:
    """Runs ``pipelines.bench_stage``; request, log and result stay in ``directory``, the run that a stage makes is deleted.

    Raises:
        RunError: the process failed, was killed, or was not done in time; with the end of its log.
    """
    scratch = directory / "run"
    request = Request(
        stage=stage,
        job=job,
        num_threads=num_threads,
        window_steps=steps.window,
        scratch=str(scratch),
        launched_at=time.time(),
    )
    # Ray gives its workers the allocator itself.
    allocator = {} if stage.startswith("ray") else ALLOCATOR
    try:
        return run_alone("pipelines.bench_stage", request, Measured, directory, num_threads, allocator, timeout_s)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run_alone(
    module: str,
    request: Section,
    result: type[Result],
    directory: Path,
    num_threads: int,
    environment: Mapping[str, str] = ALLOCATOR,
    timeout_s: float = TIMEOUT_S,
) -> Result:
    """``python -m MODULE request.json measured.json`` in a process and session of its own.

    Args:
        directory: a new one; request.json, measured.json and log.txt, all that was printed, stay there.
        num_threads: of OpenMP. environment: added to this process's.

    Raises:
        RunError: the process failed, was killed, or was not done in time; with the end of its log.
    """
    request_file, result_file = directory / "request.json", directory / "measured.json"
    directory.mkdir(parents=True)
    request_file.write_text(request.model_dump_json(indent=2))
    command = [sys.executable, "-m", module, str(request_file), str(result_file)]
    # OpenMP of libraries besides torch would take every core.
    variables = os.environ | {"OMP_NUM_THREADS": str(num_threads), **environment}
    with (directory / "log.txt").open("wb") as log:
        # A session of its own: a stage that hangs is stopped with everything it has started.
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise RunError(f"A stage has to be done within {timeout_s:g} s. Received: no end.{_end_of(directory)}") from None
        finally:
            _stop(process)
    if code != 0 or not result_file.exists():
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise RunError(f"A stage has to finish. Received: {how}.{_end_of(directory)}")
    return result.parse(parse_yaml(result_file.read_text(), str(result_file)), str(result_file))


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group; what has ended already is left alone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _end_of(directory: Path) -> str:
    log = directory / "log.txt"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-LOG_LINES:]
    return f" The end of {log}:\n" + "\n".join(lines)
