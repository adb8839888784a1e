"""LCN's peers by name, jobs that train them, and a data set that all of them can read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.config import JobConfig
from raytrain.data.contract import Contract, Feature, Table, load_contract, save_contract
from raytrain.settings import with_overrides
from tests.data.build import build_dataset

CATEGORY = "rating"
"""Side information that the data set below has as a feature of the candidate, too."""
NUM_CATEGORIES = 6


@dataclass(frozen=True)
class Peer:
    name: str
    model: dict[str, Any]

    def __str__(self) -> str:
        return self.name


# Small choices, so that histories of a tiny data set are searched and not just taken whole.
PEERS = (
    Peer("full attention", {"name": "full_attention"}),
    Peer("sim soft", {"name": "sim", "num_events": 3, "recent_events": 2}),
    Peer("sim hard", {"name": "sim", "search": "hard", "category": CATEGORY, "num_events": 2, "recent_events": 0}),
    Peer("eta", {"name": "eta", "num_events": 3, "recent_events": 2}),
    Peer("sdim", {"name": "sdim", "recent_events": 2}),
    Peer("twin", {"name": "twin", "num_events": 3, "recent_events": 2}),
    Peer("star", {"name": "star", "num_heads": 2}),
    Peer("minet", {"name": "minet", "recent_events": 4}),
)


def build_peers_dataset(path: str) -> Contract:
    """``build_dataset`` with a category: an id feature of the candidate in the codes of the events' ratings."""
    build_dataset(path, num_users=40, num_items=30, seed=2, num_buckets=2)
    for file in sorted(Path(path).glob("samples/*/*/*.parquet")):
        table = pq.read_table(file)
        category = pa.array((1 + table.column("item").to_numpy() % (NUM_CATEGORIES - 1)).astype("int32"))
        pq.write_table(table.append_column(CATEGORY, category), file, row_group_size=64, write_page_checksum=True)
    contract = load_contract(path)
    contract = contract.model_copy(
        update={
            "tables": {**contract.tables, CATEGORY: Table(num_rows=NUM_CATEGORIES)},
            "features": (*contract.features, Feature(name=CATEGORY, kind="id", table=CATEGORY)),
        }
    )
    save_contract(contract, path)
    return contract


def job_for(path: str, peer: Peer, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 40, "window_batches": 4, "history_length": 20},
        "model": {"hidden_units": [16], **peer.model},
        "tables": {"backend": "local", "dim": 8, "lr": 0.1},
        "optimizer": {"lr": 0.01},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")
