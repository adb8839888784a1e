"""A chain through Ray: every stage a run of its own, an interrupted one goes on, a finished one is never run twice."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipelines.lineage import show_lineage
from pipelines.roll import run_roll
from raytrain.run import evaluate
from raytrain.storage import Storage
from raytrain.training.start import snapshot_vectors
from tests.data.build import FIRST_DAY, build_dataset

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_2_cpus")]
SILENT = Console(quiet=True)
SERVED = FIRST_DAY + timedelta(days=24)


def build_rolled(path: Path) -> None:
    """Four weeks by day, the last of them in October."""
    build_dataset(path, num_users=80, num_items=40, num_days=28, events_per_user=40, source_events_per_user=60, by_day=True)


def rolled_values(data: str, output: str, **scaling: Any) -> dict[str, Any]:
    """Two days of ads after 24: one snapshot, one weekly model, two daily ones."""
    network = {"name": "ecdctr", "months": 1, "month_dim": 8, "hidden_units": [16], "attention_units": [8], "num_heads": 2}
    return {
        "name": "tiny",
        "calendar": {"first_day": SERVED, "last_day": SERVED + timedelta(days=1), "actr": {"mode": "incremental", "window_days": 14}},
        "base": {
            "data": {"path": data, "batch_size": 64, "history_length": 20, "cpus_per_read_task": 0.25},
            "tables": {"dim": 8},
            "training": {"checkpoint_every_steps": 20},
            "scaling": {"cpus_per_worker": 0.5, **scaling},
        },
        "tpm": {"model": {"name": "tpm", "features": ["user", "item", "country"], "hidden_units": [8]}},
        "cpm": {"model": network},
        "actr": {"model": network},
        "output": output,
        "num_resamples": 50,
    }


@pytest.fixture(scope="module")
def roll_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root: Path = tmp_path_factory.mktemp("roll")
    build_rolled(root / "data")
    values = rolled_values(str(root / "data"), str(root / "roll"))
    file = root / "roll.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def test_a_chain_is_rolled_once(roll_file: Path) -> None:
    result = run_roll(str(roll_file), (), SILENT)
    assert not result["failed"]
    assert [stage["kind"] for stage in result["stages"]] == ["tpm", "cpm", "actr", "actr"]
    full = result["arms"]["full"]
    assert [day["day"] for day in full["days"]] == [str(SERVED), str(SERVED + timedelta(days=1))]
    assert full["pooled"]["auc"] > 0.5
    stages = roll_file.parent / "roll" / "stages"
    runs = {stage["name"]: stages / stage["name"] for stage in result["stages"]}
    assert (snapshot_vectors(Storage(str(next(iter(runs.values())))))["user"] != 0).any()
    last = list(runs.values())[-1]
    assert show_lineage(str(last), SILENT)
    # The served model is a run like any other, its snapshots found where they lie.
    scores = evaluate(str(last), "test", None, (), SILENT)
    assert scores["target"]["auc"] == pytest.approx(full["days"][1]["auc"], abs=1e-6)

    written = {name: (run / "manifest.json").read_text() for name, run in runs.items()}
    run_roll(str(roll_file), (), SILENT)
    assert {name: (run / "manifest.json").read_text() for name, run in runs.items()} == written

    # As if the roll had been killed between the last stage's training and its manifest, and amid the one before.
    (last / "manifest.json").unlink()
    before = list(runs.values())[-2]
    for name in ("manifest.json", "result.json"):
        (before / name).unlink()
    again = run_roll(str(roll_file), (), SILENT)
    assert again["arms"]["full"]["days"] == full["days"]
    starts = json.loads((before / "result.json").read_text())["starts"]
    assert len(starts) == 2, "it went on from its last checkpoint"
