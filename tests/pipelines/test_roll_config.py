"""Roll files: what the calendar decides stays out of them, and stages are named by what they depend on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipelines.roll_config import KINDS, REFERENCE, Roll, load_roll
from pipelines.roll_stage import plan_roll
from raytrain.errors import ConfigError, ContractError, RaytrainError
from raytrain.settings import with_overrides
from tests.data.build import build_dataset
from tests.messages import assert_three_parts
from tests.pipelines.fake_rolls import day, roll_values, write_roll

PIPELINES = Path(__file__).parents[2] / "pipelines"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("roll") / "data"
    build_dataset(path, num_days=60, by_day=True)
    return str(path)


def load(tmp_path: Path, *overrides: str, **values: Any) -> dict[str, Roll]:
    return load_roll(write_roll(tmp_path, roll_values("data", str(tmp_path / "roll"), 20, 30) | values), overrides)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("base.data.days={train: {start: 2020-01-01, stop: 2020-01-02}}", "The calendar decides data.days. Received: tpm.data.days"),
        ("tpm.data.domain=source", "The calendar decides data.domain. Received: tpm.data.domain"),
        ("cpm.start.run=runs/x", "The calendar decides start. Received: cpm.start"),
        ("actr.run.name=x", "The calendar decides run. Received: actr.run"),
        ("actr.model.name=tpm", "actr"),
        ("tpm.model={name: ecdctr}", "Stage tpm has another model. Received: tpm.model.name=ecdctr"),
        ("cpm.model={name: tpm}", "Stage cpm has another model. Received: cpm.model.name=tpm"),
        ("calendar.weekly=1", "Received: calendar.weekly=1. Choose one of: actr, "),
        ("calendar.cpm.evry_days=1", "Did you mean every_days?"),
        ("base.optimizer.lrr=1", "Did you mean lr?"),
        ("actr.model.hidden_unit=[4]", "Did you mean hidden_units?"),
        ("calendar.last_day=2020-01-01", "The first day has to come before the last"),
        ("calendar.stale=ignore", "calendar.stale"),
        ("arms={full: []}", "Arm full is the file as it stands"),
        ("arms={other: [output=elsewhere]}", "Arms share a data set, a directory and seeds. Received: arm other"),
        ("arms={other: [base.data.path=elsewhere]}", "Arms share a data set, a directory and seeds. Received: arm other"),
        ("seeds=[1, 1]", "A seed stands for one roll. Received: seeds=[1, 1]"),
        ("arms={other: ['seeds=[7]']}", "Arms share a data set, a directory and seeds. Received: arm other"),
        ("arms={other: [calendar.cmp=null]}", "arm other: Every key has to be one the schema knows"),
    ],
)
def test_what_is_not_right_is_refused(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, override)
    assert_three_parts(error.value, message)


def test_seeds_leave_no_other_seed_beside_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "seeds=[1, 2]", "actr.seed=3")
    assert_three_parts(error.value, "seeds are of every stage", "Received: actr.seed beside seeds=[1, 2]")
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "seeds=[1, 2]", "arms={other: [base.seed=9]}")
    assert_three_parts(error.value, "seeds are of every arm", "Received: arm other with base.seed=9")
    rolls = load(tmp_path, "seeds=[1, 2]", "arms={other: [calendar.cpm=null]}")
    assert {rolls[name].with_seed(2).job_values(kind)["seed"] for name in rolls for kind in KINDS} == {2}


def test_arms_are_the_file_with_their_changes(tmp_path: Path) -> None:
    arms = {"no_cpm": ["calendar.cpm=null"], "short": ["actr.model.months=1", "calendar.actr.window_days=3"]}
    rolls = load(tmp_path, "calendar.actr.window_days=9", arms=arms)
    assert list(rolls) == [REFERENCE, "no_cpm", "short"]
    assert [name for name in rolls if rolls[name].calendar.cpm is None] == ["no_cpm"]
    assert [rolls[name].calendar.actr.window_days for name in rolls] == [9, 9, 3]
    assert rolls["short"].job_values("actr")["model"] == {"name": "ecdctr", "months": 1, "month_dim": 4}
    assert rolls["short"].job_values("cpm")["model"]["months"] == 2


def test_a_kind_of_stage_is_laid_over_the_base(tmp_path: Path) -> None:
    base = {"data": {"path": "data"}, "optimizer": {"lr": 0.1, "name": "sgd"}, "model": {"name": "din", "hidden_units": [4]}}
    values = load(tmp_path, base=base, cpm={"optimizer": {"lr": 0.2}, "model": {"name": "ecdctr"}})[REFERENCE].job_values("cpm")
    assert values == {"data": {"path": "data"}, "optimizer": {"lr": 0.2, "name": "sgd"}, "model": {"name": "ecdctr"}}


def test_a_job_is_sent_to_its_command() -> None:
    with pytest.raises(ConfigError) as error:
        load_roll(PIPELINES / "configs/movielens_din.yaml")
    assert_three_parts(error.value, "looks like a job", "Run `raytrain train ")


def test_the_roll_of_the_repository_is_sound() -> None:
    assert {"without_tpm", "without_cpm", "ads_only"} < set(load_roll(PIPELINES / "rolls/complete_journey.yaml"))


def names(values: dict[str, Any], first: int | None = None, last: int | None = None, overrides: Sequence[str] = ()) -> list[str]:
    roll = Roll.parse(with_overrides(values, overrides), "test")
    plan = plan_roll("full", roll, *(None if number is None else day(number) for number in (first, last)))
    return [planned.name for planned in plan.stages]


@pytest.mark.parametrize("mode", ["window", "incremental"])
def test_a_part_of_the_days_needs_stages_of_the_same_names(dataset: str, tmp_path: Path, mode: str) -> None:
    values = roll_values(dataset, str(tmp_path), 20, 40, actr={"mode": mode})
    whole = names(values)
    assert set(names(values, 33, 36)) < set(whole)
    assert names(values, 20, 40) == whole
    assert set(names(values, 20, 30)) | set(names(values, 31)) == set(whole)


def test_a_name_says_what_a_stage_depends_on(dataset: str, tmp_path: Path) -> None:
    values = roll_values(dataset, str(tmp_path), 20, 22)
    whole = set(names(values))
    for watched in ("base.training.log_every_steps=7", "base.scaling.max_failures=0", "calendar.stale=warn", "num_resamples=5"):
        assert set(names(values, overrides=[watched])) == whole
    other_cpm = set(names(values, overrides=["cpm.optimizer.lr=0.5"]))
    assert {name[:3] for name in other_cpm - whole} == {"cpm", "act"}
    assert {name[:3] for name in other_cpm & whole} == {"tpm"}
    # The first weekly model is older than the first snapshot.
    assert {name[:14] for name in set(names(values, overrides=["tpm.optimizer.lr=0.5"])) & whole} == {"cpm-2020-09-28"}
    assert {name[:4] for name in set(names(values, overrides=["actr.seed=5"])) - whole} == {"actr"}


def test_a_daily_model_is_transferred_from_a_weekly_one_and_goes_on_from_its_own(dataset: str, tmp_path: Path) -> None:
    values = roll_values(dataset, str(tmp_path), 20, 30, actr={"mode": "incremental", "batch_norm": "reset_statistics"})
    for planned in plan_roll("full", Roll.parse(values, "test")).stages:
        start, stage, days = planned.job.start, planned.stage, planned.job.data.days
        assert days is not None
        assert (planned.job.data.domain, days.test is not None) == (("target", True) if stage.kind == "actr" else ("source", False))
        assert (start.run is None) == (stage.start is None)
        if stage.kind == "actr":
            assert (start.batch_norm, start.optimizer) == (("keep", "keep") if stage.goes_on else ("reset_statistics", "reset"))
        assert [Path(run).name for run in start.snapshots] == [parent.name for parent in planned.parents if parent.stage in stage.snapshots]


@pytest.mark.parametrize(
    ("changes", "span", "error", "message"),
    [
        ({"natural": "sauce"}, (), ContractError, "Received: sauce, of source"),
        ({}, (19, 22), ConfigError, "Days have to lie in the calendar"),
        ({}, (22, 21), ConfigError, "The first day has to come before the last"),
        ({"calendar": {"first_day": day(0), "last_day": day(3)}}, (), ConfigError, "has to have ads before it"),
    ],
    ids=["no such domain", "before the calendar", "backwards", "no ads before"],
)
def test_a_plan_that_cannot_be_is_refused(
    dataset: str, tmp_path: Path, changes: dict[str, Any], span: tuple[int, ...], error: type[RaytrainError], message: str
) -> None:
    with pytest.raises(error) as caught:
        names(roll_values(dataset, str(tmp_path), 20, 22) | changes, *span)
    assert_three_parts(caught.value, message)


def test_a_data_set_kept_by_split_is_refused(tmp_path: Path) -> None:
    build_dataset(tmp_path / "data")
    with pytest.raises(ContractError) as error:
        names(roll_values(str(tmp_path / "data"), str(tmp_path), 20, 22))
    assert_three_parts(error.value, "kept by split", "split.by_day=true")


@pytest.mark.parametrize("file", sorted((PIPELINES / "rolls").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_rolls_that_are_shipped_are_right(file: Path) -> None:
    rolls = load_roll(file)
    assert next(iter(rolls)) == REFERENCE
    assert {"without_tpm", "without_cpm", "ads_only"} <= rolls.keys()
