"""A data set whose samples carry an id of their own, and the counts that a run of ``model.name=counter`` ends with."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.config import JobConfig
from raytrain.data.contract import Contract, Feature, Table, load_contract, save_contract
from raytrain.models.baselines.declarations import COUNTS
from raytrain.settings import with_overrides
from raytrain.storage import Storage
from tests.data.build import DomainRows, Layout, numbered_samples, write_dataset

NUM_USERS = 20
NUM_SCORED_ROWS = 40
BATCH_SIZE = 16


def write_counting_dataset(
    path: str | Path, num_target: int, num_source: int, row_group_rows: int = 40, num_buckets: int = 3, num_rows_of_table: int = 0
) -> Contract:
    """Domains target and source; ``row_id`` is unique over domains and splits, from 1, in a table of at least so many rows."""
    domains = {
        "target": DomainRows(
            {
                "train": numbered_samples(num_target, NUM_USERS),
                "valid": numbered_samples(NUM_SCORED_ROWS, NUM_USERS),
                "test": numbered_samples(NUM_SCORED_ROWS, NUM_USERS),
            }
        ),
        "source": DomainRows({"train": numbered_samples(num_source, NUM_USERS)}, role="source"),
    }
    contract = write_dataset(path, domains, Layout(num_buckets, row_group_rows))
    next_id = 1
    for file in sorted(Path(path).glob("samples/*/*/bucket-*.parquet")):
        rows = pq.read_table(file)
        ids = pa.array(np.arange(next_id, next_id + rows.num_rows, dtype=np.int32))
        next_id += rows.num_rows
        pq.write_table(rows.append_column("row_id", ids), file, row_group_size=row_group_rows)
    contract = contract.model_copy(
        update={
            "tables": contract.tables | {"row_id": Table(num_rows=max(next_id, num_rows_of_table))},
            "features": (*contract.features, Feature(name="row_id", kind="id", table="row_id")),
        }
    )
    save_contract(contract, str(path))
    return contract


def counting_job(path: str, runs: str, *overrides: str) -> JobConfig:
    """Both domains in every step, two epochs of the target."""
    values: dict[str, Any] = {
        "run": {"name": "counted", "storage_path": runs, "tensorboard": False},
        "data": {"path": path, "batch_size": BATCH_SIZE, "source_batch_size": BATCH_SIZE, "window_batches": 4, "cpus_per_read_task": 0.2},
        "model": {"name": "counter"},
        "tables": {"dim": 4, "optimizer": "sgd", "lr": 1.0},
        "optimizer": {"name": "sgd"},
        "training": {"epochs": 2, "evals_per_epoch": 1, "checkpoint_every_steps": 4, "early_stopping": {"patience": None}},
        "scaling": {"num_workers": 1, "cpus_per_worker": 0.5, "threads_per_worker": 1},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def read_counts(run: str) -> npt.NDArray[np.int64]:
    """[row ids]: what the newest checkpoint counts; fails when an entry is not whole."""
    from raytrain.training.checkpoint import load_weights
    from raytrain.training.commit import CHECKPOINTS, newest
    from raytrain.training.loop import build_learner
    from raytrain.training.parallel import World

    storage = Storage(run)
    found = newest(storage)
    assert found is not None
    job = JobConfig.parse(with_overrides(counting_job("unused", "unused").model_dump(), ()), "test")
    contract = load_contract(run)
    learner = build_learner(job, contract, World.alone())
    load_weights(Storage(storage.join(f"{CHECKPOINTS}/{found.name}")), learner.tables, learner.network)
    [table] = [values for name, values in learner.tables.state_dict().items() if COUNTS in name]
    table = table.full_tensor() if hasattr(table, "full_tensor") else _whole(table)
    counts = table[:, 0].numpy()
    assert np.abs(counts - counts.round()).max() < 1e-3
    return counts.round().astype(np.int64)


def _whole(table: Any) -> Any:
    shards = table.local_shards()
    assert len(shards) == 1
    return shards[0].tensor


def check_counts(path: str, run: str, num_epochs: int) -> None:
    """Holds the counts of a finished run to arithmetic on the files: the target's rows once an epoch each, and as many steps of
    source rows, no row twice before every row once; scored rows never.

    Raises:
        AssertionError: a row was counted too often or too seldom.
    """
    counts, seen = read_counts(run), np.zeros(0, dtype=np.int64)
    num_steps = num_epochs * -(-len(ids_in(path, "target")) // BATCH_SIZE)
    for domain in ("target", "source"):
        ids = ids_in(path, domain)
        passes, rest = divmod(num_steps, -(-len(ids) // BATCH_SIZE))
        found = counts[ids]
        total = passes * len(ids) + min(rest * BATCH_SIZE, len(ids))
        described = f"{domain}: {total} visits of {len(ids)} rows expected, counted {np.bincount(found)}"
        assert (found.sum(), found.min(), found.max()) == (total, passes, passes + (rest > 0)), described
        seen = np.concatenate([seen, ids])
    assert not np.delete(counts, seen).any(), "rows that are not trained on were"


def ids_in(path: str, domain: str) -> npt.NDArray[np.int64]:
    """The row ids of a domain's training rows."""
    files = sorted(Path(path).glob(f"samples/{domain}/train/bucket-*.parquet"))
    return np.concatenate([pq.read_table(file, columns=["row_id"]).column(0).to_numpy() for file in files]).astype(np.int64)
