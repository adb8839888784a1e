"""The comparison of two rolls can fail: another value, NaN, another shape, and a kill that no stage was resumed from."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data.build import build_dataset
from tests.faults.killed_roll import compared
from tests.pipelines.fake_rolls import FakeTrain, roll, roll_values


@pytest.fixture
def rolls(tmp_path: Path) -> tuple[Path, Path]:
    """Two rolls alike, of which the second has a stage that was begun twice."""
    build_dataset(tmp_path / "data", num_days=30, by_day=True)
    one, other = tmp_path / "one", tmp_path / "other"
    roll(roll_values(str(tmp_path / "data"), str(one), 21, 22), FakeTrain())
    for file in one.glob("stages/*/result.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"starts": [{"step": 0}]}))
    shutil.copytree(one, other)
    starts(other, 2)
    return one, other


def starts(output: Path, number: int) -> None:
    file = next(output.glob("stages/actr-*/result.json"))
    file.write_text(json.dumps(json.loads(file.read_text()) | {"starts": [{"step": 0}] * number}))


def test_rolls_that_are_alike_pass_where_a_stage_was_resumed(rolls: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compared(*rolls) == 0
    assert "1 of them resumed" in capsys.readouterr().out
    starts(rolls[1], 1)
    assert compared(*rolls) == 1


@pytest.mark.parametrize("change", ["value", "nan", "rows"])
def test_a_prediction_that_differs_fails(rolls: tuple[Path, Path], change: str) -> None:
    file = next(rolls[1].glob("stages/actr-*/predictions/test/*.parquet"))
    table = pq.read_table(file)
    values = table["prediction"].to_numpy().copy()
    values[0] = np.nan if change == "nan" else values[0] + 1e-6
    changed = table.slice(1) if change == "rows" else table.set_column(table.column_names.index("prediction"), "prediction", [values])
    pq.write_table(changed, file)
    assert compared(*rolls) == 1
