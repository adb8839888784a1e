"""A Python module run in a process of its own that may die, hang or print what it likes: what it wrote down, and how it ended."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What came of it."""

    records: tuple[dict[str, Any], ...]
    """The lines of JSON in its output file, as far as it came."""
    ended: str
    """ "" where it ended well, else how: "was killed by SIGSEGV", "exited with 1", "was not done after 60 s"."""
    last_words: str = ""
    """The last line on its standard error."""


def run_apart(module: str, inputs: Mapping[str, str], timeout_s: float) -> Outcome:
    """Runs ``python -m module OUTPUT INPUT...`` and reads OUTPUT's lines of JSON.

    Args:
        inputs: file name -> content of the files whose paths are the further arguments, in order.
    """
    with tempfile.TemporaryDirectory(prefix="raytrain-doctor-") as directory:
        output, paths = Path(directory) / "output.jsonl", [Path(directory) / name for name in inputs]
        for path in paths:
            path.write_text(inputs[path.name], encoding="utf-8")
        ended, errors = _run([sys.executable, "-m", module, str(output), *map(str, paths)], timeout_s)
        # A process that died amid a line has left half of one.
        lines = output.read_text(encoding="utf-8").splitlines(keepends=True) if output.exists() else []
        records = tuple(json.loads(line) for line in lines if line.endswith("\n"))
    words = [line for line in errors.splitlines() if line.strip()]
    return Outcome(records, ended, words[-1].strip() if words else "")


def _run(command: Sequence[str], timeout_s: float) -> tuple[str, str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as err:
        return f"was not done after {timeout_s:g} s", (err.stderr or b"").decode(errors="replace")
    if done.returncode < 0:
        return f"was killed by {signal.Signals(-done.returncode).name}", done.stderr
    return f"exited with {done.returncode}" if done.returncode else "", done.stderr
