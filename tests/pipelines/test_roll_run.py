"""A roll from end to end with a fake trainer: each stage once, whatever comes between."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipelines.roll import run_roll
from pipelines.roll_config import load_roll
from pipelines.roll_dry_run import show_plan
from pipelines.roll_run import RollRunner, states
from pipelines.roll_stage import plan_roll
from pipelines.runs import Ended
from raytrain.config import JobConfig
from raytrain.data.contract import load_contract, save_contract
from raytrain.errors import StorageError
from tests.data.build import build_dataset
from tests.pipelines.fake_rolls import (
    FakeTrain,
    FreeLease,
    change_day,
    day,
    error_of,
    failed,
    printed,
    quiet,
    roll,
    roll_values,
    run_directory,
    stage_of,
    store_of,
    write_roll,
)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("drawn") / "data"
    build_dataset(path, num_days=30, by_day=True)
    return path


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> str:
    """A data set that a test may change: its contract is its own."""
    shutil.copytree(drawn, tmp_path / "data")
    return str(tmp_path / "data")


@pytest.fixture
def values(data: str, tmp_path: Path) -> dict[str, Any]:
    """Three days from Sunday, 4 October 2020: a snapshot and two weekly models."""
    return roll_values(data, str(tmp_path / "roll"), 21, 23)


ALL = ["cpm-2020-09-28", "tpm-2020-10-01", "actr-2020-10-04", "cpm-2020-10-05", "actr-2020-10-05", "actr-2020-10-06"]


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in sorted(directory.rglob("*")) if file.is_file()}


def test_every_stage_runs_once_and_in_order(values: dict[str, Any]) -> None:
    train = FakeTrain()
    assert not failed(roll(values, train))
    assert sorted(train.ran) == sorted(ALL)
    assert train.ran.index("tpm-2020-10-01") < train.ran.index("actr-2020-10-04")
    assert train.ran.index("cpm-2020-10-05") < train.ran.index("actr-2020-10-05")
    before = contents(Path(values["output"]) / "stages")
    assert not failed(roll(values, train))
    assert len(train.ran) == len(ALL)
    assert contents(Path(values["output"]) / "stages") == before


@pytest.mark.parametrize("stage", ["tpm-2020-10-01", "actr-2020-10-05"])
def test_an_interrupted_stage_is_resumed(values: dict[str, Any], stage: str) -> None:
    train = FakeTrain(raises={stage: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        roll(values, train)
    train.raises.clear()
    assert not failed(roll(values, train))
    assert train.resumed == [stage]
    assert sorted(train.ran) == sorted([*ALL, stage])


def test_a_run_that_ended_before_its_manifest_is_not_trained_again(values: dict[str, Any]) -> None:
    roll(values, FakeTrain())
    directory = run_directory(values, "actr", 23)
    (directory / "manifest.json").unlink()
    before = contents(directory)
    train = FakeTrain()
    assert not failed(roll(values, train))
    assert train.resumed == ["actr-2020-10-06"]
    assert {name: data for name, data in contents(directory).items() if name in before} == before


def test_a_stage_begun_on_other_rows_begins_again(values: dict[str, Any], data: str) -> None:
    train = FakeTrain(raises={"cpm-2020-10-05": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        roll(values, train)
    (run_directory(values, "cpm", 22) / "half.bin").write_text("of other rows")
    save_contract(load_contract(data).model_copy(update={"content_hash": "f" * 16}), data)
    train.raises.clear()
    console = quiet()
    assert not failed(roll(values, train, console=console))
    assert not train.resumed
    assert not (run_directory(values, "cpm", 22) / "half.bin").exists()
    assert "was prepared anew since it was begun" in printed(console)


def test_a_failure_stops_only_what_is_made_from_it(values: dict[str, Any]) -> None:
    train = FakeTrain(raises={"cpm-2020-10-05": RuntimeError("no reach of s3://me:hunter2@bucket")})
    console = quiet()
    result = roll(values, train, console=console)
    assert failed(result) == {"cpm-2020-10-05": "failed", "actr-2020-10-05": "blocked", "actr-2020-10-06": "blocked"}
    assert error_of(result, "actr-2020-10-05") == f"needs {stage_of(values, 'cpm', 22).name}"
    assert states(result) == {"finished": 3, "failed": 1, "blocked": 2}
    assert error_of(result, "cpm-2020-10-05") == "RuntimeError: no reach of s3://***@bucket"
    assert "hunter2" not in printed(console)
    train.raises.clear()
    assert not failed(roll(values, train))
    assert train.resumed == ["cpm-2020-10-05"]


def test_the_weekly_model_before_stands_in_for_one_that_failed_while_it_is_fresh(values: dict[str, Any], tmp_path: Path) -> None:
    values["calendar"]["cpm"] = {"on_failure": "former"}
    path, train, console = write_roll(tmp_path, values), FakeTrain(raises={"cpm-2020-10-05": RuntimeError("no")}), quiet()
    result = run_roll(path, (), console, train=train)
    assert [(found["stage"][:14], found["state"]) for found in result["failed"]] == [("cpm-2020-10-05", "failed")]
    assert result["arms"]["full"]["num_days"] == 3
    parents = {stage["name"][:15]: stage["parents"] for stage in result["stages"]}
    assert all(any(parent.startswith("cpm-2020-09-28") for parent in parents[f"actr-2020-10-0{day}"]) for day in (4, 5, 6))
    assert "2020-10-05 are served from the weekly models before" in printed(console)
    assert "5 stages finished, 1 failed, 0 left out" in printed(console)
    # The next roll tries the failed one again, and with it the days that another has served.
    train.raises.clear()
    again = run_roll(path, (), quiet(), train=train)
    assert not again["failed"]
    parents = {stage["name"][:15]: stage["parents"] for stage in again["stages"]}
    assert any(parent.startswith("cpm-2020-10-05") for parent in parents["actr-2020-10-06"])


def test_a_stand_in_that_is_too_old_serves_nobody(values: dict[str, Any], tmp_path: Path) -> None:
    values["calendar"]["cpm"] = {"on_failure": "former", "max_age_days": 7}
    result = run_roll(write_roll(tmp_path, values), (), quiet(), train=FakeTrain(raises={"cpm-2020-10-05": RuntimeError("no")}))
    assert result["arms"]["full"]["num_days"] == 2, "Sunday's own, and Monday's by a model of seven days"
    assert "A parent may not be stale" in next(found["error"] for found in result["failed"] if found["stage"].startswith("actr-2020-10-06"))


def test_a_full_disk_fails_a_stage_and_finishes_nothing(values: dict[str, Any]) -> None:
    full = StorageError("x has to be written. Received: no space left. Free space.")
    train = FakeTrain(raises={"tpm-2020-10-01": full})
    result = roll(values, train)
    assert failed(result)["tpm-2020-10-01"] == "failed"
    assert "no space left" in error_of(result, "tpm-2020-10-01")
    assert not (run_directory(values, "tpm", 18) / "manifest.json").exists()
    assert failed(result)["actr-2020-10-04"] == "blocked"


def test_a_manifest_that_cannot_be_written_leaves_the_stage_to_the_next_roll(values: dict[str, Any]) -> None:
    manifest = run_directory(values, "actr", 23) / "manifest.json"
    train = FakeTrain()
    # A directory of that name: what the storage says is an OSError, as with a full disk.
    train.before = lambda stage: (manifest / "x").mkdir(parents=True) if stage == "actr-2020-10-06" else None
    result = roll(values, train)
    assert failed(result) == {"actr-2020-10-06": "failed"}
    assert "has to be written" in error_of(result, "actr-2020-10-06")
    shutil.rmtree(manifest)
    train.before = lambda stage: None
    assert not failed(roll(values, train))


def test_a_deleted_parent_is_trained_anew_and_its_children_stay(values: dict[str, Any]) -> None:
    train = FakeTrain()
    roll(values, train)
    before = {kind: contents(run_directory(values, *kind)) for kind in (("cpm", 22), ("actr", 23))}
    shutil.rmtree(run_directory(values, "tpm", 18))
    train.ran.clear()
    assert not failed(roll(values, train))
    assert train.ran == ["tpm-2020-10-01"]
    assert {kind: contents(run_directory(values, *kind)) for kind in before} == before


def test_a_damaged_manifest_costs_only_its_own_stage(values: dict[str, Any]) -> None:
    train = FakeTrain()
    roll(values, train)
    (run_directory(values, "actr", 22) / "manifest.json").write_text('{"name": ')
    result = roll(values, train)
    assert failed(result) == {"actr-2020-10-05": "failed"}
    assert "has to be what a roll wrote" in error_of(result, "actr-2020-10-05")


def test_changed_rows_of_a_trained_day_are_refused(values: dict[str, Any], data: str) -> None:
    train = FakeTrain()
    roll(values, train)
    change_day(data, "target", 22, content_hash="prepared anew")
    result = roll(values, train)
    # Monday's rows trained Tuesday's model alone.
    assert failed(result) == {"actr-2020-10-06": "failed"}
    message = error_of(result, "actr-2020-10-06")
    assert "other rows now on 2020-10-05. Set calendar.changed_data=keep" in message
    assert len(train.ran) == len(ALL)
    assert not failed(roll(values, train, "calendar.changed_data=keep"))
    assert len(train.ran) == len(ALL)


def test_changed_tables_are_refused_and_the_mean_of_a_number_is_not(values: dict[str, Any], data: str) -> None:
    train = FakeTrain()
    roll(values, train)
    contract = load_contract(data)
    moved = tuple(feature.model_copy(update={"mean": 9.0}) if feature.kind == "dense" else feature for feature in contract.features)
    save_contract(contract.model_copy(update={"features": moved}), data)
    assert not failed(roll(values, train))
    tables = contract.tables | {"user": contract.tables["user"].model_copy(update={"num_rows": 999})}
    save_contract(contract.model_copy(update={"tables": tables}), data)
    result = roll(values, train)
    assert set(failed(result)) == set(ALL)
    assert "A chain goes on with the tables and features it was begun with" in error_of(result, "tpm-2020-10-01")
    assert len(train.ran) == len(ALL)


def test_a_missing_day_is_named(values: dict[str, Any], data: str) -> None:
    change_day(data, "target", 20, gone=True)
    result = roll(values, FakeTrain())
    assert failed(result) == {"actr-2020-10-04": "failed", "actr-2020-10-05": "failed", "actr-2020-10-06": "failed"}
    assert "without 1 of 21 days: 2020-10-03. Prepare them" in error_of(result, "actr-2020-10-04")


def test_a_missing_day_may_be_skipped(values: dict[str, Any], data: str) -> None:
    change_day(data, "target", 21, gone=True)
    train = FakeTrain()
    result = roll(values, train, "calendar.missing_days=skip")
    assert not failed(result)
    # Sunday has no ads: nothing is scored on it, and Monday has Sunday's model.
    assert [stage for stage in train.ran if stage.startswith("actr")] == ["actr-2020-10-04", "actr-2020-10-06"]
    assert [outcome.planned.job.data.days.test is None for outcome in result if outcome.planned.stage.kind == "actr"] == [True, False]


@pytest.mark.parametrize("num_times", [0, 2], ids=["empty", "duplicated"])
def test_a_day_that_is_not_what_the_contract_says_is_refused(values: dict[str, Any], data: str, num_times: int) -> None:
    for file in sorted(Path(data, "samples/target", day(21).isoformat()).glob("*.parquet")):
        rows = pq.read_table(file)
        pq.write_table(rows.slice(0, 0) if not num_times else rows, file)
        if num_times == 2:
            shutil.copy(file, file.with_name(f"again-{file.name}"))
    result = roll(values, FakeTrain())
    assert failed(result) == {"actr-2020-10-05": "failed", "actr-2020-10-06": "failed", "actr-2020-10-04": "failed"}
    assert "rows of the contract" in error_of(result, "actr-2020-10-05")


def test_a_day_with_another_schema_is_refused(values: dict[str, Any], data: str) -> None:
    for file in sorted(Path(data, "samples/source", day(2).isoformat()).glob("*.parquet")):
        pq.write_table(pq.read_table(file).drop_columns(["price"]), file)
    result = roll(values, FakeTrain())
    assert set(failed(result)) == set(ALL)
    assert "has to have column price" in error_of(result, "tpm-2020-10-01")


def test_arms_share_their_stages(values: dict[str, Any]) -> None:
    values["arms"] = {"without_cpm": ["calendar.cpm=null"], "without_tpm": ["cpm.model.months=0", "actr.model.months=0"]}
    train = FakeTrain()
    result = roll(values, train)
    assert not failed(result)
    assert len(train.ran) == len({outcome.planned.name for outcome in result})
    assert train.ran.count("tpm-2020-10-01") == 1
    # The weekly model of September has no snapshot yet, but is another network without months.
    assert train.ran.count("cpm-2020-09-28") == 2
    assert train.ran.count("actr-2020-10-04") == 3


def test_a_stale_parent_stops_or_warns(values: dict[str, Any]) -> None:
    values["calendar"]["tpm"] = {"max_age_days": 3}
    result = roll(values, FakeTrain())
    assert failed(result) == {"actr-2020-10-05": "failed", "actr-2020-10-06": "failed"}
    assert "tpm-2020-10-01, 4 days old, calendar.tpm.max_age_days=3" in error_of(result, "actr-2020-10-05")
    console = quiet()
    assert not failed(roll(values, FakeTrain(), "calendar.stale=warn", console=console))
    assert "warning: actr" in printed(console)


def test_a_dry_run_prints_every_stage_and_starts_nothing(values: dict[str, Any], tmp_path: Path) -> None:
    console = quiet()
    path = write_roll(tmp_path, values)
    show_plan(path, (), console)
    assert not Path(values["output"]).exists()
    lines = printed(console).splitlines()[1:]
    assert sorted(line.split()[0][:-9] for line in lines[:-1]) == sorted(ALL)
    assert all(line.rstrip().endswith("due") for line in lines[:-1])
    assert lines[-1] == f"{len(ALL)} stages: 0 finished, {len(ALL)} due"
    roll(values, FakeTrain())
    show_plan(path, (), console)
    assert printed(console).splitlines()[-1] == f"{len(ALL)} stages: {len(ALL)} finished, 0 due"
    assert store_of(values).is_finished(stage_of(values, "tpm", 18))


class Room:
    """Room for two: a run ends when the test says so, the later one first."""

    room = 2

    def __init__(self, train: FakeTrain) -> None:
        self.train, self.most = train, 0
        self.begun: list[tuple[str, JobConfig, bool]] = []

    def begin(self, name: str, job: JobConfig, resume: bool) -> None:
        self.begun.append((name, job, resume))
        self.most = max(self.most, len(self.begun))

    def next(self) -> Ended | None:
        name, job, resume = self.begun.pop()
        try:
            return name, self.train(job, quiet(), resume)
        except RuntimeError as err:
            return name, err


def test_stages_side_by_side_come_after_their_parents(values: dict[str, Any], tmp_path: Path) -> None:
    train = FakeTrain(raises={"cpm-2020-10-05": RuntimeError("no")})
    plan = plan_roll("full", load_roll(write_roll(tmp_path, values))["full"])
    room = Room(train)
    runner = RollRunner(store_of(values), plan.contract, quiet(), room)
    runner.run([plan], FreeLease())
    assert room.most == 2
    ended = {planned.stage.name: train.ran.index(planned.stage.name) for planned in plan.stages if planned.stage.name in train.ran}
    for planned in plan.stages:
        assert all(ended[parent.stage.name] < ended[planned.stage.name] for parent in planned.parents if planned.stage.name in ended)
    assert states(runner.of(plan)) == {"finished": 3, "failed": 1, "blocked": 2}


def test_a_dry_run_names_arm_and_seed_and_says_which_days_there_are_not(values: dict[str, Any], data: str, tmp_path: Path) -> None:
    change_day(data, "target", 20, gone=True)
    values |= {"seeds": [1, 2], "arms": {"mixed": ["calendar.cpm=null", "actr.data.source_batch_size=8"]}}
    console = quiet()
    show_plan(write_roll(tmp_path, values), (), console)
    lines = {(line.split()[0][:-9], *line.split()[1:4]): line for line in printed(console).splitlines()[1:-1]}
    assert ("actr-2020-10-04", "mixed,", "seed", "2") in lines
    assert lines["actr-2020-10-04", "full,", "seed", "1"].rstrip().endswith("due, 1 days missing")
    assert lines["cpm-2020-10-05", "full,", "seed", "1"].rstrip().endswith("due")
    # A stage that trains on both domains has the rows of both.
    rows = {arm: int(lines["actr-2020-10-04", arm, "seed", "1"].split()[6].replace(",", "")) for arm in ("full,", "mixed,")}
    assert rows["mixed,"] > 1.5 * rows["full,"]


def test_a_stage_that_was_made_from_a_parent_trained_anew_is_named(values: dict[str, Any]) -> None:
    roll(values, FakeTrain())
    shutil.rmtree(run_directory(values, "tpm", 18))
    console = quiet()
    assert not failed(roll(values, FakeTrain(wall_s=3.0), console=console))
    said = " ".join(printed(console).split())
    assert (
        f"warning: {stage_of(values, 'actr', 21).name} was made from another {stage_of(values, 'tpm', 18).name} than there is now" in said
    )
