"""Runs the cells of a study, each a run of its own; what finished earlier, under whatever name, is kept."""

import json
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console

from pipelines.study_plan import Cell
from raytrain.config import JobConfig
from raytrain.storage import Storage, masked

Train = Callable[[JobConfig, Console], dict[str, Any]]

_KEPT_KEYS = (
    "model",
    "dataset",
    "content_hash",
    "world_size",
    "rows_trained",
    "rows_expected",
    "rows_quarantined",
    "train_samples_per_s",
    "data_wait_share",
    "peak_rss_mib",
    "num_steps",
    "best_step",
    "stopped_early",
    "wall_s",
    "valid",
    "test",
    "model_logs",
)


class CellRunner:
    """Runs cells into ``storage`` and remembers each under ``cells/<name>.json``."""

    def __init__(self, storage: Storage, console: Console, train: Train | None) -> None:
        """``train`` runs one job into its run directory; ``raytrain.run.train`` when None."""
        self._storage, self._console, self._train = storage, console, train or _train

    def run(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """One record a cell, finished ones from earlier calls included."""
        known = self._finished()
        records = [known.get(cell.key) for cell in cells]
        num_kept = sum(record is not None for record in records)
        self._console.print(
            f"{len(cells)} cells under {masked(self._storage.uri)}: {num_kept} finished earlier, {len(cells) - num_kept} to run",
            highlight=False,
        )
        for index, cell in enumerate(cells):
            if records[index] is not None:
                continue
            left = _time_left(cells, records)
            self._console.print(f"[bold]cell {index + 1} of {len(cells)}: {cell.name}[/bold]  {left}", highlight=False)
            record = self._run(cell)
            self._storage.write_text(f"cells/{cell.name}.json", json.dumps(record, indent=2) + "\n")
            records[index] = record
        return [record for record in records if record is not None]

    def _run(self, cell: Cell) -> dict[str, Any]:
        name = self._fresh_name(cell.name)
        run = cell.job.run.model_copy(update={"name": name, "storage_path": self._storage.uri, "save_predictions": True})
        record = {"cell": cell.name, "key": cell.key, "run": name, "seed": cell.seed}
        started = time.perf_counter()
        try:
            result = self._train(cell.job.model_copy(update={"run": run}), self._console)
        except Exception as err:  # One cell's failure, of whatever kind, must not cost the others.
            error = masked(f"{type(err).__name__}: {err}")
            self._console.print(f"cell {cell.name} failed: {error}", style="red", markup=False, highlight=False)
            return record | {"status": "failed", "error": error, "traceback": masked(traceback.format_exc())}
        wall_s = time.perf_counter() - started
        kept = {key: result[key] for key in _KEPT_KEYS if key in result}
        return record | {"status": "finished", "wall_s": wall_s, "result": kept}

    def _finished(self) -> dict[str, dict[str, Any]]:
        """Job's key -> the record of a run that finished and whose predictions are still there."""
        known = {}
        for file in self._storage.list_files("cells", ".json"):
            record: dict[str, Any] = json.loads(self._storage.read_text(file))
            if record["status"] == "finished" and self._storage.list_files(f"{record['run']}/predictions/test", ".parquet"):
                known[record["key"]] = record
        return known

    def _fresh_name(self, name: str) -> str:
        """An interrupted, failed or outdated run keeps its directory; the next one is numbered."""
        number, fresh = 1, name
        while self._storage.exists(fresh):
            number += 1
            fresh = f"{name}-{number}"
        return fresh


def _time_left(cells: Sequence[Cell], records: Sequence[Mapping[str, Any] | None]) -> str:
    """From the wall time of finished cells: of the same arm where there is one, else of all."""
    walls: dict[str, list[float]] = {}
    for cell, record in zip(cells, records, strict=True):
        if record is not None and record["status"] == "finished":
            walls.setdefault(cell.variant, []).append(record["wall_s"])
    every = [wall_s for found in walls.values() for wall_s in found]
    if not every:
        return "time left: known after the first cell"
    left = [walls.get(cell.variant, every) for cell, record in zip(cells, records, strict=True) if record is None]
    return f"about {timedelta(seconds=round(sum(sum(known) / len(known) for known in left)))} left"


def _train(job: JobConfig, console: Console) -> dict[str, Any]:
    # Imported here, since it brings torch and Ray, and a wrong study has to be refused at once.
    from raytrain.run import train

    return train(job, console)
