"""A micro-batch as it leaves Ray Data (one Arrow row of lists) -> ``Batch`` tensors.

Shapes: b rows of this rank, L the longest history among them, M values of a multi-valued feature.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from raytrain.data.batch import Batch, Sequence
from raytrain.data.contract import Contract
from raytrain.data.history import AGE
from raytrain.data.provenance import EPOCH, FRAGMENT, ROW, STATUS, STATUS_OK, Provenance
from raytrain.data.reader import unwrap


@dataclass(frozen=True)
class Collator:
    """Builds batches of one domain."""

    contract: Contract
    domain: str
    histories: tuple[str, ...]
    event_ages: bool = False
    slices: bool = False

    def __call__(self, row: pa.Table) -> Batch:
        columns = unwrap(row)
        ids: dict[str, Tensor] = {}
        dense: dict[str, Tensor] = {}
        for feature in self.contract.features:
            column = columns[feature.name]
            if feature.kind == "multi":
                ids[feature.name] = _padded(column, _mask(_lengths(column)))[:, : feature.max_values]
            elif feature.kind == "id":
                ids[feature.name] = _tensor(column, np.int64)
            else:
                dense[feature.name] = (_tensor(column, np.float32) - feature.mean) / feature.std
        status = columns[STATUS].to_numpy()
        domain = (self.contract.target, *self.contract.sources).index(self.domain)
        return Batch(
            ids=ids,
            dense=dense,
            histories={name: self._history(name, columns) for name in self.histories},
            label=_tensor(columns[self.contract.label], np.float32),
            weight=torch.from_numpy((status == STATUS_OK).astype(np.float32)),
            group=_tensor(columns[self.contract.group], np.int64),
            time=_tensor(columns[self.contract.time], np.int64),
            domain=torch.full((len(status),), domain),
            provenance=(
                Provenance(
                    self.domain,
                    int(columns[EPOCH][0].as_py()),
                    columns[FRAGMENT].to_numpy(),
                    columns[ROW].to_numpy(),
                    status,
                ),
            ),
            slice=self._slices(columns) if self.slices else None,
        )

    def _slices(self, columns: dict[str, pa.Array]) -> Tensor:
        """int64 [b]; of a list the first value."""
        assert self.contract.slice is not None
        column = columns[self.contract.slice]
        ids = _padded(column, _mask(_lengths(column)))[:, 0] if pa.types.is_list(column.type) else _tensor(column, np.int64)
        if self.contract.unseen_slices:
            ids[torch.isin(ids, torch.tensor(self.contract.unseen_slices))] = 0
        return ids

    def _history(self, name: str, columns: dict[str, pa.Array]) -> Sequence:
        history = self.contract.domains[name].history
        assert history is not None, name
        lengths = _lengths(columns[f"{name}/item"])
        mask = _mask(lengths)
        side = {info.name: _padded(columns[f"{name}/{info.name}"], mask) for info in history.side}
        age_s = _padded(columns[f"{name}/{AGE}"], mask) if self.event_ages else None
        return Sequence(_padded(columns[f"{name}/item"], mask), torch.from_numpy(lengths), side, age_s)


def join_domains(batches: list[Batch]) -> Batch:
    """One batch of the rows of several domains, in the order given."""
    if len(batches) == 1:
        return batches[0]
    first = batches[0]
    return Batch(
        ids={name: _concat([batch.ids[name] for batch in batches]) for name in first.ids},
        dense={name: torch.cat([batch.dense[name] for batch in batches]) for name in first.dense},
        histories={name: _join_histories([batch.histories[name] for batch in batches]) for name in first.histories},
        label=torch.cat([batch.label for batch in batches]),
        weight=torch.cat([batch.weight for batch in batches]),
        group=torch.cat([batch.group for batch in batches]),
        time=torch.cat([batch.time for batch in batches]),
        domain=torch.cat([batch.domain for batch in batches]),
        provenance=tuple(part for batch in batches for part in batch.provenance),
        slice=torch.cat(slices) if len(slices := [batch.slice for batch in batches if batch.slice is not None]) == len(batches) else None,
    )


def _join_histories(parts: list[Sequence]) -> Sequence:
    return Sequence(
        _concat([part.items for part in parts]),
        torch.cat([part.lengths for part in parts]),
        {name: _concat([part.side[name] for part in parts]) for name in parts[0].side},
        _concat(ages) if len(ages := [part.age_s for part in parts if part.age_s is not None]) == len(parts) else None,
    )


def _concat(tensors: list[Tensor]) -> Tensor:
    """Stacks [b, L_i] tensors, the narrower ones padded with 0."""
    if tensors[0].dim() == 1:
        return torch.cat(tensors)
    width = max(tensor.shape[1] for tensor in tensors)
    return torch.cat([torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors])


def _lengths(lists: pa.Array) -> npt.NDArray[np.int64]:
    return np.asarray(np.diff(lists.offsets.to_numpy()), dtype=np.int64)


def _tensor(column: pa.Array, dtype: type[np.generic]) -> Tensor:
    return torch.from_numpy(column.to_numpy().astype(dtype))


def _mask(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """[b, W], true on values; W is the longest list, at least 1."""
    return np.asarray(np.arange(max(1, int(lengths.max(initial=0)))) < lengths[:, None])


def _padded(lists: pa.Array, mask: npt.NDArray[np.bool_]) -> Tensor:
    """int64 [b, W] of list values, 0 where ``mask`` is false.

    Values are spread while they are as narrow as they came and widened last: a quarter of the time for two histories of up to
    200 events with two codes, 1.1 of 4.0 ms for 1,024 rows.
    """
    values = lists.flatten().to_numpy()
    if mask.all():
        return torch.from_numpy(values.astype(np.int64).reshape(mask.shape))
    padded = np.zeros(mask.shape, values.dtype)
    padded[mask] = values
    return torch.from_numpy(padded.astype(np.int64))
