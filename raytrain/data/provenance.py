"""Where each row of a batch comes from and whether it counts. Torch-free: read tasks stamp it and never load torch."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Columns that read tasks add to a micro-batch.
EPOCH, FRAGMENT, ROW, STATUS = "_epoch", "_fragment", "_row", "_status"
# Column of a micro-batch, not of its rows: the hash of the cursor that the stream was planned from.
CURSOR = "_cursor"

# Values of the status column. Anything but OK has weight 0.
STATUS_OK = 0
STATUS_PADDING = 1
STATUS_QUARANTINED = 2


@dataclass(frozen=True)
class Provenance:
    """Rows of one domain in a batch; what the cursor will count."""

    domain: str
    epoch: int
    fragment: npt.NDArray[np.int32]
    """[B], index into the domain's FragmentPlan; -1 on padding."""
    row: npt.NDArray[np.int32]
    """[B], row inside the fragment; -1 on padding."""
    status: npt.NDArray[np.int8]
    """[B], STATUS_*"""
