"""Cursor: which rows were *trained*, not read, not prefetched; the state that makes every restart exact. Torch-free.

A row is (domain, epoch, fragment, row), as its provenance says. Complete fragments are one bitmap of fragment numbers,
the few that are open hold a roaring bitmap of their rows each. Every rank keeps the rows since the last checkpoint, rank 0
the union before them; at a checkpoint they are merged, and a row that turns up twice is an error wherever it happens.
"""

import hashlib
import io
import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap

from raytrain.data.manifest import Manifest
from raytrain.data.provenance import STATUS_PADDING, Provenance
from raytrain.errors import CursorError

_COMPLETE = -1
_SCHEMA = pa.schema({"domain": pa.string(), "epoch": pa.int32(), "fragment": pa.int32(), "rows": pa.binary()})


@dataclass
class TrainedRows:
    """The rows of one domain in one epoch."""

    complete: BitMap = field(default_factory=BitMap)
    """Fragments of which every row was trained."""
    open: dict[int, BitMap] = field(default_factory=dict)
    """fragment -> rows, of the others"""

    def add(self, fragment: int, rows: BitMap, num_rows: int) -> None:
        """Raises CursorError when one of ``rows`` is there already; ``num_rows`` is the fragment's."""
        held = self.open.setdefault(fragment, BitMap())
        if fragment in self.complete or not held.isdisjoint(rows):
            raise CursorError(
                "A row has to be trained once an epoch. "
                f"Received: rows of fragment {fragment} for the second time. Resume from the last checkpoint and report this."
            )
        held |= rows
        if len(held) == num_rows:
            self.complete.add(fragment)
            del self.open[fragment]


class Cursor:
    """Trained rows of every domain of a run."""

    def __init__(self, manifests: Mapping[str, Manifest]) -> None:
        self._manifests = dict(manifests)
        self._trained: dict[str, dict[int, TrainedRows]] = {domain: {} for domain in manifests}

    def of(self, domain: str) -> Mapping[int, TrainedRows]:
        """epoch -> the rows trained of it; an epoch that was not begun is missing."""
        return self._trained[domain]

    def add(self, part: Provenance) -> None:
        """Counts a micro-batch once its optimizer step is done; quarantined rows are spent, padding is none.

        Raises:
            CursorError: a row was there already.
        """
        real = np.flatnonzero(part.status != STATUS_PADDING)
        if not len(real):
            return
        real = real[np.argsort(part.fragment[real], kind="stable")]
        fragments, rows = part.fragment[real], part.row[real].astype(np.uint32)
        firsts = np.flatnonzero(np.diff(fragments, prepend=-1))
        for fragment, chosen in zip(fragments[firsts].tolist(), np.split(rows, firsts[1:]), strict=True):
            bitmap = BitMap(array("I", chosen.tobytes()))
            if len(bitmap) != len(chosen):
                raise CursorError(f"A batch has to hold a row once. Received: rows of fragment {fragment} twice. Report this.")
            self._add(part.domain, part.epoch, fragment, bitmap)

    def merge(self, other: "Cursor") -> None:
        """Adds the rows of another rank.

        Raises:
            CursorError: both hold a row.
        """
        for domain, epochs in other._trained.items():
            num_rows = self._manifests[domain].num_rows
            for epoch, trained in epochs.items():
                for fragment, rows in trained.open.items():
                    self._add(domain, epoch, fragment, rows)
                held = self._trained[domain].setdefault(epoch, TrainedRows())
                touched = trained.complete & (held.complete | BitMap(held.open))
                for fragment in touched:
                    held.add(fragment, BitMap(range(int(num_rows[fragment]))), int(num_rows[fragment]))
                held.complete |= trained.complete

    def num_rows(self, domain: str) -> int:
        """Rows trained of a domain, over all epochs."""
        rows = self._manifests[domain].num_rows
        return sum(
            int(rows[_indices(trained.complete)].sum()) + sum(map(len, trained.open.values())) for trained in self._trained[domain].values()
        )

    def to_bytes(self) -> bytes:
        """A Parquet file of serialised bitmaps, one row an open fragment and one for the complete ones of an epoch."""
        rows = []
        for domain, epochs in self._trained.items():
            for epoch, trained in sorted(epochs.items()):
                trained.complete.run_optimize()
                rows.append((domain, epoch, _COMPLETE, trained.complete.serialize()))
                rows += [(domain, epoch, fragment, bitmap.serialize()) for fragment, bitmap in sorted(trained.open.items())]
        fingerprints = {domain: manifest.fingerprint() for domain, manifest in self._manifests.items()}
        columns = [pa.array([row[index] for row in rows], type=field.type) for index, field in enumerate(_SCHEMA)]
        table = pa.table(columns, schema=_SCHEMA).replace_schema_metadata({"fingerprints": json.dumps(fingerprints)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, manifests: Mapping[str, Manifest]) -> Self:
        """The inverse of ``to_bytes``, for the domains in ``manifests``.

        Raises:
            CursorError: it was kept of other data, or is no cursor.
        """
        try:
            table = pq.read_table(io.BytesIO(data))
            fingerprints = json.loads((table.schema.metadata or {})[b"fingerprints"])
        except (pa.ArrowException, OSError, KeyError, ValueError) as err:
            raise CursorError(f"A cursor has to be readable. Received: {err}. Resume from another checkpoint.") from None
        cursor = cls(manifests)
        for domain, manifest in manifests.items():
            if fingerprints.get(domain) != manifest.fingerprint():
                raise CursorError(
                    f"A run resumes on the rows it began with. Received: domain {domain} with the fingerprint "
                    f"{manifest.fingerprint()}, begun with {fingerprints.get(domain)}. Restore the data set, or start a new run."
                )
        for domain, epoch, fragment, serialised in zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True):
            if domain not in manifests:
                continue
            trained = cursor._trained[domain].setdefault(epoch, TrainedRows())
            bitmap = BitMap.deserialize(serialised)
            if fragment == _COMPLETE:
                trained.complete = bitmap
            else:
                trained.open[fragment] = bitmap
        return cursor

    def _add(self, domain: str, epoch: int, fragment: int, rows: BitMap) -> None:
        trained = self._trained[domain].setdefault(epoch, TrainedRows())
        trained.add(fragment, rows, int(self._manifests[domain].num_rows[fragment]))


def hash_of(data: bytes) -> str:
    """What a stream carries of the cursor it was planned from; "" stands for no cursor."""
    return hashlib.sha256(data).hexdigest()[:16] if data else ""


def trained_mask(
    trained: TrainedRows, fragments: npt.NDArray[np.int32], starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """bool [rows]: which rows of consecutive slices are trained, in reading order."""
    parts = []
    for fragment, start, stop in zip(fragments.tolist(), starts.tolist(), stops.tolist(), strict=True):
        mask = np.full(stop - start, fragment in trained.complete)
        rows = trained.open.get(fragment)
        if rows is not None:
            mask[_indices(rows & BitMap(range(start, stop))) - start] = True
        parts.append(mask)
    return np.concatenate(parts)


def _indices(bitmap: BitMap) -> npt.NDArray[np.int64]:
    return np.frombuffer(bitmap.to_array(), dtype=np.uint32).astype(np.int64)
