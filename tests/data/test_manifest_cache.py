"""A footer is read once: from then on its row counts come from the cache, for as long as nothing has changed."""

import os
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from raytrain.data.contract import Feature, load_contract
from raytrain.data.frame import read_events
from raytrain.data.manifest import check_history_files, read_manifest
from raytrain.errors import ContractError
from raytrain.storage import Storage
from tests.data.build import build_dataset, write_samples

CACHE = "_manifest.parquet"
TRAIN = "samples/target/train"


class CountingFileSystem(LocalFileSystem):
    """The local disk, which remembers what was opened for reading and can be made read-only or forgetful of times."""

    protocol = "counting"
    opened: list[str]
    read_only: bool
    tells_time: bool

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("counting://"))

    def info(self, path, **kwargs):
        found = super().info(path, **kwargs)
        return found if self.tells_time else {name: value for name, value in found.items() if name != "mtime"}

    def _open(self, path, mode="rb", **kwargs):
        if mode != "rb" and self.read_only:
            raise PermissionError(13, "Read-only file system", path)
        type(self).opened.append(Path(path).name)
        return super()._open(path, mode, **kwargs)


@pytest.fixture
def disk(monkeypatch):
    fsspec.register_implementation("counting", CountingFileSystem, clobber=True)
    for name, value in {"opened": [], "read_only": False, "tells_time": True}.items():
        monkeypatch.setattr(CountingFileSystem, name, value, raising=False)
    return CountingFileSystem


class DataSet:
    """A data set of four buckets on the counting disk."""

    def __init__(self, root: Path, disk: type[CountingFileSystem]) -> None:
        self.root, self.uri, self.disk = root, f"fsspec+counting://{root}", disk
        build_dataset(root, num_users=40, num_items=10, num_buckets=4)
        self.contract = load_contract(str(root))

    def read(self):
        """(the training manifest of the target, names of the data files whose footers were read)."""
        self.disk.opened.clear()
        manifest = read_manifest(self.contract, self.uri, "target", "train")
        return manifest, sorted(name for name in self.disk.opened if name.startswith("bucket-"))

    def file(self, bucket: int) -> Path:
        return self.root / f"{TRAIN}/bucket-{bucket:05d}.parquet"


@pytest.fixture
def data(tmp_path, disk):
    return DataSet(tmp_path / "data", disk)


ALL = [f"bucket-{number:05d}.parquet" for number in range(4)]


def assert_same(found, expected):
    assert found.files == expected.files
    for name in ("file_index", "row_group", "num_rows"):
        assert getattr(found, name).dtype == getattr(expected, name).dtype
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.fingerprint() == expected.fingerprint()


def test_footers_are_opened_once(data):
    first, opened = data.read()
    assert opened == ALL
    second, opened = data.read()
    assert opened == []
    assert_same(second, first)
    assert len(first.num_rows) > 4
    assert_same(read_manifest(data.contract, str(data.root), "target", "train"), first)


def test_only_a_changed_file_is_opened_again(data):
    data.read()
    write_samples(data.file(2), pq.read_table(data.file(2)), row_group_rows=7)
    changed, opened = data.read()
    assert opened == [ALL[2]]
    assert changed.num_rows[changed.file_index == 2].max() == 7
    again, opened = data.read()
    assert opened == []
    assert_same(again, changed)


