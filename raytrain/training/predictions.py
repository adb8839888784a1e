"""Predictions of a scored split as Parquet, one file a rank."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raytrain.data.batch import Batch
from raytrain.data.provenance import STATUS_OK
from raytrain.data.stream import StreamSpec
from raytrain.storage import Storage

ROWS_PER_PREDICTION_FILE = 1_000_000


class PredictionWriter:
    """A rank's predictions with the keys that identify a row, written in parts so that memory stays flat."""

    def __init__(self, spec: StreamSpec, path: str, rank: int) -> None:
        self._spec = spec
        self._storage = Storage(path)
        self._rank = rank
        self._tables: list[pa.Table] = []
        self._num_rows = self._num_parts = 0

    def add(self, batch: Batch, predictions: dict[str, torch.Tensor]) -> None:
        """``predictions``: column -> float32 [B]."""
        source = batch.provenance[0]
        kept = source.status == STATUS_OK
        columns = {"group": batch.group, "time": batch.time, "label": batch.label, **predictions}
        values = {"fragment": source.fragment[kept], "row": source.row[kept]}
        self._tables.append(pa.table(values | {name: tensor.numpy()[kept] for name, tensor in columns.items()}))
        self._num_rows += self._tables[-1].num_rows
        if self._num_rows >= ROWS_PER_PREDICTION_FILE:
            self.flush()

    def flush(self) -> None:
        if not self._num_rows:
            return
        buffer = io.BytesIO()
        pq.write_table(pa.concat_tables(self._tables), buffer)
        name = f"{self._spec.domain}-part-{self._rank:05d}-{self._num_parts:05d}.parquet"
        self._storage.write_bytes(name, buffer.getvalue())
        self._tables, self._num_rows, self._num_parts = [], 0, self._num_parts + 1
