"""Streams a prepared data set through Ray and watches memory: ``python -m tests.scale.stream DATA --output DIR``.

    raytrain prepare pipelines/configs/prepare_synthetic.yaml recipe.num_rows=50_000_000 output=data/synthetic_50m
    python -m tests.scale.stream data/synthetic_50m --output runs/stream_50m

Memory is the proportional set size (PSS) of this process and all it started, so that shared pages of the object store
count once. Writes memory.json and memory.svg.
"""

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import ray
import typer

from raytrain.config import DataSection
from raytrain.data.contract import load_contract
from raytrain.data.manifest import read_manifest
from raytrain.data.provenance import CURSOR, STATUS, STATUS_OK
from raytrain.data.stream import StreamDataConfig, StreamSpec, StreamStart

SAMPLE_S = 2.0


class MemoryLog(threading.Thread):
    """Samples (seconds, rows so far, MiB)."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, int, float]] = []
        self.num_rows = 0
        self._zero_s = time.monotonic()

    def run(self) -> None:
        while True:
            self.samples.append((time.monotonic() - self._zero_s, self.num_rows, total_pss_mib()))
            time.sleep(SAMPLE_S)


def total_pss_mib() -> float:
    """PSS of this process and its descendants."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    ours = {os.getpid()}
    while found := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= found
    return sum(_pss_kib(pid) for pid in ours) / 1024


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def stream(data: str, batch_size: int, memory: MemoryLog) -> int:
    """Consumes the training split as one rank would; returns the rows that arrived."""
    contract = load_contract(data)
    section = DataSection(path=data, batch_size=batch_size)
    manifest = read_manifest(contract, data, contract.target, "train")
    spec = StreamSpec(contract, section, contract.target, "train", manifest, batch_size, (), True, 0)
    [shards] = StreamDataConfig(deterministic=True).configure({spec.name: StreamStart(spec)}, 1, None, None)
    for row in shards[spec.name].iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=4):
        assert row.column(CURSOR)[0].as_py() == ""
        memory.num_rows += int((row.column(STATUS).chunk(0).flatten().to_numpy() == STATUS_OK).sum())
    assert memory.num_rows == spec.expected_rows
    return memory.num_rows


def draw(samples: list[tuple[float, int, float]], path: Path) -> None:
    _, rows, mib = np.array(samples).T
    figure, axes = plt.subplots(figsize=(7, 2.6), layout="constrained")
    axes.plot(rows / 1e6, mib / 1024, color="#2b6cb0")
    axes.set(xlabel="million rows streamed", ylabel="GiB, all processes", ylim=(0, None), xlim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def main(data: str, output: Path = Path("runs/stream"), batch_size: int = 4096) -> None:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    memory = MemoryLog()
    memory.start()
    started = time.monotonic()
    num_rows = stream(data, batch_size, memory)
    wall_s = time.monotonic() - started
    mib = np.array([sample[2] for sample in memory.samples])
    fifths = [float(part.mean()) for part in np.array_split(mib, 5)]
    output.mkdir(parents=True, exist_ok=True)
    result = {
        "rows": num_rows,
        "wall_s": wall_s,
        "rows_per_s": num_rows / wall_s,
        "mean_mib_by_fifth": fifths,
        "peak_mib": float(mib.max()),
    }
    (output / "memory.json").write_text(json.dumps(result | {"samples": memory.samples}, indent=1) + "\n")
    draw(memory.samples, output / "memory.svg")
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    typer.run(main)
