"""From Arrow rows to tensors: shapes, types, padding, and no copy on the way out of the read task."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raytrain.data.batch import Batch
from raytrain.data.collate import join_domains
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.data.reader import unwrap, wrap
from tests.data.build import SAMPLE_SCHEMA, START, DomainRows, Events, Layout, build_dataset, write_dataset
from tests.data.served import stream_spec


@given(st.lists(st.tuples(st.integers(-5, 5), st.lists(st.integers(0, 9), max_size=4)), max_size=12))
def test_wrapping_gives_one_row_and_unwrapping_gives_the_rows_back(rows):
    table = pa.table({"a": pa.array([a for a, _ in rows], pa.int32()), "b": pa.array([b for _, b in rows], pa.list_(pa.int32()))})
    wrapped = wrap(table)
    assert wrapped.num_rows == 1
    assert {name: column.to_pylist() for name, column in unwrap(wrapped).items()} == table.to_pydict()
    both = pa.concat_tables([table, table])
    assert unwrap(wrap(both))["b"].to_pylist() == both.column("b").to_pylist()


def test_wrapping_copies_no_value():
    values = pa.array(np.arange(1000, dtype=np.int64))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 1001, 10, dtype=np.int32)), values)
    there_and_back = unwrap(wrap(pa.table({"v": values.slice(0, 100), "l": lists})))
    assert there_and_back["v"].buffers()[1].address == values.buffers()[1].address
    assert there_and_back["l"].flatten().buffers()[1].address == values.buffers()[1].address


@pytest.fixture
def toy(tmp_path):
    """Three rows by hand, and histories for two of their users."""
    rows = pa.Table.from_pylist(
        [
            {"user": 1, "item": 5, "time": START + 10, "label": 1.0, "country": 2, "tags": [3, 4], "price": 3.0},
            {"user": 2, "item": 6, "time": START + 20, "label": 0.0, "country": 0, "tags": [], "price": 2.0},
            {"user": 3, "item": 7, "time": START + 30, "label": 1.0, "country": 1, "tags": [1, 2, 3, 4, 5], "price": 1.5},
        ],
        SAMPLE_SCHEMA,
    )
    events = Events(np.array([1, 1, 2]), np.array([8, 9, 8]), START + np.array([2, 9, 19]), np.array([1, 2, 3]))
    source = Events(np.array([3]), np.array([50]), START + np.array([0]), np.array([5]))
    # The source is declared first: the target is domain 0 all the same.
    domains = {"source": DomainRows({"train": rows}, source, "source"), "target": DomainRows({"train": rows}, events)}
    return write_dataset(tmp_path, domains, Layout(1)), tmp_path


def batches_of(toy, batch_size: int, domain: str = "target") -> list[Batch]:
    contract, path = toy
    return list(local_micro_batches(stream_spec(contract, path, batch_size, ("target", "source"), shuffle=False, domain=domain)))


def test_a_batch_by_hand(toy):
    [batch] = batches_of(toy, 4)
    assert batch.num_rows == 4
    assert batch.ids["user"].tolist() == [1, 2, 3, 0]
    assert batch.ids["item"].tolist() == [5, 6, 7, 0]
    assert batch.ids["country"].tolist() == [2, 0, 1, 0]
    # At most max_values = 3 of them.
    assert batch.ids["tags"].tolist() == [[3, 4, 0], [0, 0, 0], [1, 2, 3], [0, 0, 0]]
    # (price - 2) / 0.5
    assert batch.dense["price"].tolist() == [2.0, 0.0, -1.0, -4.0]
    assert batch.label.tolist() == [1.0, 0.0, 1.0, 0.0]
    assert batch.weight.tolist() == [1.0, 1.0, 1.0, 0.0]
    assert batch.group.tolist() == [1, 2, 3, 0]
    assert batch.time.tolist() == [START + 10, START + 20, START + 30, 0]
    assert batch.domain.tolist() == [0, 0, 0, 0]
    target = batch.histories["target"]
    assert target.items.tolist() == [[8, 9], [8, 0], [0, 0], [0, 0]]
    assert target.lengths.tolist() == [2, 1, 0, 0]
    assert target.side["rating"].tolist() == [[1, 2], [3, 0], [0, 0], [0, 0]]
    # Ages of 8, 1 and 1 seconds.
    assert target.side["age"].tolist() == [[4, 2], [2, 0], [0, 0], [0, 0]]
    assert target.mask.tolist() == [[True, True], [True, False], [False, False], [False, False]]
    assert batch.histories["source"].items.tolist() == [[0], [0], [50], [0]]
    [provenance] = batch.provenance
    assert (provenance.domain, provenance.epoch) == ("target", 0)
    assert provenance.fragment.tolist() == [0, 0, 0, -1]
    assert provenance.row.tolist() == [0, 1, 2, -1]
    assert provenance.status.tolist() == [0, 0, 0, 1]


def test_types(toy):
    [batch] = batches_of(toy, 3)
    target = batch.histories["target"]
    whole = [*batch.ids.values(), target.items, target.lengths, *target.side.values(), batch.group, batch.time, batch.domain]
    assert {tensor.dtype for tensor in whole} == {torch.int64}
    assert {tensor.dtype for tensor in (*batch.dense.values(), batch.label, batch.weight)} == {torch.float32}
    assert [array.dtype for array in (batch.provenance[0].fragment, batch.provenance[0].row, batch.provenance[0].status)] == [
        np.int32,
        np.int32,
        np.int8,
    ]


def test_lists_are_as_wide_as_the_longest_and_at_least_one(toy):
    batches = batches_of(toy, 1)
    assert [tuple(batch.ids["tags"].shape) for batch in batches] == [(1, 2), (1, 1), (1, 3)]
    assert [tuple(batch.histories["target"].items.shape) for batch in batches] == [(1, 2), (1, 1), (1, 1)]


def test_joined_domains_stand_one_below_the_other(toy):
    [target], [source] = batches_of(toy, 4), batches_of(toy, 3, "source")
    both = join_domains([target, source])
    assert both.domain.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert both.num_rows == 7
    assert both.weight.sum() == 6
    assert both.ids["user"].tolist() == [1, 2, 3, 0, 1, 2, 3]
    assert [part.domain for part in both.provenance] == ["target", "source"]
    assert join_domains([target]) is target


def test_joining_pads_the_narrower_lists(toy):
    wide, narrow = batches_of(toy, 1)[0], batches_of(toy, 1)[1]
    both = join_domains([narrow, wide])
    assert both.ids["tags"].tolist() == [[0, 0], [3, 4]]
    assert both.histories["target"].items.tolist() == [[8, 0], [8, 9]]
    assert both.histories["target"].lengths.tolist() == [1, 2]
    assert both.histories["target"].side["rating"].tolist() == [[3, 0], [1, 2]]


def test_a_stream_that_ends_early_leaves_the_others_alone(toy):
    steps = list(joined([iter(batches_of(toy, 1)), iter(batches_of(toy, 2, "source"))]))
    assert [step.num_rows for step in steps] == [3, 3, 1]


def test_a_batch_stays_itself_on_the_cpu(toy):
    [batch] = batches_of(toy, 4)
    assert batch.to(torch.device("cpu")) is batch


def test_a_moved_batch_keeps_every_tensor(toy):
    [batch] = batches_of(toy, 4)
    moved = batch.to(torch.device("meta"))
    assert moved.label.device.type == "meta"
    assert moved.histories["target"].side["age"].device.type == "meta"
    assert moved.provenance is batch.provenance


def test_the_built_data_set_can_be_learned_from_histories_alone(tmp_path):
    """What training tests rely on: liked genres in the history tell the label, the item's mean does not."""
    contract = build_dataset(tmp_path, seed=1)
    right, count = 0, 0
    for batch in local_micro_batches(stream_spec(contract, tmp_path, 64, ("source",))):
        history = batch.histories["source"]
        liked = (history.side["rating"] >= 4) & history.mask
        same_genre = history.items % 4 == (batch.ids["item"] % 4)[:, None]
        score = (liked & same_genre).sum(1) - (~liked & history.mask & same_genre).sum(1)
        known = (batch.weight > 0) & (score != 0)
        right += int(((score > 0) == (batch.label > 0))[known].sum())
        count += int(known.sum())
    assert count > 200
    assert right / count > 0.75


def test_the_same_seed_builds_the_same_files(tmp_path):
    contracts = [build_dataset(tmp_path / name, num_users=10, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    files = [{str(f.relative_to(tmp_path / n)): f.read_bytes() for f in sorted((tmp_path / n).rglob("*.*"))} for n in "abc"]
    assert contracts[0] == contracts[1]
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize(("column", "expected"), [("country", [2, 0, 1]), ("tags", [3, 0, 1])], ids=["of an id feature", "first of a list"])
def test_slices_come_with_the_rows_only_where_asked_for(toy, column, expected):
    contract, path = toy
    contract = contract.model_copy(update={"slice": column})
    spec = stream_spec(contract, path, 4, (), shuffle=False)
    [plain] = local_micro_batches(spec)
    [batch] = local_micro_batches(replace(spec, slices=True))
    assert plain.slice is None
    assert batch.slice.dtype == torch.int64
    assert batch.slice[:3].tolist() == expected
    joined_slices = join_domains([batch, batch]).slice
    assert joined_slices.tolist() == 2 * batch.slice.tolist()
    assert join_domains([batch, plain]).slice is None
