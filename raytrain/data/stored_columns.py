"""Rows as they are stored, for plain models that take a data set's own columns: numbers raw, ids as categories."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from raytrain.data.contract import Contract
from raytrain.data.frame import Frame
from raytrain.errors import DataError

Chosen = slice | npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StoredColumns:
    """N rows of one or several domains, F columns."""

    label: npt.NDArray[np.float32]
    """[N]"""
    is_source: npt.NDArray[np.bool_]
    """[N], true on rows of a source domain"""
    names: tuple[str, ...]
    """F names"""
    categorical: tuple[str, ...]
    """Those of ``names`` that hold ids"""
    values: npt.NDArray[np.float64]
    """[N, F]: a dense feature as it is stored, not normalised; an id; of a multi-valued feature the first id, or 0"""

    def columns(self, names: tuple[str, ...]) -> npt.NDArray[np.float64]:
        """[N, len(names)].

        Raises:
            DataError: this data set does not give one of them.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DataError(
                f"A data set has to give every column that the model asks for. Received: none for {', '.join(missing)}, "
                f"columns {', '.join(self.names)}. Name others, or score data prepared by the same recipe."
            )
        return self.values[:, [self.names.index(name) for name in names]]

    def rows(self, chosen: Chosen) -> "StoredColumns":
        return replace(self, label=self.label[chosen], is_source=self.is_source[chosen], values=self.values[chosen])


def stored_columns(contract: Contract, parts: Sequence[tuple[str, Frame]]) -> StoredColumns:
    """The rows of (domain, its rows), one part after the other."""
    kinds = {feature.name: feature.kind for feature in contract.features}
    columns = [
        np.concatenate([(rows.column(name) if kind == "dense" else rows.first_ids(name)).astype(np.float64) for _, rows in parts])
        for name, kind in kinds.items()
    ]
    return StoredColumns(
        label=np.concatenate([rows.column(contract.label).astype(np.float32) for _, rows in parts]),
        is_source=np.concatenate([np.full(rows.num_rows, domain != contract.target) for domain, rows in parts]),
        names=tuple(kinds),
        categorical=tuple(name for name, kind in kinds.items() if kind != "dense"),
        values=np.stack(columns, axis=1),
    )
