"""Storage that takes a file and gives it back, or says why not; room for checkpoints by hand-computed numbers."""

import os
from pathlib import Path

import pytest

from cluster.facts import Disk
from cluster.storage_checks import check_run_name, check_space, check_writable
from raytrain.config import JobConfig
from raytrain.embeddings.config import TableConfig
from raytrain.embeddings.plan import plan_tables
from raytrain.footprint import Footprint
from raytrain.machine import GIB
from raytrain.settings import with_overrides


class Refusing:
    """A file system that answers every write with one error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def create_dir(self, path: str, recursive: bool) -> None: ...

    def open_output_stream(self, path: str) -> None:
        raise self.error


def job_for(storage_path: str, *overrides: str) -> JobConfig:
    values = {"run": {"storage_path": storage_path}, "data": {"path": "x"}, "model": {"name": "din"}}
    return JobConfig.parse(with_overrides(values, overrides), "test")


def test_a_directory_is_written_and_nothing_is_left(tmp_path: Path):
    kept = tmp_path / "kept"
    kept.mkdir()
    for path in (kept, tmp_path / "new/deep/runs"):
        check = check_writable(str(path))
        assert check.status == "ok"
        assert str(path) in check.found
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert not list(kept.iterdir())


def test_an_object_store_is_written_too(s3_bucket: str):
    import boto3

    assert check_writable(f"{s3_bucket}/doctor/runs").status == "ok"
    found = boto3.client("s3").list_objects_v2(Bucket="raytrain", Prefix="doctor/")
    assert not [item for item in found.get("Contents", []) if "raytrain-doctor" in item["Key"]]


def test_a_bucket_that_is_not_there_is_named(s3_bucket: str):
    check = check_writable("s3://no-such-bucket/runs")
    assert check.status == "fail"
    assert "no-such-bucket" in check.found
    assert "bucket" in check.fix


@pytest.mark.parametrize(
    ("error", "found", "fix"),
    [
        (PermissionError(13, "denied"), "Permission denied", "write access"),
        (OSError(30, "read-only"), "Read-only file system", "mounted read-only"),
        (OSError(28, "full"), "No space left on device", "disk is full"),
        (OSError("AWS Error ACCESS_DENIED during PutObject"), "AWS Error ACCESS_DENIED", "credentials"),
    ],
    ids=["no permission", "mounted read-only", "full", "refused by the store"],
)
def test_the_cause_of_a_refused_write_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception, found: str, fix: str):
    monkeypatch.setattr("raytrain.storage.resolve", lambda uri: (Refusing(error), "/runs"))
    check = check_writable("fake://runs")
    assert check.status == "fail"
    assert found in check.found
    assert fix in check.fix


def test_a_file_in_the_way_and_an_unknown_scheme_are_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    check = check_writable(str(tmp_path / "file/runs"))
    assert (check.status, check.fix) == ("fail", "A part of run.storage_path is a file: choose another.")
    check = check_writable("nowhere://runs")
    assert (check.status, check.fix) == ("fail", "Change run.storage_path.")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission_is_refused(tmp_path: Path):
    tmp_path.chmod(0o500)
    check = check_writable(str(tmp_path))
    assert (check.status, "Permission denied" in check.found) == ("fail", True)
    tmp_path.chmod(0o700)


def test_a_run_name_that_is_taken_is_a_warning(tmp_path: Path):
    assert check_run_name(job_for(str(tmp_path))) is None
    assert check_run_name(job_for(str(tmp_path), "run.name=first")).status == "ok"
    (tmp_path / "first").mkdir()
    (tmp_path / "first/config.yaml").write_text("")
    check = check_run_name(job_for(str(tmp_path), "run.name=first"))
    assert (check.status, check.found) == ("warn", f"{tmp_path}/first exists")


@pytest.fixture
def footprint() -> Footprint:
    """A checkpoint of 17 floats a row x 2^24 rows = 1.06 GiB, and 2^26 dense parameters with Adam's states = 0.75 GiB."""
    tables = plan_tables([TableConfig("item", 2**24, 16)], "rowwise_adagrad", 1)
    return Footprint(1, tables, 0, 0, 0, 0, num_dense=2**26, dense_state_floats=2)


def test_checkpoints_need_room_for_those_kept_the_best_and_the_next(tmp_path: Path, footprint: Footprint, monkeypatch: pytest.MonkeyPatch):
    elsewhere = Disk("/proc", GIB, 2 * GIB)
    free = int(4 * 1.8125 * GIB)
    for available, status in ((free, "ok"), (free - 1, "fail")):
        monkeypatch.setattr("cluster.storage_checks.disk_of", lambda path, free=available: Disk(path, 100 * GIB, free))
        check = check_space(job_for(str(tmp_path)), footprint, elsewhere)
        assert check.status == status
        assert "checkpoint 1.8 GiB x (training.keep_checkpoints=2 + the best + the one being written) = 7.2 GiB" in check.found


def test_a_snapshot_needs_room_where_it_is_made_first(tmp_path: Path, footprint: Footprint, monkeypatch: pytest.MonkeyPatch):
    check = check_space(job_for("fsspec+memory://runs"), footprint, Disk("/proc", GIB, GIB))
    assert check.status == "fail"
    assert "/proc has 1.0 GiB for one" in check.found
    # On the same disk it comes on top: five of them.
    monkeypatch.setattr("cluster.storage_checks.disk_of", lambda path: Disk(path, 100 * GIB, 9 * GIB))
    assert check_space(job_for(str(tmp_path)), footprint, Disk(str(tmp_path), GIB, 9 * GIB)).status == "fail"


def test_room_in_an_object_store_is_not_known(footprint: Footprint):
    check = check_space(job_for("fsspec+memory://runs"), footprint, Disk("/proc", GIB, 2 * GIB))
    assert check.status == "ok"
    assert check.found.endswith("fsspec+memory://runs has left is not known")
