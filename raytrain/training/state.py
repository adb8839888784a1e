"""RunState: what a checkpoint holds besides tensors. Saved as ``state.json`` and ``cursor.parquet``, both at one step boundary."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.cursor import Cursor
from raytrain.data.manifest import Manifest
from raytrain.data.provenance import STATUS_OK, STATUS_QUARANTINED
from raytrain.training.commit import CURSOR_FILE
from raytrain.training.parallel import World
from raytrain.training.stopping import EarlyStopping

STATE_FILE = "state.json"


@dataclass
class TrainOutcome:
    """How far a run came; equal on every rank except the timings."""

    num_steps: int = 0
    rows_trained: dict[str, int] = field(default_factory=dict)
    rows_quarantined: dict[str, int] = field(default_factory=dict)
    best_step: int = 0
    best_metrics: dict[str, float] = field(default_factory=dict)
    stopped_early: bool = False
    train_s: float = 0.0
    wait_s: float = 0.0
    starts: list[dict[str, int]] = field(default_factory=list)
    """step and world_size of every worker group that trained."""


class RunState:
    """Progress, patience and the rows trained, of this rank until they are merged."""

    def __init__(self, job: JobConfig, manifests: Mapping[str, Manifest], world: World, saved: Mapping[str, bytes] | None = None) -> None:
        """``saved`` are the files of a checkpoint; none begins a run.

        Raises:
            CursorError: the checkpoint was made on other data.
        """
        self.outcome = TrainOutcome()
        self.stopping = EarlyStopping(job.training.early_stopping)
        self.cursor = Cursor(manifests)
        self._manifests = dict(manifests)
        self._trained, self._quarantined = dict.fromkeys(manifests, 0), dict.fromkeys(manifests, 0)
        if saved is not None:
            values = json.loads(saved[STATE_FILE])
            self.outcome = TrainOutcome(**values["outcome"])
            self.stopping.restore(values["stopping"])
        if saved is not None and world.rank == 0:
            self.cursor = Cursor.from_bytes(saved[CURSOR_FILE], manifests)
            self._trained |= self.outcome.rows_trained
            self._quarantined |= self.outcome.rows_quarantined
        self.outcome.starts.append({"step": self.outcome.num_steps, "world_size": world.size})

    def add(self, batch: Batch) -> None:
        """Counts a batch whose optimizer step is done.

        Raises:
            CursorError: one of its rows was trained before.
        """
        self.outcome.num_steps += 1
        for part in batch.provenance:
            self.cursor.add(part)
            self._trained[part.domain] += int((part.status == STATUS_OK).sum())
            self._quarantined[part.domain] += int((part.status == STATUS_QUARANTINED).sum())

    def count_rows(self, world: World) -> None:
        """Sums trained and quarantined rows over ranks into the outcome; a collective."""
        counts = torch.tensor([[*self._trained.values()], [*self._quarantined.values()]], device=world.device)
        trained, quarantined = world.sum(counts).tolist()
        self.outcome.rows_trained = dict(zip(self._trained, trained, strict=True))
        self.outcome.rows_quarantined = dict(zip(self._trained, quarantined, strict=True))

    def snapshot(self, world: World) -> dict[str, bytes]:
        """The files of a checkpoint on rank 0, nothing on the others, whose rows rank 0 takes over; a collective.

        Raises:
            CursorError: two ranks trained the same row.
        """
        self.count_rows(world)
        gathered = world.gather(self.cursor.to_bytes() if world.rank else b"")
        if world.rank:
            self.cursor = Cursor(self._manifests)
            return {}
        for data in gathered[1:]:
            self.cursor.merge(Cursor.from_bytes(data, self._manifests))
        state: dict[str, Any] = {"outcome": asdict(self.outcome), "stopping": self.stopping.state()}
        return {STATE_FILE: json.dumps(state).encode(), CURSOR_FILE: self.cursor.to_bytes()}
