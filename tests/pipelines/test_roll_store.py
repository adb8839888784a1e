"""Who may write in a roll's directory, and what a finished stage says of its ancestors."""

import io
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.lineage import show_lineage
from pipelines.roll import run_roll
from pipelines.roll_lease import LEASE, LEASE_S, Lease, LeaseLostError
from pipelines.roll_store import Manifest, hash_of
from raytrain.errors import ConfigError, RunError
from raytrain.storage import Storage
from tests.data.build import build_dataset
from tests.messages import assert_three_parts
from tests.pipelines.fake_rolls import (
    FakeTrain,
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

DEAD = 2**22 + 1
"""A process that cannot be: above the largest number of Linux"""


def holder(**changes: Any) -> str:
    return json.dumps(
        {"owner": "other", "host": socket.gethostname(), "pid": os.getpid(), "since": "2020-10-05", "renewed": time.time()} | changes
    )


def test_the_second_of_two_rolls_is_refused(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with Lease(storage):
        with pytest.raises(RunError) as error, Lease(storage):
            pass
        assert_three_parts(error.value, "One roll at a time works in a directory", f"held by process {os.getpid()}", str(tmp_path))
        assert (tmp_path / LEASE).exists()
    assert not (tmp_path / LEASE).exists()


@pytest.mark.parametrize(
    ("changes", "is_free"),
    [
        ({"pid": DEAD}, True),
        ({"pid": DEAD, "host": "elsewhere"}, False),
        ({"host": "elsewhere", "renewed": time.time() - 2 * LEASE_S}, True),
        ({"renewed": time.time() - 2 * LEASE_S}, True),
        ({}, False),
    ],
    ids=["dead here", "elsewhere", "old elsewhere", "old here", "alive here"],
)
def test_a_lease_outlives_its_holder_for_a_while_only(tmp_path: Path, changes: dict[str, Any], is_free: bool) -> None:
    (tmp_path / LEASE).write_text(holder(**changes))
    if is_free:
        with Lease(Storage(str(tmp_path))) as lease:
            lease.check()
        return
    with pytest.raises(RunError), Lease(Storage(str(tmp_path))):
        pass
    assert json.loads((tmp_path / LEASE).read_text())["owner"] == "other"


def test_a_lease_that_was_taken_over_stays_with_its_new_holder(tmp_path: Path) -> None:
    with Lease(Storage(str(tmp_path))) as lease:
        (tmp_path / LEASE).write_text(holder(pid=77, host="elsewhere"))
        with pytest.raises(LeaseLostError) as error:
            lease.check()
        assert_three_parts(error.value, "now held by process 77 on elsewhere")
        (tmp_path / LEASE).unlink()
        with pytest.raises(LeaseLostError):
            lease.check()
        (tmp_path / LEASE).write_text(holder())
    assert json.loads((tmp_path / LEASE).read_text())["owner"] == "other"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("store") / "data"
    build_dataset(path, num_days=30, by_day=True)
    return str(path)


@pytest.fixture
def values(data: str, tmp_path: Path) -> dict[str, Any]:
    return roll_values(data, str(tmp_path / "roll"), 22, 23, actr={"mode": "incremental"})


def test_a_roll_that_lost_its_lease_stops_before_it_writes_a_manifest(values: dict[str, Any], tmp_path: Path) -> None:
    train, lease = FakeTrain(), tmp_path / "roll" / LEASE
    train.before = lambda stage: lease.write_text(holder(host="elsewhere")) and None if stage == "cpm-2020-10-05" else None
    with pytest.raises(LeaseLostError):
        run_roll(write_roll(tmp_path, values), (), quiet(), train=train)
    assert train.ran == ["tpm-2020-10-01", "cpm-2020-10-05"]
    assert run_directory(values, "tpm", 18).joinpath("manifest.json").exists()
    assert run_directory(values, "cpm", 22).joinpath("result.json").exists()
    assert not run_directory(values, "cpm", 22).joinpath("manifest.json").exists()
    assert lease.exists()


def test_an_interrupted_roll_gives_its_lease_back(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_roll(write_roll(tmp_path, values), (), quiet(), train=FakeTrain(raises={"tpm-2020-10-01": KeyboardInterrupt()}))
    assert not (tmp_path / "roll" / LEASE).exists()


def manifest(values: dict[str, Any], kind: str, number: int) -> Manifest:
    found = store_of(values).read(stage_of(values, kind, number).name)
    assert found is not None
    return found[0]


def test_a_manifest_names_its_parents_by_hash_and_its_rows_by_day(values: dict[str, Any]) -> None:
    roll(values, FakeTrain())
    tpm, cpm, first, second = (manifest(values, *stage) for stage in (("tpm", 18), ("cpm", 22), ("actr", 22), ("actr", 23)))
    hashes = {
        found.name: hash_of(run_directory(values, found.kind, number).joinpath("manifest.json").read_text())
        for found, number in ((tpm, 18), (cpm, 22), (first, 22))
    }
    assert tpm.parents == {}
    assert cpm.parents == {tpm.name: hashes[tpm.name]}
    assert first.parents == {tpm.name: hashes[tpm.name], cpm.name: hashes[cpm.name]}
    assert second.parents == {tpm.name: hashes[tpm.name], first.name: hashes[first.name]}
    assert list(second.data) == ["2020-10-05"]
    assert len(cpm.data) == 22
    assert [str(found.data_until) for found in (tpm, cpm, first, second)] == ["2020-10-01", "2020-10-05", "2020-10-05", "2020-10-06"]
    assert cpm.config["start"]["snapshots"] == [str(run_directory(values, "tpm", 18))]
    assert cpm.result["rows_trained"]["source"] > 0
    # The fake measured no speed: JSON has no NaN.
    assert cpm.result["train_samples_per_s"] is None


@pytest.mark.parametrize("is_trained", [False, True], ids=["to be trained", "finished"])
def test_a_parent_that_has_seen_the_day_is_refused(values: dict[str, Any], is_trained: bool) -> None:
    train = FakeTrain() if is_trained else FakeTrain(raises={"actr-2020-10-05": RuntimeError("later")})
    roll(values, train)
    file = run_directory(values, "cpm", 22) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"data_until": "2020-10-06"}))
    outcomes = roll(values, FakeTrain())
    assert failed(outcomes) == {"actr-2020-10-05": "failed", "actr-2020-10-06": "blocked"}
    message = error_of(outcomes, "actr-2020-10-05")
    assert_three_parts(ValueError(message), "A stage may not be made from rows of the day that it serves", "up to 2020-10-06")


