"""Unique ids over features and histories of a table."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raytrain.embeddings.tables import TableConfig
from raytrain.embeddings.unique import mark_unique, unique_ids
from raytrain.errors import TablesError
from tests.embeddings.cases import make_batch

ITEM = TableConfig("item", 10, 4, features=("item", "tags"), histories=("target",))


@given(st.integers(1, 40).flatmap(lambda num_rows: st.tuples(st.just(num_rows), st.lists(st.integers(0, num_rows - 1), max_size=60))))
def test_marking_equals_sorting(case: tuple[int, list[int]]) -> None:
    num_rows, values = case
    flat = torch.tensor(values, dtype=torch.int64)
    for got, expected in zip(mark_unique(flat, num_rows), torch.unique(flat, return_inverse=True), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("num_rows", [10, 10**9], ids=["small table, marked", "huge table, sorted"])
def test_features_and_histories_share_one_lookup(num_rows: int) -> None:
    config = TableConfig("item", num_rows, 4, features=("item", "tags"), histories=("target",))
    columns = {"item": torch.tensor([7, 3]), "tags": torch.tensor([[3, 0], [9, 9]])}
    history = torch.tensor([[1, 7, 0], [3, 0, 0]])
    ids, inverse = unique_ids(make_batch(columns, {"target": history}), config)
    assert ids.tolist() == [0, 1, 3, 7, 9]
    for name, column in {**columns, "history/target": history}.items():
        assert torch.equal(ids[inverse[name]], column)
    assert list(inverse) == ["item", "tags", "history/target"]


def test_a_table_without_features_has_no_ids() -> None:
    ids, inverse = unique_ids(make_batch({"item": torch.tensor([1])}), TableConfig("unused", 5, 4))
    assert ids.shape == (0,)
    assert inverse == {}


@pytest.mark.parametrize("bad", [-1, 10], ids=["negative", "past the last row"])
def test_an_id_outside_the_table_is_named(bad: int) -> None:
    batch = make_batch({"item": torch.tensor([bad, 1]), "tags": torch.tensor([[1], [2]])}, {"target": torch.tensor([[1], [2]])})
    with pytest.raises(TablesError, match=rf"item have to lie in 0..9. Received: id={bad}"):
        unique_ids(batch, ITEM)


def test_a_missing_feature_is_named() -> None:
    with pytest.raises(TablesError, match=r"Received: item. Add tags, history/target"):
        unique_ids(make_batch({"item": torch.tensor([1])}), ITEM)
