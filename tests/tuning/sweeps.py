"""A sweep file over a tiny data set, and trials that are over in no time."""

from pathlib import Path
from typing import Any

import yaml

from tests.data.build import build_dataset
from tuning.load import load_sweep
from tuning.plan import SweepPlan

SWEEP: dict[str, Any] = {
    "name": "tiny",
    "base": {
        "data": {"path": "data", "batch_size": 64},
        "model": {"name": "din", "hidden_units": [16]},
        "training": {"epochs": 4, "evals_per_epoch": 1},
    },
    "space": {"tables.lr": {"log_uniform": [0.001, 1.0]}, "model.hidden_units": {"choice": [[8], [16], [32, 16]]}},
    "num_trials": 6,
}


def write_sweep(folder: Path, **changes: Any) -> str:
    """sweep.yaml beside data/; returns its path. ``base`` may change keys of the base job by section."""
    data = folder / "data"
    if not data.exists():
        build_dataset(str(data), num_users=60, num_items=30, seed=1)
    base = {**SWEEP["base"], "data": {**SWEEP["base"]["data"], "path": str(data)}, **changes.pop("base", {})}
    values = {**SWEEP, "base": base, "work_dir": str(folder / "sweep"), **changes}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not ...}))
    return str(path)


def plan_in(folder: Path, *overrides: str, **changes: Any) -> SweepPlan:
    return load_sweep(write_sweep(folder, **changes), overrides)
