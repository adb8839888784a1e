"""A storage that slows down, drops a connection or goes away: rows are read again or the run stops, never quarantined."""

from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from raytrain import storage as storage_module
from raytrain.data.provenance import STATUS, STATUS_OK, STATUS_PADDING
from raytrain.data.reader import Reading, read_window, unwrap
from raytrain.errors import ConfigError, DataError, StreamError
from raytrain.storage import Storage
from tests.data.build import build_dataset
from tests.data.served import stream_spec


class ShakyFile:
    """Delegates everything; reading fails while ``ShakyFiles.failures`` are left."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def read(self, *args):
        if ShakyFiles.failures:
            ShakyFiles.failures -= 1
            raise OSError("AWS Error SLOW_DOWN")
        return self._file.read(*args)


class ShakyFiles(LocalFileSystem):
    failures = 0
    cachable = False

    def open(self, *args, **options):
        return ShakyFile(super().open(*args, **options))


@pytest.fixture
def window(tmp_path, monkeypatch):
    """(reading, window) of a data set behind shaky files."""
    contract = build_dataset(tmp_path, num_users=20, num_items=10)
    spec = stream_spec(contract, tmp_path, 16, ("target",))
    shaky = PyFileSystem(FSSpecHandler(ShakyFiles()))
    monkeypatch.setattr(storage_module, "resolve", lambda uri: (shaky, uri))
    monkeypatch.setattr(storage_module, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(ShakyFiles, "failures", 0)
    reading = Reading(contract, str(tmp_path), 16, 1, True, 0, 20, ("target",))
    return reading, next(spec.plan.windows(0))


def statuses(reading, window) -> set[int]:
    return {status for row in read_window(reading, window) for status in unwrap(row)[STATUS].to_pylist()}


def test_a_read_that_fails_for_a_moment_costs_no_row(window):
    ShakyFiles.failures = storage_module.NUM_ATTEMPTS - 1
    assert statuses(*window) == {STATUS_OK, STATUS_PADDING}
    assert ShakyFiles.failures == 0


def test_a_storage_that_stays_away_stops_the_run_and_may_be_resumed(window):
    ShakyFiles.failures = 10**6
    with pytest.raises(StreamError, match=r"has to be readable. Received: .*SLOW_DOWN.* Check the storage") as caught:
        statuses(*window)
    assert caught.value.retryable


def test_a_history_file_that_stays_away_may_be_resumed_and_a_damaged_one_not(tmp_path, window):
    reading, first = window
    file = next((Path(reading.data_path) / "histories/target").glob("bucket-00000.parquet"))
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match="readable history file"):
        statuses(reading, first)


def test_credentials_do_not_stand_in_a_path():

    for uri in ("s3://AKIA:hunter2@bucket/runs", "s3://bucket/runs?secret_key=hunter2"):
        with pytest.raises(ConfigError, match="Credentials must not stand in a path") as caught:
            Storage(uri)
        assert "hunter2" not in str(caught.value)
