"""This process: its peak memory, and the noise that libraries would put on the user's screen."""

import logging
import resource
import sys
import warnings
from pathlib import Path

NOISY_LOGGERS = ("torchrec", "fbgemm_gpu", "torch.distributed", "torch._dynamo", "ray.data", "ray.train")


def peak_rss_mib() -> int:
    """Largest resident set of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # ru_maxrss would be no less than that of the process which started this one.
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")) // 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def quieten() -> None:
    """Leaves errors of Ray, TorchRec and torch on the screen and their advice off it; our own warnings stay."""
    for name in NOISY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("torchrec", "fbgemm_gpu", "torch", "ray", "pyarrow", "pydantic"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
