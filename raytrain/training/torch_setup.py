"""How torch runs in every process that trains, so that a measurement and a run do the same."""

import torch

from raytrain.training.process import quieten


def set_up_torch(num_threads: int, deterministic: bool) -> None:
    """Threads, determinism, and no advice on the screen; to be called before the first tensor is made."""
    quieten()
    torch.set_num_threads(num_threads)
    torch.use_deterministic_algorithms(deterministic)
    # Filling every new tensor with NaN is for finding bugs, and costs a pass over memory per operation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
