"""Rows left on their device until there are enough for one copy to the host."""

from collections.abc import Mapping

import torch
from torch import Tensor

from raytrain.errors import DataError
from raytrain.metrics.rows import Columns

PENDING_ROWS = 1 << 18
"""One host sync for so many rows."""

_IDS = ("group", "slice")


class PendingRows:
    """Columns of one length, by name; every call of ``add`` names the same."""

    def __init__(self) -> None:
        self._batches: list[list[Tensor]] = []
        self._names: tuple[str, ...] = ()
        self.num_rows = 0

    def add(self, columns: Mapping[str, Tensor]) -> None:
        """Takes [B] columns, ``weight`` among them, on any device; they are copied, so the caller may reuse the tensors.

        Raises:
            DataError: the tensors are not vectors of one length.
        """
        shapes = [tuple(column.shape) for column in columns.values()]
        if any(len(shape) != 1 or shape != shapes[0] for shape in shapes):
            names = list(columns)
            raise DataError(
                f"{', '.join(names[:-1])} and {names[-1]} have to be vectors of one length. "
                f"Received: shapes {', '.join(map(str, shapes))}. Squeeze the prediction or pass the batch's own columns."
            )
        self._names = tuple(columns)
        # A copy, because a view would keep alive the whole block that a batch was cut from.
        self._batches.append(
            [column.detach().to(torch.int64 if name in _IDS else torch.float32, copy=True) for name, column in columns.items()]
        )
        self.num_rows += shapes[0][0]

    def take(self) -> Columns | None:
        """Moves all rows but padding (weight 0) to the host, a host sync; None when nothing was added since."""
        if not self._batches:
            return None
        held = {name: torch.cat(parts).cpu().numpy() for name, parts in zip(self._names, zip(*self._batches, strict=True), strict=True)}
        self._batches, self.num_rows = [], 0
        kept = held["weight"] != 0
        return {name: column[kept] for name, column in held.items()}
