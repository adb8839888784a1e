"""One step's rows of one rank, as tensors.

Shapes: B rows, L events of a history, M values of a multi-valued feature. Ids are int64, 0 is unknown or padding.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from raytrain.data.provenance import Provenance


@dataclass(frozen=True)
class Sequence:
    """A history: the newest L events strictly before each row's time, oldest first, padded at the end."""

    items: Tensor
    """int64 [B, L]"""
    lengths: Tensor
    """int64 [B]"""
    side: dict[str, Tensor] = field(default_factory=dict)
    """int64 [B, L] each; 0 pads."""
    age_s: Tensor | None = None
    """int64 [B, L]: seconds from each event to its row, where the model asks for them; 0 pads"""

    @property
    def mask(self) -> Tensor:
        """bool [B, L], true on events."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]


@dataclass(frozen=True)
class Batch:
    """Rows of one or several domains; ``domain`` tells them apart (0 is the target)."""

    ids: dict[str, Tensor]
    """id features: int64 [B]; multi features: int64 [B, M]"""
    dense: dict[str, Tensor]
    """float32 [B], normalised"""
    histories: dict[str, Sequence]
    label: Tensor
    """float32 [B]: 0 or 1, or an amount where the contract says so"""
    weight: Tensor
    """float32 [B]; 0 on padding and quarantined rows"""
    group: Tensor
    """int64 [B], the id GAUC groups by"""
    time: Tensor
    """int64 [B], seconds"""
    domain: Tensor
    """int64 [B]"""
    provenance: tuple[Provenance, ...] = ()
    slice: Tensor | None = None
    """int64 [B], the id that gain is kept by, where the model asks for it; 0 is unknown, or unseen in training"""
    total_weight: Tensor | None = None
    """float32 scalar, the weight of the global batch; set by the training step"""

    @property
    def num_rows(self) -> int:
        return len(self.label)

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        tensors = [*self.ids.values(), *self.dense.values(), self.label, self.weight, self.group, self.time, self.domain]
        for sequence in self.histories.values():
            tensors += [sequence.items, sequence.lengths, *sequence.side.values()]
            tensors += [] if sequence.age_s is None else [sequence.age_s]
        return sum(tensor.nbytes for tensor in tensors) + (0 if self.slice is None else self.slice.nbytes)

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        return Batch(
            ids={name: value.to(device) for name, value in self.ids.items()},
            dense={name: value.to(device) for name, value in self.dense.items()},
            histories={
                name: Sequence(
                    sequence.items.to(device),
                    sequence.lengths.to(device),
                    {side: codes.to(device) for side, codes in sequence.side.items()},
                    None if sequence.age_s is None else sequence.age_s.to(device),
                )
                for name, sequence in self.histories.items()
            },
            label=self.label.to(device),
            weight=self.weight.to(device),
            group=self.group.to(device),
            time=self.time.to(device),
            domain=self.domain.to(device),
            provenance=self.provenance,
            slice=None if self.slice is None else self.slice.to(device),
        )
