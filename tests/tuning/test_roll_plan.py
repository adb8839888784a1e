"""A sweep over rolls: one knob of several keys, days to choose on and later ones to test on."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.roll_config import checked_roll
from raytrain.errors import ConfigError
from raytrain.storage import Storage
from tests.data.build import build_dataset
from tests.pipelines.fake_rolls import DIM, day, roll_values
from tuning.load import load_sweep
from tuning.plan import SweepPlan

KNOB = "tpm.tables.dim, cpm.model.month_dim, actr.model.month_dim"
SERVE = {"valid": [day(21), day(22)], "test": [day(23), day(24)]}


def plan_in(folder: Path, *overrides: str, **changes: Any) -> SweepPlan:
    data = folder / "data"
    if not data.exists():
        build_dataset(data, num_days=30, by_day=True)
    base = roll_values(str(data), "unused", 21, 24) | {"arms": {"without_tpm": ["actr.model.months=0"]}}
    values = {"name": "toy", "base": base, "space": {KNOB: {"choice": [DIM, 8]}}, "serve": SERVE, **changes}
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(values))
    return load_sweep(str(path), overrides)


def test_a_knob_sets_all_its_keys_in_a_roll_of_its_own(tmp_path: Path) -> None:
    plan = plan_in(tmp_path, seeds=[1, 2])
    first, second = plan.tasks_of({KNOB: 8}, "trial-0003", Storage(str(tmp_path / "sweep")))
    roll = checked_roll(first["roll"], "test")
    assert [roll.job_values("tpm")["tables"]["dim"], roll.job_values("cpm")["model"]["month_dim"]] == [8, 8]
    assert (roll.base["seed"], second["roll"]["base"]["seed"]) == (1, 2)
    assert roll.directory == str(tmp_path / "sweep" / "runs" / "trial-0003-seed1")
    assert (first["valid"], first["test"]) == ([str(day(21)), str(day(22))], [str(day(23)), str(day(24))])
    assert roll.arms == {}
    assert Path(roll.data_path).is_absolute()


def test_the_chain_as_it_stands_is_a_trial_and_nobody_stops_it(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    assert plan.default_params == {KNOB: DIM}
    assert plan.stopping is None
    assert plan.objectives == ("gauc",)


def test_the_best_one_is_a_roll_file(tmp_path: Path) -> None:
    roll = checked_roll(yaml.safe_load(plan_in(tmp_path).best_yaml({KNOB: 8})), "test")
    assert roll.name == "toy-best"
    assert roll.job_values("actr")["model"]["month_dim"] == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"serve": None}, "chooses on days. Received: serve=null"),
        ({"serve": {"valid": [day(22), day(23)], "test": [day(23), day(24)]}}, "Days to test on come after"),
        ({"serve": {"valid": [day(21), day(22)], "test": [day(23), day(28)]}}, "Days have to lie in the calendar"),
        ({"objectives": ["norm_gini"]}, "A roll is measured by"),
        ({"space": {"tpm.tables.dim": {"choice": [4, 0]}}}, r"at tpm.tables.dim=0, tpm: tables.dim: .*greater than 0"),
        ({"space": {"base.seed": {"choice": [1]}}, "overrides": ["output=x"]}, "Received: output among the overrides"),
    ],
    ids=["no days", "test days that overlap", "days outside the calendar", "a metric of amounts", "a bad value", "its own key"],
)
def test_what_could_not_be_rolled_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_in(tmp_path, **changes)
