"""This process: its peak memory, and the noise that libraries would put on the user's screen."""

import logging
import resource
import sys
import warnings
from pathlib import Path

NOISY_LOGGERS = ("torchrec", "fbgemm_gpu", "torch.distributed", "torch._dynamo", "ray.data", "ray.train")

# Read when a process starts. A step frees tensors of tens of MiB that the next step asks for again; glibc would hand them back
# to the system, and every page of them would be zeroed anew: a fifth of a DIN step on 1,024 x 400 events. One arena, since the
# others, which threads besides the main one get, are cut into heaps of 64 MiB that are handed back whatever the thresholds.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}


def peak_rss_mib() -> int:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would be no less than that of the process which started this one.
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")) // 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def forget_peak_rss() -> None:
    """Sets the mark that ``peak_rss_mib`` reads back to the present, on Linux; elsewhere it stands for the whole process."""
    if sys.platform == "linux":
        # 5: resets the peak alone (man 5 proc_pid_clear_refs).
        Path("/proc/self/clear_refs").write_text("5")


def quieten() -> None:
    """Leaves errors of Ray, TorchRec and torch on the screen and their advice off it; our own warnings stay."""
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torchrec", "fbgemm_gpu", "torch", "ray", "pyarrow", "pydantic"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
