"""What a run begins with: another run's weights, and the monthly vectors of earlier ones.

A run of ``tpm`` leaves ``snapshot/`` in its directory when it is over: its user and item tables, in which an id that the run did not
see is a row of zeros. ``snapshot.json`` is written last, so a snapshot without it does not count. Runs of ``ecdctr`` read snapshots
into frozen tables at every start, each rank its own rows, and keep no copy: a served model needs its snapshots.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.ecdctr_config import EcdctrModel
from raytrain.embeddings.tables import Tables
from raytrain.errors import ConfigError, RunError
from raytrain.models.ecdctr.batch_norm import reset_batch_norm
from raytrain.models.ecdctr.declarations import entities, month_table
from raytrain.models.ecdctr.network import HistoricalEmbeddings
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_checkpoint, load_tables, load_weights, load_whole, save_tables
from raytrain.training.commit import CHECKPOINTS, best_of, newest
from raytrain.training.loop import Learner
from raytrain.training.parallel import World

SNAPSHOT = "snapshot"
SNAPSHOT_FILE = f"{SNAPSHOT}/snapshot.json"


@dataclass(frozen=True)
class Start:
    """``start`` of a config, with every path checked on the driver; pickled by Ray."""

    checkpoint: str | None = None
    """URI of the directory of the parent's best checkpoint."""
    snapshots: tuple[tuple[str, int], ...] = ()
    """(URI of the directory of a snapshot, Unix second from which rows may see it), oldest first"""


def plan_start(job: JobConfig, contract: Contract, with_parent: bool = True) -> Start:
    """Finds the snapshots, and the parent's checkpoint unless ``with_parent`` is false, as for a run that is only scored.

    Raises:
        ConfigError: a run is not there, is not finished, or its tables are not those of ``job``.
    """
    checkpoint = _best_checkpoint(job.start.run) if job.start.run and with_parent else None
    if not isinstance(job.model, EcdctrModel):
        return Start(checkpoint)
    rows = {feature: contract.tables[table].num_rows for feature, table in entities(contract).items()} if job.model.months else {}
    found = [_snapshot(run, {name: [count, job.model.month_dim] for name, count in rows.items()}) for run in job.start.snapshots]
    times = [seen_from for _, seen_from in found]
    if times != sorted(set(times)):
        raise ConfigError(f"start.snapshots go from the oldest to the newest. Received: {', '.join(job.start.snapshots)}. Order them.")
    return Start(checkpoint, tuple(found))


def begin(start: Start, job: JobConfig, learner: Learner) -> None:
    """Gives a learner that has not trained its parent's weights; a collective."""
    if start.checkpoint is None:
        return
    directory = Storage(start.checkpoint)
    if job.start.optimizer == "keep":
        load_checkpoint(directory, learner.tables, learner.network, learner.optimizer)
    else:
        load_weights(directory, learner.tables, learner.network)
    reset_batch_norm(learner.network, job.start.batch_norm)


def read_snapshots(start: Start, contract: Contract, learner: Learner) -> None:
    """Reads the snapshots into the frozen tables, and tells the network when each may be seen; a collective."""
    for month, (uri, seen_from) in enumerate(start.snapshots):
        names = {f"{table}.weight": f"{month_table(month, feature)}.weight" for feature, table in entities(contract).items()}
        load_tables(Storage(uri), learner.tables, names)
        for module in learner.network.modules():
            if isinstance(module, HistoricalEmbeddings):
                module.seen_from[month] = seen_from


def write_snapshot(storage: Storage, job: JobConfig, contract: Contract, tables: Tables, world: World) -> dict[str, Any]:
    """Leaves the tables of ``tpm`` in the run directory ``storage``; a collective. Rows that were not trained are zeros from here on.

    Returns:
        What ``snapshot.json`` holds.
    """
    seen = tables.zero_untrained_rows()
    wanted = entities(contract)
    counts = world.sum(torch.tensor([float(seen.get(table, 0)) for table in wanted.values()], device=world.device)).tolist()
    directory = Path(tempfile.mkdtemp(prefix="raytrain-snapshot-"))
    try:
        if world.rank == 0:
            storage.delete_dir(SNAPSHOT)
        world.broadcast(None)
        save_tables(directory, tables, [f"{table}.weight" for table in wanted.values()])
        for file in sorted(directory.iterdir()):
            storage.write_bytes(f"{SNAPSHOT}/{file.name}", file.read_bytes())
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    world.gather(b"")
    features = {
        name: {"table": table, "num_rows": contract.tables[table].num_rows, "dim": job.tables.dim, "num_seen_rows": int(count)}
        for (name, table), count in zip(wanted.items(), counts, strict=True)
    }
    summary = {"seen_from": _seen_from(job, contract), "features": features}
    if world.rank == 0:
        storage.write_text(SNAPSHOT_FILE, json.dumps(summary, indent=2) + "\n")
    return summary


def snapshot_vectors(run: Storage) -> dict[str, Tensor]:
    """Feature -> float32 [rows, d_T], the vectors that a run of ``tpm`` left, whole and on this process alone.

    Raises:
        RunError: it left none, or they are damaged.
    """
    try:
        summary = json.loads(run.read_text(SNAPSHOT_FILE))
    except FileNotFoundError:
        raise RunError(f"A run of tpm leaves a snapshot. Received: {run.uri}, without {SNAPSHOT_FILE}. Train it anew.") from None
    found = {name: torch.zeros(values["num_rows"], values["dim"]) for name, values in summary["features"].items()}
    tables = {f"{values['table']}.weight": found[name] for name, values in summary["features"].items()}
    load_whole(Storage(run.join(SNAPSHOT)), {"tables": tables})
    return found


def _best_checkpoint(run: str) -> str:
    storage = Storage(run)
    last = newest(storage)
    best = best_of(storage, last) if last else None
    if best is None or not storage.exists("result.json"):
        raise ConfigError(f"start.run has to be a finished run. Received: {run}, without a best checkpoint or a result. Train it first.")
    return storage.join(f"{CHECKPOINTS}/{best.name}")


def _seen_from(job: JobConfig, contract: Contract) -> int:
    """Unix second: the first that no row of the training days, or of the training split, has reached."""
    if job.data.days is not None:
        stop = job.data.days.train.stop
        return int(datetime(stop.year, stop.month, stop.day, tzinfo=UTC).timestamp())
    return (contract.domains[contract.target].splits["train"].max_time or 0) + 1


def _snapshot(run: str, wanted: dict[str, list[int]]) -> tuple[str, int]:
    """(URI of the snapshot of ``run``, when it may be seen); its tables have to be ``wanted``: feature -> [rows, dim]."""
    storage = Storage(run)
    try:
        summary = json.loads(storage.read_text(SNAPSHOT_FILE))
        found = {name: [values["num_rows"], values["dim"]] for name, values in summary["features"].items()}
        seen_from = int(summary["seen_from"])
    except FileNotFoundError:
        raise ConfigError(
            f"start.snapshots has to name finished runs of tpm. Received: {run}, without {SNAPSHOT_FILE}. Train it, or restore it."
        ) from None
    except (ValueError, KeyError, TypeError) as err:
        raise RunError(f"{storage.join(SNAPSHOT_FILE)} has to be what a run wrote. Received: {err!r}. Train that run anew.") from None
    if found != wanted:
        raise ConfigError(
            "A snapshot has to hold vectors of the same users and items, of size model.month_dim. "
            f"Received: {run} with {found}, wanted {wanted} (rows, size). Train it on the same data set with tables.dim=model.month_dim."
        )
    return storage.join(SNAPSHOT), seen_from
