"""What a model may do around a step of the one loop: before it, in its loss, and in checkpoints and the log.

A plain model minimises the mean of its rows' losses and does nothing else. ``pair_transfer.py`` has what ADSNet does,
``domain_transfer.py`` what its peers of one network do.
"""

import io
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from raytrain.data.batch import Batch

TRANSFER_FILE = "transfer.pt"
"""Of a checkpoint, beside the tensors that DCP writes; only models with such state have it."""


class Transfer(Protocol):
    """Called by the loop on every rank at the same steps; collectives are allowed in ``before_step`` and ``loss``."""

    networks: tuple[str, ...]
    """What the names of predictions begin with: "" for the served network, and for others that are scored beside it."""

    def before_step(self, step: int) -> None:
        """Before the lookup of 0-based ``step``."""
        ...

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """This rank's share of the global batch's loss, a scalar, and detached scalars for the log, whose names never change."""
        ...

    def counts(self, step: int) -> bool:
        """Whether the network after 1-based ``step`` may be a run's best, and its evaluation is one that early stopping goes by."""
        ...

    def clipped(self) -> list[list[nn.Parameter]]:
        """Parameters whose gradients' norms are bounded, one norm a list."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """The same on every rank; empty for a model that keeps nothing."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...

    def records(self, step: int) -> list[dict[str, Any]]:
        """For the log, at the end of a window of it."""
        ...

    def warnings(self) -> list[str]:
        """What the user should know once training is over, a sentence each."""
        ...


class PlainLoss:
    """The weighted mean of the rows' losses."""

    networks: tuple[str, ...] = ("",)

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def before_step(self, step: int) -> None:
        pass

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return (output.row_loss * batch.weight).sum() / batch.total_weight, output.logs

    def counts(self, step: int) -> bool:
        return True

    def clipped(self) -> list[list[nn.Parameter]]:
        return [list(self._network.parameters())]

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        pass

    def records(self, step: int) -> list[dict[str, Any]]:
        return []

    def warnings(self) -> list[str]:
        return []


def transfer_file(transfer: Transfer) -> dict[str, bytes]:
    """The file of a checkpoint, by name; none where there is nothing to keep."""
    state = transfer.state_dict()
    if not state:
        return {}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return {TRANSFER_FILE: buffer.getvalue()}


def load_transfer_file(transfer: Transfer, data: bytes, device: torch.device) -> None:
    """From what ``transfer_file`` has written; nothing but tensors is read."""
    transfer.load_state_dict(torch.load(io.BytesIO(data), map_location=device, weights_only=True))
