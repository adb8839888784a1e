"""A split in memory has the rows, provenance and quarantine of the streamed one, or is refused before it is read."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.data.contract import Contract
from raytrain.data.frame import Frame, check_memory, concat_frames, read_events, read_frame
from raytrain.data.manifest import read_manifest
from raytrain.errors import DataError, ResourceError
from tests.data.build import build_dataset


@pytest.fixture
def contract(tmp_path: Path) -> Contract:
    return build_dataset(tmp_path, num_users=20, row_group_rows=16)


def frame_of(contract: Contract, path: Path, split: str = "train") -> Frame:
    return read_frame(contract, str(path), read_manifest(contract, str(path), "target", split))


def test_fragment_and_row_lead_back_to_the_file(contract: Contract, tmp_path: Path):
    manifest = read_manifest(contract, str(tmp_path), "target", "train")
    frame = frame_of(contract, tmp_path)
    assert frame.num_rows == contract.domains["target"].splits["train"].num_rows
    assert frame.num_quarantined == 0
    for index in range(0, frame.num_rows, 7):
        fragment, row = frame.column("_fragment")[index], frame.column("_row")[index]
        file = pq.ParquetFile(tmp_path / manifest.files[manifest.file_index[fragment]])
        stored = file.read_row_group(int(manifest.row_group[fragment])).slice(int(row), 1).to_pylist()[0]
        assert {name: frame.rows.column(name)[index].as_py() for name in stored} == stored


def test_lists_come_with_the_row_of_each_value(contract: Contract, tmp_path: Path):
    frame = concat_frames([frame_of(contract, tmp_path), frame_of(contract, tmp_path, "test")])
    values, owner = frame.lists("tags")
    lists = frame.rows.column("tags").to_pylist()
    assert values.tolist() == [value for row in lists for value in row]
    assert owner.tolist() == [index for index, row in enumerate(lists) for _ in row]


def test_bad_rows_are_left_out_and_counted(contract: Contract, tmp_path: Path):
    file = tmp_path / "samples/target/train/bucket-00000.parquet"
    table = pq.read_table(file)
    label = table.column("label").to_numpy().copy()
    label[[2, 30]] = np.nan
    pq.write_table(table.set_column(table.column_names.index("label"), "label", pa.array(label)), file, row_group_size=16)
    frame = frame_of(contract, tmp_path)
    assert frame.num_quarantined == 2
    assert frame.num_rows == contract.domains["target"].splits["train"].num_rows - 2
    found = set(zip(frame.column("_fragment").tolist(), frame.column("_row").tolist(), strict=True))
    assert not found & {(0, 2), (1, 14)}
    assert {(0, 3), (1, 13)} <= found


def test_events_are_the_histories_of_the_users_asked_for(contract: Contract, tmp_path: Path):
    events = read_events(contract, str(tmp_path), "source", np.array([3, 4, 8]))
    stored = [row for file in sorted((tmp_path / "histories/source").glob("bucket-*")) for row in pq.read_table(file).to_pylist()]
    stored = [row for row in stored if row["user"] in (3, 4, 8)]
    assert len(stored) == 3
    for row in stored:
        own = events.user == row["user"]
        assert events.item[own].tolist() == row["item"]
        assert events.time[own].tolist() == row["time"]
        assert events.side["rating"][own].tolist() == row["rating"]
    assert len(events.user) == sum(len(row["item"]) for row in stored)
    assert set(events.side) == {"rating"}


def test_a_missing_history_file_is_named(contract: Contract, tmp_path: Path):
    file = tmp_path / "histories/source/bucket-00001.parquet"
    file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"bucket-00001\.parquet"):
        read_events(contract, str(tmp_path), "source", np.array([3]))


def test_too_little_memory_is_an_error_with_its_arithmetic():
    check_memory(1024, 1024, max_memory_mib=1)
    with pytest.raises(ResourceError, match=r"1,025 samples and history events x 1,024 bytes = 1\.0 MiB, model\.max_memory_mib=1\."):
        check_memory(1025, 1024, max_memory_mib=1)