def test_a_file_touched_at_the_same_size_is_opened_again(data):
    data.read()
    status = data.file(1).stat()
    os.utime(data.file(1), ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    assert data.read()[1] == [ALL[1]]


def test_new_and_vanished_files_are_noticed(data):
    before, _ = data.read()
    write_samples(data.root / f"{TRAIN}/bucket-00009.parquet", pq.read_table(data.file(0)).slice(0, 0))
    with_empty, opened = data.read()
    assert opened == ["bucket-00009.parquet"]
    assert with_empty.num_rows.tolist() == before.num_rows.tolist()
    data.file(3).unlink()
    with pytest.raises(ContractError, match="in 4 files"):
        data.read()


def test_files_whose_names_begin_with_an_underscore_or_a_dot_are_no_data(data):
    before, _ = data.read()
    for name in ("_scratch.parquet", ".hidden.parquet", "notes.txt"):
        (data.root / TRAIN / name).write_text("no Parquet")
    assert_same(data.read()[0], before)


def flip_a_bit(cache: Path) -> None:
    """In the last page of row counts, where only its checksum can tell."""
    column = pq.read_metadata(cache).row_group(0).column(3)
    last = column.dictionary_page_offset + column.total_compressed_size - 1
    content = cache.read_bytes()
    cache.write_bytes(content[:last] + bytes([content[last] ^ 1]) + content[last + 1 :])


BROKEN = {
    "of zero bytes": lambda cache: cache.write_bytes(b""),
    "torn": lambda cache: cache.write_bytes(cache.read_bytes()[:-20]),
    "of noise": lambda cache: cache.write_bytes(b"\x00\xff" * 500),
    "with a flipped byte": flip_a_bit,
    "of another program": lambda cache: pq.write_table(pa.table({"file": ["bucket-00000.parquet"]}), cache),
    "without rows": lambda cache: pq.write_table(pq.read_table(cache).slice(0, 0), cache),
    "gone": lambda cache: cache.unlink(),
}


@pytest.mark.parametrize("break_it", BROKEN.values(), ids=[f"a cache {name}" for name in BROKEN])
def test_a_broken_cache_is_ignored_and_replaced(data, break_it):
    first, _ = data.read()
    break_it(data.root / TRAIN / CACHE)
    second, opened = data.read()
    assert opened == ALL
    assert_same(second, first)
    assert data.read()[1] == []


def test_counts_that_were_checked_for_other_columns_do_not_count(data):
    data.read()
    price = Feature(name="prize", kind="dense")
    data.contract = data.contract.model_copy(update={"features": (*data.contract.features, price)})
    with pytest.raises(ContractError, match="column prize"):
        data.read()


def test_read_only_data_is_read_as_ever(data):
    data.disk.read_only = True
    first, opened = data.read()
    assert opened == ALL
    assert not (data.root / TRAIN / CACHE).exists()
    second, opened = data.read()
    assert opened == ALL
    assert_same(second, first)


def test_a_cache_that_cannot_be_replaced_is_no_error(data):
    (data.root / TRAIN / CACHE).mkdir()
    assert data.read()[1] == ALL
    assert data.read()[1] == ALL


def test_without_times_nothing_is_cached(data):
    data.disk.tells_time = False
    data.read()
    assert data.read()[1] == ALL
    assert not (data.root / TRAIN / CACHE).exists()


def test_histories_are_checked_once(data):
    manifest, _ = data.read()

    def opened() -> int:
        data.disk.opened.clear()
        check_history_files(data.contract, data.uri, ("target", "source"), manifest)
        return sum(name.startswith("bucket-") for name in data.disk.opened)

    assert opened() == 8
    assert opened() == 0
    users = np.arange(1, 41)
    assert len(read_events(data.contract, data.uri, "source", users).user) == data.contract.domains["source"].history.num_events
    (data.root / "histories/source/bucket-00001.parquet").unlink()
    with pytest.raises(ContractError, match=r"histories/source/bucket-00001.parquet has to be a Parquet file"):
        opened()


def test_an_object_store_keeps_its_cache(data, s3_bucket):
    uri = f"{s3_bucket}/cached"
    for file in data.root.rglob("*.*"):
        Storage(uri).write_bytes(str(file.relative_to(data.root)), file.read_bytes())
    first = read_manifest(data.contract, uri, "target", "train")
    assert Storage(uri).exists(f"{TRAIN}/{CACHE}")
    assert_same(read_manifest(data.contract, uri, "target", "train"), first)
