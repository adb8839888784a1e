"""Tables as data: what a model declares and a plan places. Torch-free, so that tables are sized before torch is loaded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TableConfig:
    """One table. ``features`` name columns of ``Batch.ids``; ``histories`` name keys of ``Batch.histories``."""

    name: str
    num_rows: int
    dim: int
    features: tuple[str, ...] = ()
    histories: tuple[str, ...] = ()
    init_std: float = 0.01
    frozen: bool = False
    """Looked up without gradient: its bytes are the same after training."""
    beside: str | None = None
    """A table of the same shape that lies on the same ranks, row for row, so that one can be copied to the other where it is."""


@dataclass(frozen=True)
class TableOptimizer:
    """Fused into backward: a row moves only where its gradient is not zero.

    Adagrad and SGD are the kinds FBGEMM has on CPU, and both leave a row with a zero gradient bit-identical, so padded
    and rejected rows (weight 0) may stay in the lookup.
    """

    kind: str
    """rowwise_adagrad | adagrad | sgd"""
    lr: float
    eps: float = 1e-8


VERSION = "1.8.0"
"""Of torchrec and FBGEMM, which are built for one version of torch."""
INSTALL = (
    "On CPU run: pip install 'tensordict>=0.7' 'torchmetrics>=1.0' pyre-extensions tqdm; "
    f"pip install --no-deps torchrec=={VERSION} fbgemm-gpu-cpu=={VERSION}. On CUDA run: pip install 'raytrain[cuda]'"
)
