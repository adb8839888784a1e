"""The labels of a split and its rows by slice, as a stream would take them."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.data import labels
from raytrain.data.contract import Amount, load_contract
from raytrain.data.labels import read_labels
from raytrain.data.manifest import read_manifest
from tests.data.build import DomainRows, Layout, samples, write_dataset


@pytest.fixture
def dataset(tmp_path):
    """120 rows with amounts 0..119, of which every tenth is bad, and countries that go round."""
    index = np.arange(120)
    rows = samples(1 + index % 7, 1 + index % 5, 1_600_000_000 + index, index)
    bad = np.where(index % 20 == 0, math.nan, -1.0)
    rows = rows.set_column(3, "label", pa.array(np.where(index % 10 == 0, bad, index), pa.float32()))
    rows = rows.set_column(4, "country", pa.array(index % 4, pa.int32()))
    write_dataset(tmp_path, {"target": DomainRows({"train": rows, "valid": rows, "test": rows})}, Layout(row_group_rows=10))
    return str(tmp_path)


def read(path, **changes):
    contract = load_contract(path).model_copy(update={"amount": Amount(currency="GBP", horizon_days=90), **changes})
    return read_labels(contract, path, read_manifest(contract, path, "target", "train"))


def test_bad_amounts_are_left_out(dataset):
    found = read(dataset)
    assert sorted(found.labels) == [number for number in range(120) if number % 10]
    expected = np.bincount([number % 4 for number in range(120) if number % 10])
    assert found.slice_rows == dict(enumerate(expected.tolist()))


def test_slices_unseen_in_training_are_unknown(dataset):
    seen, unseen = read(dataset).slice_rows, read(dataset, unseen_slices=(2,)).slice_rows
    assert unseen == {0: seen[0] + seen[2], 1: seen[1], 3: seen[3]}


def test_of_a_list_the_first_value_is_the_slice(dataset):
    lists = pq.read_table(dataset + "/samples/target/train").to_pandas()
    lists = lists[(lists["label"] >= 0)]
    first = lists["tags"].map(lambda values: int(values[0]) if len(values) else 0)
    assert read(dataset, slice="tags").slice_rows == first.value_counts().to_dict()
    assert read(dataset, slice=None).slice_rows == {}


def test_of_very_many_rows_every_kth_row_group_stands_for_k(dataset, monkeypatch):
    monkeypatch.setattr(labels, "MAX_ROWS", 60)
    found = read(dataset)
    assert 40 <= len(found.labels) <= 70
    assert sum(found.slice_rows.values()) == 2 * len(found.labels)
