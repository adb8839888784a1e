"""Columns as the plain baselines build them, and data sets changed from a time on."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.asof.features import Features, Known, build_features
from raytrain.data.contract import Contract
from raytrain.data.frame import Frame, concat_frames, read_events, read_frame
from raytrain.data.manifest import read_manifest


def columns_of(contract: Contract, path: str, split: str, prior_rows: float, asked: str | None = None) -> tuple[Frame, Features]:
    """(a split of domain ``asked``, or of the target; its columns as a plain baseline builds them)"""
    frames = {
        (domain, name): read_frame(contract, path, read_manifest(contract, path, domain, name))
        for domain, described in contract.domains.items()
        for name in described.splits
    }
    known_rows = concat_frames(list(frames.values()))
    users = np.unique(known_rows.column("user")).astype(np.int64)
    histories = {domain: read_events(contract, path, domain, users) for domain in contract.domains if contract.domains[domain].history}
    domain = np.concatenate([np.full(frame.num_rows, name) for (name, _), frame in frames.items()])
    rows = frames[asked or contract.target, split]
    return rows, build_features(contract, Known(known_rows, domain, histories), rows, prior_rows)


def change_from(file: Path, time: int) -> None:
    """Flips every label, and sets every rating to 1, at or after ``time``."""
    table = pq.read_table(file)
    if "label" in table.column_names:
        label = table.column("label").to_numpy()
        label = np.where(table.column("time").to_numpy() >= time, 1 - label, label).astype(np.float32)
        table = table.set_column(table.column_names.index("label"), "label", pa.array(label))
    elif table.num_rows:
        times, ratings = table.column("time").to_pylist(), table.column("rating").to_pylist()
        changed = [[1 if at >= time else code for at, code in zip(*lists, strict=True)] for lists in zip(times, ratings, strict=True)]
        index = table.column_names.index("rating")
        table = table.set_column(index, "rating", pa.array(changed, type=pa.list_(pa.int8())))
    pq.write_table(table, file, row_group_size=64)
