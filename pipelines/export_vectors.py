"""The fused monthly vectors of a trained model, one per id, as Parquet: what a server looks up instead of fusing months per request.

r depends on the id alone, given the months that may be seen (``models/ecdctr/fusion.py``), so it is computed once a refresh. Whole tables
of the newest T snapshots are held in this process: T x rows x d_T x 4 bytes of each feature.
"""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from torch import Tensor

from raytrain.data.vocabulary import vocabulary_file
from raytrain.ecdctr_config import EcdctrModel
from raytrain.errors import ConfigError, RunError
from raytrain.models.ecdctr.declarations import entities
from raytrain.models.ecdctr.fusion import MonthFusion, known_months
from raytrain.run import open_run, read_result
from raytrain.storage import Storage
from raytrain.training.checkpoint import load_whole
from raytrain.training.commit import CHECKPOINTS
from raytrain.training.start import plan_start, snapshot_vectors

SUMMARY_FILE = "vectors.json"
ROWS_PER_FILE = 1 << 20


def export_vectors(path: str, output: str, console: Console) -> dict[str, Any]:
    """Writes ``<feature>-00000.parquet``, ... with columns id, value (where the data set has a vocabulary), months, vector.

    Ids that no month knows share one vector, the row without an id. months: how many of the newest T know the id.

    Returns:
        What vectors.json holds: the snapshots, and of each feature its ids and the size of a vector.

    Raises:
        ConfigError: the run's model has no monthly vectors, or a snapshot of it is gone.
        RunError: it is not finished, or ``output`` holds files already.
    """
    run = open_run(path)
    model = run.job.model
    if not isinstance(model, EcdctrModel) or not model.months or not run.job.start.snapshots:
        raise ConfigError(
            f"Fused vectors are those of an ecdctr model with snapshots. Received: {path}, model {model.name} with "
            f"{len(run.job.start.snapshots)} snapshots. Name a daily or weekly stage of a roll."
        )
    target = Storage(output)
    if target.list_entries():
        raise RunError(f"--output has to be a new or empty directory. Received: {output}, which is not empty. Choose another.")
    plan_start(run.job, run.contract, with_parent=False)
    runs = run.job.start.snapshots[-model.months :]
    snapshots = [snapshot_vectors(Storage(snapshot)) for snapshot in runs]
    checkpoint = Storage(run.storage.join(f"{CHECKPOINTS}/{read_result(path)['best_checkpoint']}"))
    data = Storage(run.job.data.path)
    features = {}
    for feature, table in entities(run.contract).items():
        fusion = _fusion(model, checkpoint, feature)
        months = [snapshot[feature] for snapshot in snapshots]
        # Months that there are not know no id; they are the oldest.
        months = [torch.zeros_like(months[0])] * (model.months - len(months)) + months
        ids = torch.nonzero(torch.stack([(month != 0).any(1) for month in months]).any(0))[:, 0]
        values = _values(data, table)
        nobody = _rows(None, torch.zeros(1, model.months, model.month_dim), fusion, values)
        for number, part in enumerate(torch.split(ids, ROWS_PER_FILE) or [ids]):
            buffer = io.BytesIO()
            rows = _rows(part, torch.stack([month[part] for month in months], dim=1), fusion, values)
            pq.write_table(rows if number else pa.concat_tables([nobody, rows]), buffer)
            target.write_bytes(f"{feature}-{number:05d}.parquet", buffer.getvalue())
        features[feature] = {"num_ids": len(ids), "dim": model.fusion.num_outputs}
        console.print(f"{feature}: {len(ids):,} vectors of {model.fusion.num_outputs} numbers", highlight=False)
    summary = {"run": run.storage.uri, "snapshots": list(runs), "months": model.months, "features": features}
    target.write_text(SUMMARY_FILE, json.dumps(summary, indent=2) + "\n")
    return summary


def _fusion(model: EcdctrModel, checkpoint: Storage, feature: str) -> MonthFusion:
    """The trained fusion of one feature, off the run's best checkpoint."""
    fusion = MonthFusion(model.fusion, model.months, model.month_dim)
    weights = fusion.state_dict()
    load_whole(checkpoint, {"network": {f"more.fusion.{feature}.{name}": weight for name, weight in weights.items()}})
    fusion.load_state_dict(weights)
    return fusion.eval()


@torch.no_grad()
def _rows(ids: Tensor | None, months: Tensor, fusion: MonthFusion, values: pa.Array | None) -> pa.Table:
    """ids int64 [B], None for one row without an id; months float32 [B, T, d_T] -> a row an id."""
    vectors = fusion(months).numpy()
    known = pa.array([None], pa.int64()) if ids is None else pa.array(ids.numpy())
    columns = {
        "id": known,
        "months": pa.array(known_months(months).sum((1, 2)).to(torch.int8).numpy()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
    }
    if values is not None:
        columns["value"] = values.take(known)
    return pa.table(columns)


def _values(data: Storage, table: str) -> pa.Array | None:
    """What each id stands for, by id; null where nothing is known of it. None for tables of hashed or direct ids."""
    if not data.exists(vocabulary_file(table)):
        return None
    rows = pq.read_table(data.path(vocabulary_file(table)), filesystem=data.filesystem, columns=["id", "value"]).sort_by("id")
    ids = rows["id"].to_numpy()
    place = torch.full((int(ids.max(initial=0)) + 1,), -1)
    place[torch.from_numpy(ids.astype("int64"))] = torch.arange(len(ids))
    return rows["value"].combine_chunks().take(pa.array(place.numpy(), mask=(place < 0).numpy()))
