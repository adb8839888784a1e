"""The one place where a network may see other ranks' rows; it holds no distributed code itself."""

from collections.abc import Callable

from torch import Tensor, nn


class AcrossRanks(nn.Module):
    """[b, ...] of this rank -> [B, ...] of all ranks in their order, gradients included; the identity until training connects it.

    A collective once connected: every rank has to call it equally often, whatever its rows are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gather: Callable[[Tensor], Tensor] | None = None

    def forward(self, rows: Tensor) -> Tensor:
        return rows if self.gather is None else self.gather(rows)