def change_a_manifest(directory: Path) -> None:
    file = directory / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"finished_at": "later"}))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda directory: None, ""),
        (change_a_manifest, "made anew since"),
        (lambda directory: (directory / "manifest.json").unlink(), "missing"),
    ],
    ids=["sound", "made anew", "missing"],
)
def test_lineage_says_whether_every_ancestor_is_as_it_was(values: dict[str, Any], change: Callable[[Path], None], text: str) -> None:
    roll(values, FakeTrain())
    change(run_directory(values, "cpm", 22))
    console = quiet()
    assert show_lineage(str(run_directory(values, "actr", 23)), console) == (not text)
    shown = printed(console)
    assert text in shown
    assert ("made anew since" in shown, ": missing" in shown) == (text == "made anew since", text == "missing")


def test_lineage_shows_an_ancestors_own_once_and_cuts_nothing(values: dict[str, Any]) -> None:
    values["calendar"]["tpm"] = {"first_days": 5}
    roll(values, FakeTrain())
    console = Console(file=io.StringIO(), width=40)
    show_lineage(str(run_directory(values, "actr", 23)), console)
    lines = printed(console).splitlines()
    names = [next(word for word in line.split() if "-20" in word) for line in lines]
    # Monday's model is made from the snapshot and the weekly model, which is made from the snapshot itself.
    wanted = ["actr-2020-10-06", "tpm-2020-10-01", "actr-2020-10-05", "tpm-2020-10-01", "cpm-2020-10-05", "tpm-2020-10-01"]
    assert [name.rpartition("-")[0] for name in names] == wanted
    assert all("code " in line for line in lines)
    assert not any("see above" in line for line in lines)


def test_repeated_ancestors_are_not_spelled_out_again(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("long") / "data"
    build_dataset(path, num_days=55, by_day=True)
    values = roll_values(str(path), str(tmp_path / "roll"), 50, 50)
    roll(values, FakeTrain())
    console = quiet()
    assert show_lineage(str(run_directory(values, "actr", 50)), console)
    lines = printed(console).splitlines()
    # Two snapshots, the second made from the first, read by the daily and the weekly model.
    repeated = [line for line in lines if "see above" in line]
    assert len(repeated) == 1
    assert "tpm-2020-11-01" in repeated[0]
    assert sum("tpm-2020-10-01" in line for line in lines) == 3


@pytest.mark.parametrize("name", ["", "stages/actr-2020-01-01-00000000"], ids=["the roll", "no stage"])
def test_lineage_is_of_a_finished_stage(tmp_path: Path, name: str) -> None:
    with pytest.raises((RunError, ConfigError)) as error:
        show_lineage(str(tmp_path / name), quiet())
    assert_three_parts(error.value, str(tmp_path))
