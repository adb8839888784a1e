"""What this project has measured and the capacity plan builds on: each constant with the command that measured it.

All of it on 2 shared cores, one torch thread a worker; a machine of your own has its own. ``python -m tests.scale.capacity``
holds what the plan makes of them against a run, and prints them anew.
"""

from dataclasses import dataclass

from raytrain.machine import MIB

# python -m tests.scale.capacity --only plan: peak memory of planning 10^6 to 10^7 row groups of 2,000 rows.
FRAGMENT_BYTES = 38
"""A row group: 16 bytes of manifest, 16 of the epoch's order and where each ends, and what sorting takes."""
SLICE_BYTES = 33
"""A row group in a window that is held: fragment, file, row group, first and last row."""
WINDOW_BYTES = 1_300
"""A window that is held, with its read task."""
FILE_BYTES = 110
"""A file's name."""

# python -m tests.scale.capacity --only run,checkpoint: a checkpoint's files against its tensors; the middle one of 3 rates, busy machine.
TENSOR_FILE_BYTES = 1_400
"""What a file format adds to a tensor, whatever its size."""
WRITE_BYTES_PER_S = 100 * MIB
"""One rank's snapshot into a local directory."""
UPLOAD_BYTES_PER_S = 26 * MIB
"""One rank's snapshot from there to storage on the same disk, synced: an object store has its own rate, so pass --upload."""

# Cursor.to_bytes of no rows, and what an open fragment adds besides its bitmap.
CURSOR_FILE_BYTES = 2_500
CURSOR_ROW_BYTES = 20


@dataclass(frozen=True)
class Cost:
    """Microseconds of one worker's training step, shared out: row + event x events + id x distinct ids of 16 floats, a sample."""

    row: float
    event: float
    id: float
    origin: str


# din and dnn: solved from raytrain bench's samples/s at tables of 10,000 and 10 M rows, at 400 and 100 events, 2 shared cores.
COSTS = {
    "din": Cost(30.0, 0.319, 0.42, "raytrain bench, 1 worker (README, Speed)"),
    "dnn": Cost(15.3, 0.0, 0.48, "raytrain bench, 1 worker (README, Speed)"),
    "lcn": Cost(79.3, 0.146, 0.587, "python -m tests.scale.step_cost, by CPU time, busy cores"),
}

# Assumptions, measured nowhere: two workers on two cores, which is all there was, leave read tasks no core of their own.
EFFICIENCY = 0.8
"""Samples/s of R workers as a share of R times those of one, the network's time left aside."""
NETWORK_BYTES_PER_S = 1.25e9
"""10 Gbit/s a worker, in both directions at a time."""
