"""Names of slices: of a column with a table of its own or of a feature's, and none where nothing is known."""

from pathlib import Path

import pyarrow as pa
import pytest

from raytrain.data.contract import Contract, Domain, Feature, Table
from raytrain.data.prepare.output import write_vocabulary
from raytrain.data.vocabulary import slice_names
from raytrain.storage import Storage


def contract_of(column: str | None) -> Contract:
    return Contract(
        dataset="x",
        content_hash="0",
        num_buckets=1,
        slice=column,
        tables={"shop": Table(num_rows=4), "country": Table(num_rows=4)},
        features=(Feature(name="market", kind="id", table="country"),),
        domains={"ads": Domain(role="target", splits={})},
    )


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_vocabulary(Storage(str(tmp_path)), "shop", pa.array(["toys", "books", "tea"]))
    write_vocabulary(Storage(str(tmp_path)), "country", pa.array([33, 44, 49]))
    return str(tmp_path)


@pytest.mark.parametrize(
    ("column", "names"),
    [("shop", {1: "toys", 3: "tea"}), ("market", {1: "33", 3: "49"}), (None, {})],
    ids=["column of its own", "feature", "no slices"],
)
def test_ids_are_named_by_the_table_of_the_slice(data: str, column: str | None, names: dict[int, str]) -> None:
    assert slice_names(contract_of(column), data, [0, 1, 3]) == names


def test_a_data_set_without_a_vocabulary_has_no_names(tmp_path: Path) -> None:
    assert slice_names(contract_of("shop"), str(tmp_path), [1]) == {}


def test_a_broken_vocabulary_stops_nothing(data: str) -> None:
    Storage(data).write_text("vocabularies/shop.parquet", "torn")
    assert slice_names(contract_of("shop"), data, [1]) == {}
