"""A roll that is killed on the way against one that nothing disturbs: the same artefacts, stage by stage.

    python -m tests.faults.killed_roll pipelines/rolls/complete_journey.yaml 'arms={}'

Rolls twice, from nothing each time, in a directory of its own. The second roll is ended with SIGKILL as often as ``--kills`` says, at
moments that ``--seed`` draws, and begun again. Exits 1 where an artefact differs.
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from rich.console import Console
from torch.distributed.checkpoint import FileSystemReader

from pipelines.roll_config import load_roll
from raytrain.run import read_result
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_whole

LIMIT_S = 3600.0
CONSOLE = Console(highlight=False, soft_wrap=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roll")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    load_roll(asked.roll, asked.overrides)
    with tempfile.TemporaryDirectory(prefix="killed-roll-") as scratch:
        directories = [Path(scratch) / name for name in ("undisturbed", "killed")]
        quiet_s = rolled(asked.roll, asked.overrides, directories[0], ())
        draw = random.Random(asked.seed)
        kills = sorted(draw.uniform(0.1, 0.9) * quiet_s for _ in range(asked.kills))
        killed_s = rolled(asked.roll, asked.overrides, directories[1], np.diff(kills, prepend=0.0).tolist())
        moments = ", ".join(f"{kill:.0f}" for kill in kills)
        CONSOLE.print(f"undisturbed {quiet_s:.0f} s; killed {len(kills)} times, after {moments} s: {killed_s:.0f} s")
        return compared(*directories)


def rolled(roll: str, overrides: Sequence[str], output: Path, kills: Sequence[float]) -> float:
    """Seconds that the roll took, begun again after each of ``kills``, seconds into an attempt."""
    command = [sys.executable, "-m", "raytrain", "roll", roll, *overrides, f"output={output}"]
    started = time.monotonic()
    for limit in (*kills, None):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            _, errors = process.communicate(timeout=LIMIT_S if limit is None else limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            if limit is None:
                raise
            continue
        if process.returncode:
            raise RuntimeError(f"The roll ended with {process.returncode}: {errors}")
        if limit is not None:
            raise RuntimeError(f"The roll was over before it could be killed after {limit:.0f} s")
    return time.monotonic() - started


def compared(one: Path, other: Path) -> int:
    """Prints what differs; 1 where something does."""
    names = [sorted(path.name for path in (side / "stages").iterdir()) for side in (one, other)]
    assert names[0] == names[1], "other stages"
    # A stage that was begun twice went on from its cursor.
    num_resumed = sum(len(read_result(str(other / "stages" / name))["starts"]) > 1 for name in names[0])
    num_different, num_tensors, num_rows = 0, 0, 0
    for name in names[0]:
        sides = [dict(artefacts(side / "stages" / name)) for side in (one, other)]
        assert sides[0].keys() == sides[1].keys(), f"{name}: other artefacts"
        for key, values in sides[0].items():
            theirs = sides[1][key]
            same = (values.dtype, values.shape, values.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())
            if not same:
                CONSOLE.print(f"{name} {key}: {values} and {theirs}")
            num_different += not same
            num_rows += len(values) if key.endswith("prediction") else 0
            num_tensors += not key.startswith("predictions/")
    CONSOLE.print(
        f"{len(names[0])} stages, {num_resumed} of them resumed; {num_tensors:,} tensors of models and snapshots and {num_rows:,} "
        f"predictions compared: {'equal to the bit' if not num_different else f'{num_different:,} differ'}"
    )
    if not num_resumed:
        CONSOLE.print("no stage was resumed amid its training: another --seed, or more checkpoints, will do")
    return int(num_different > 0 or not num_resumed)


def artefacts(stage: Path) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """(name, values) of everything that a stage leaves to others: its served model, its snapshot, its predictions."""
    best = read_result(str(stage))["best_checkpoint"]
    for directory in (f"checkpoints/{best}", "snapshot"):
        if (stage / directory).exists():
            described = FileSystemReader(stage / directory).read_metadata().state_dict_metadata
            state = {key: torch.zeros(of.size, dtype=of.properties.dtype) for key, of in described.items() if hasattr(of, "size")}
            load_whole(Storage(str(stage / directory)), state)
            yield from ((f"{directory.split('/')[0]}/{key}", tensor.numpy()) for key, tensor in state.items())
    for file in sorted((stage / "predictions").rglob("*.parquet")):
        table = pq.read_table(file)
        for column in table.column_names:
            yield f"predictions/{file.name}/{column}", table[column].to_numpy()


if __name__ == "__main__":
    sys.exit(main())
