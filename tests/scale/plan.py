"""What a plan of 10^7 row groups costs: ``python -m tests.scale.plan --batch-size 1024``.

20 billion rows in 100,000 files, a cursor half through an epoch with 20,000 fragments open and half trained: far more than
an ordered stream ever leaves, so that the figures bound those of a run.
"""

import resource
import sys
import time

import numpy as np
import typer
from pyroaring import BitMap

from raytrain.data.cursor import Cursor
from raytrain.data.fragments import FragmentPlan
from raytrain.data.provenance import STATUS_OK, Provenance
from raytrain.data.synthetic import synthetic_manifest


def half_way(plan: FragmentPlan, num_open: int, draw: np.random.Generator) -> Cursor:
    """A cursor of the first half of epoch 0, and every second row of the next fragments."""
    cursor = Cursor({"target": plan.manifest})
    order = plan.order(0)
    half = len(order) // 2
    # A whole fragment at a time would be 10^7 calls: the bitmap of complete ones is set as it would end up.
    cursor.add(_part(order[:1], plan, np.ones(int(plan.manifest.num_rows[order[0]]), dtype=bool)))
    cursor.of("target")[0].complete.update(BitMap(order[:half].astype(np.uint32)))
    for fragment in order[half : half + num_open]:
        cursor.add(_part(np.array([fragment]), plan, draw.random(int(plan.manifest.num_rows[fragment])) < 0.5))
    return cursor


def _part(fragment: np.ndarray, plan: FragmentPlan, trained: np.ndarray) -> Provenance:
    rows = np.flatnonzero(trained).astype(np.int32)
    return Provenance("target", 0, np.full(len(rows), fragment[0], np.int32), rows, np.full(len(rows), STATUS_OK, np.int8))


def measure(num_files: int, row_groups_per_file: int, num_open: int, batch_size: int) -> dict[str, float]:
    """Seconds and MiB of each step; the peak is that of the process."""
    figures: dict[str, float] = {}
    plan = FragmentPlan(synthetic_manifest(num_files, row_groups_per_file, 2000, 0), batch_size)
    figures["row_groups"], figures["rows"] = len(plan.manifest.num_rows), plan.num_rows
    saved = half_way(plan, num_open, np.random.default_rng(0)).to_bytes()
    figures["cursor_mib"] = len(saved) / 2**20
    started = time.perf_counter()
    cursor = Cursor.from_bytes(saved, {"target": plan.manifest})
    remaining = plan.remaining(cursor.of("target"), (0, 1))
    figures["remaining_s"] = time.perf_counter() - started
    started = time.perf_counter()
    windows = list(remaining.windows())
    figures["windows_s"], figures["windows"] = time.perf_counter() - started, len(windows)
    served = sum(len(window.left(plan.shuffle, plan.seed)) for window in windows[:20])
    assert served == sum(int(left) for left in remaining.rests[0].num_left[:20])
    figures["peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


def main(num_files: int = 100_000, row_groups_per_file: int = 100, num_open: int = 20_000, batch_size: int = 65_536) -> None:
    for name, value in measure(num_files, row_groups_per_file, num_open, batch_size).items():
        sys.stdout.write(f"{name:>14} {value:,.1f}\n")


if __name__ == "__main__":
    typer.run(main)
