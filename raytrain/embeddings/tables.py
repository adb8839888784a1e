"""The Protocol both backends implement; ``config.py`` holds the tables as data.

A table set maps ids to rows. It looks every *unique* id of a step up once per table, whatever features use the table:
``rows[U, D]`` plus one ``inverse`` per feature. A model gathers what it needs, so a history of B x L events costs U rows
of lookup and no B x L x D tensor unless the model makes one.

Shapes: B rows, L events, M values, U unique ids of a table in this step, D embedding size, R ranks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from raytrain.data.batch import Batch
from raytrain.embeddings.config import TableConfig as TableConfig
from raytrain.embeddings.config import TableOptimizer as TableOptimizer


@dataclass(frozen=True)
class EmbeddedRows:
    """One table's unique rows of a step, and where each feature finds its own among them."""

    rows: Tensor
    """float32 [U, D]"""
    ids: Tensor
    """int64 [U]"""
    inverse: dict[str, Tensor]
    """feature -> int64 [B] or [B, M]; "history/<name>" -> int64 [B, L]"""

    def of(self, feature: str) -> Tensor:
        """float32 [B, D] (or [B, M, D], [B, L, D]): the feature's vectors, gathered."""
        return gathered(self.rows, self.inverse[feature])


def gathered(rows: Tensor, index: Tensor) -> Tensor:
    """rows float32 [U, D], index int64 of any shape S -> [S, D]."""
    # Not embedding(): its CPU backward takes 13 ms for 205 k events of 5 k rows and 41 ms of 402 k, this one 11 and 13, to the
    # same bits. Plain indexing is slower than both.
    return rows.index_select(0, index.reshape(-1)).view(*index.shape, rows.shape[1])


Embedded = Mapping[str, EmbeddedRows]
"""table name -> its rows of this step"""


def history_feature(history: str) -> str:
    """Name under which a history's ids stand in ``EmbeddedRows.inverse``."""
    return f"history/{history}"


class Tables(Protocol):
    """A set of embedding tables, local or sharded. Calling it is a collective: every rank, equally often."""

    def __call__(self, batch: Batch) -> Embedded:
        """Looks up; gradients of ``rows`` update the tables inside backward."""
        ...

    def set_lr(self, lr: float) -> None:
        """Learning rate of the following backward passes."""
        ...

    def train(self, mode: bool = True) -> Any: ...

    def state_dict(self) -> dict[str, Any]:
        """Weights of trained tables, for torch.distributed.checkpoint; frozen ones are part of another run's."""
        ...

    def frozen_state_dict(self) -> dict[str, Any]:
        """Weights of frozen tables, which share their memory: loading into them is how they get their rows."""
        ...

    def zero_untrained_rows(self) -> dict[str, int]:
        """Sets every row that no gradient has reached since the optimizer's state was new to 0; a collective.

        Returns:
            Trained table -> rows of this rank that a gradient has reached. Of a table sharded by column, its first columns' rank
            counts them.

        Raises:
            TablesError: the optimizer keeps no state that says so.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any: ...

    def optimizer_state_dict(self) -> dict[str, Any]: ...

    def load_optimizer_state_dict(self, state: dict[str, Any]) -> None: ...

    def blend(self, pairs: Sequence[tuple[str, str]], share: float, with_state: bool = False) -> None:
        """Moves the first table of each pair towards the second, shard by shard: (1 - share) first + share second, so 1 copies.

        No row leaves its rank. Between a step's backward and the next lookup. ``with_state``: the optimizer's state goes along.

        Raises:
            TablesError: a table is unknown, or the two are not placed alike (``TableConfig.beside``).
        """
        ...

    def describe(self) -> str:
        """The plan, one line a table: rows, dim, sharding, ranks, MiB on each rank."""
        ...

    def num_bytes(self) -> int:
        """Bytes of this rank's share of the tables, optimizer state left out."""
        ...
