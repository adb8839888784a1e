"""One directory on four kinds of file system: the same bytes, the same batches."""

import pickle
from pathlib import Path

import pytest
import torch

from raytrain.data.contract import load_contract
from raytrain.data.manifest import check_history_files, read_manifest
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import ConfigError, RaytrainError
from raytrain.storage import Storage
from tests.data.build import build_dataset
from tests.data.served import stream_spec
from tests.messages import assert_three_parts


@pytest.fixture(params=["a bare path", "file://", "s3://", "fsspec+file://"])
def uri(request, tmp_path, s3_bucket):
    return {
        "a bare path": str(tmp_path),
        "file://": f"file://{tmp_path}",
        "s3://": f"{s3_bucket}/{tmp_path.name}",
        "fsspec+file://": f"fsspec+file://{tmp_path}",
    }[request.param]


def test_what_is_written_is_read_and_listed(uri):
    storage = Storage(uri)
    assert not storage.exists("a/b.txt")
    assert storage.list_files("a") == []
    storage.write_text("a/b.txt", "grüße")
    storage.write_bytes("a/c.bin", b"\x00\x01")
    storage.write_bytes("a/deep/d.txt", b"")
    assert storage.read_text("a/b.txt") == "grüße"
    assert storage.read_bytes("a/c.bin") == b"\x00\x01"
    assert storage.exists("a/b.txt")
    assert storage.exists("a")
    assert storage.list_files("a") == ["a/b.txt", "a/c.bin"]
    assert storage.list_files("a", suffix=".bin") == ["a/c.bin"]
    storage.write_text("a/b.txt", "again")
    assert storage.read_text("a/b.txt") == "again"
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("missing")


def test_a_trailing_slash_changes_nothing(uri):
    Storage(f"{uri}/").write_text("a/b.txt", "x")
    assert Storage(uri).read_text("a/b.txt") == "x"
    assert Storage(f"{uri}/").list_files("a") == ["a/b.txt"]
    assert Storage(f"{uri}/").join("a") == Storage(uri).join("a") == f"{uri}/a"


def test_a_joined_name_opens_as_a_directory(uri):
    Storage(Storage(uri).join("runs")).write_text("result.json", "{}")
    assert Storage(uri).read_text("runs/result.json") == "{}"


def test_joining_keeps_the_query_of_a_uri_at_its_end():
    assert Storage("s3://bucket/p?region=us-east-1&endpoint_override=127.0.0.1:1").join("a/b") == (
        "s3://bucket/p/a/b?region=us-east-1&endpoint_override=127.0.0.1:1"
    )


def test_every_file_system_reads_the_same_batches(uri, tmp_path_factory):
    source: Path = tmp_path_factory.mktemp("local")
    build_dataset(source, num_users=20, num_items=10)
    storage = Storage(uri)
    for file in source.rglob("*.*"):
        storage.write_bytes(str(file.relative_to(source)), file.read_bytes())

    def batches(path: str):
        contract = load_contract(path)
        check_history_files(contract, path, ("target", "source"), read_manifest(contract, path, "target", "train"))
        return list(local_micro_batches(stream_spec(contract, path, 32, ("target", "source"), seed=5)))

    found, expected = batches(uri), batches(str(source))
    assert len(found) == len(expected) > 1
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in zip(tensors_of(ours), tensors_of(theirs), strict=True):
            assert torch.equal(mine, other)


def tensors_of(batch):
    histories = [tensor for history in batch.histories.values() for tensor in (history.items, history.lengths, *history.side.values())]
    provenance = [torch.from_numpy(array.copy()) for part in batch.provenance for array in (part.fragment, part.row, part.status)]
    return [*batch.ids.values(), *batch.dense.values(), batch.label, batch.weight, batch.group, batch.time, *histories, *provenance]


def test_storage_travels_to_a_worker(tmp_path):
    Storage(str(tmp_path)).write_text("a", "x")
    assert pickle.loads(pickle.dumps(Storage(str(tmp_path)))).read_text("a") == "x"


def test_a_relative_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Storage("runs").write_text("a", "x")
    assert (tmp_path / "runs/a").read_text() == "x"


def test_a_half_written_file_is_never_seen(tmp_path):
    Storage(str(tmp_path)).write_text("a", "x")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("uri", ["ftb://host/path", "s3://b ucket/p", "file://host/path", "fsspec+nothing://x"])
def test_a_path_that_no_file_system_knows_is_refused(uri):
    with pytest.raises(ConfigError) as error:
        Storage(uri)
    assert_three_parts(error.value, f"Received: {uri} (", "s3://")


@pytest.mark.parametrize("name", ["s3://raytrain/nothing", "s3://no-such-bucket/nothing"])
def test_a_data_set_that_is_not_on_s3_is_refused(s3_bucket, name):
    with pytest.raises(RaytrainError) as error:
        load_contract(name)
    assert_three_parts(error.value, name)
