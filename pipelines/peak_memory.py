"""Peak memory of a part of a process's life."""

import ctypes
import gc
import sys
from pathlib import Path

from raytrain.training.process import forget_peak_rss, peak_rss_mib

_STATUS = Path("/proc/self/status")


class PeakMemory:
    """The highest resident memory since this was made, over what the process held at that moment.

    On Linux the freed memory that malloc keeps is handed back first (or what is built next would hide in it) and the
    kernel's high-water mark is set back to the present. Elsewhere neither can be done: only what goes past the highest
    point since the start of the process is seen, which is too little.
    """

    def __init__(self) -> None:
        gc.collect()
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
            if trim is not None:
                trim(0)
            forget_peak_rss()
        self._before_mib = _resident_mib()

    def mib(self) -> float:
        return max(0.0, peak_rss_mib() - self._before_mib)


def _resident_mib() -> float:
    if not _STATUS.exists():
        return peak_rss_mib()
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith("VmRSS:")) / 2**10
