"""Bad rows: weight 0, counted, saved with reason and provenance, and no trace of them in the good rows beside them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from raytrain.data.contract import Amount, Feature, Table, save_contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.data.provenance import STATUS_OK, STATUS_QUARANTINED
from raytrain.errors import DataError
from tests.data.build import SAMPLE_SCHEMA, START, DomainRows, Events, Layout, numbered_samples, write_dataset, write_samples
from tests.data.served import stream_spec

NUM_ROWS, ROW_GROUP_ROWS, BAD_ROW = 40, 8, 21
NAN, INFINITY = float("nan"), float("inf")
FILE = "samples/target/train/bucket-00000.parquet"


def write(path: Path, rows: pa.Table, compression: str = "zstd"):
    user = np.arange(1, 11).repeat(3)
    events = Events(user, 1 + np.arange(30) % 7, START + np.arange(30) % 5, 1 + np.arange(30) % 5)
    layout = Layout(1, ROW_GROUP_ROWS, compression=compression)
    contract = write_dataset(path, {"target": DomainRows({"train": numbered_samples(NUM_ROWS)}, events)}, layout)
    write_samples(path / FILE, rows, ROW_GROUP_ROWS, compression)
    return contract


def with_values(**values) -> pa.Table:
    """The clean rows with row BAD_ROW's columns replaced."""
    rows = numbered_samples(NUM_ROWS).to_pylist()
    rows[BAD_ROW] |= values
    return pa.Table.from_pylist(rows, SAMPLE_SCHEMA)


def batches_of(contract, path: Path, shuffle: bool = False):
    quarantine = str(path / "quarantine")
    spec = stream_spec(contract, path, 16, ("target",), shuffle, quarantine_path=quarantine, window_batches=2)
    return list(local_micro_batches(spec))


def good_rows(batches) -> dict[tuple[int, int], tuple]:
    """(fragment, row) -> every value of a row with weight 1."""
    found = {}
    for batch in batches:
        [source] = batch.provenance
        history = batch.histories["target"]
        for index in np.nonzero(batch.weight.numpy())[0]:
            assert source.status[index] == STATUS_OK
            values = [sorted(column[index].reshape(-1).tolist()) for column in batch.ids.values()]
            values += [column[index].item() for column in (*batch.dense.values(), batch.label, batch.group, batch.time)]
            values += [column[index].tolist()[: history.lengths[index]] for column in (history.items, *history.side.values())]
            # Padding width depends on the neighbours, so zeros of the multi feature are left out.
            values[3] = [value for value in values[3] if value]
            found[int(source.fragment[index]), int(source.row[index])] = tuple(map(str, values))
    return found


def quarantined(path: Path) -> list[tuple[str, int, int, str]]:
    files = sorted((path / "quarantine").glob("*.parquet"))
    return [tuple(row.values()) for file in files for row in pq.read_table(file).to_pylist()]


def assert_harmless(contract, batches) -> None:
    """Whatever a model computes on these tensors is finite and inside its tables."""
    for batch in batches:
        for feature in contract.features:
            if feature.kind == "dense":
                assert torch.isfinite(batch.dense[feature.name]).all()
            else:
                ids = batch.ids[feature.name]
                assert 0 <= ids.min() <= ids.max() < contract.table_of(feature).num_rows
        assert torch.isin(batch.label, torch.tensor([0.0, 1.0])).all()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.zeros(batch.num_rows), batch.label, reduction="none")
        assert torch.isfinite((loss * batch.weight).sum())


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    path = tmp_path_factory.mktemp("clean")
    rows = good_rows(batches_of(write(path, numbered_samples(NUM_ROWS)), path))
    assert len(rows) == NUM_ROWS
    assert not quarantined(path)
    return rows


BAD_VALUES = {
    "a null user": ({"user": None}, "null user"),
    "a null item": ({"item": None}, "null item"),
    "a null time": ({"time": None}, "null time"),
    "a null id feature": ({"country": None}, "null country"),
    "a null multi feature": ({"tags": None}, "null tags"),
    "a null inside a multi feature": ({"tags": [1, None]}, "tags is outside [0, 6)"),
    "a negative user": ({"user": -1}, "user is outside [0, 100)"),
    "a user past its table": ({"user": 100}, "user is outside [0, 100)"),
    "a negative candidate": ({"item": -5}, "item is outside [0, 100)"),
    "a candidate past its table": ({"item": 100}, "item is outside [0, 100)"),
    "the largest int32": ({"item": 2**31 - 1}, "item is outside [0, 100)"),
    "the smallest int32": ({"country": -(2**31)}, "country is outside [0, 4)"),
    "an id one past its table": ({"country": 4}, "country is outside [0, 4)"),
    "a negative multi value": ({"tags": [1, -1]}, "tags is outside [0, 6)"),
    "a multi value past its table": ({"tags": [6, 1]}, "tags is outside [0, 6)"),
    "a NaN label": ({"label": NAN}, "label is NaN or null"),
    "a null label": ({"label": None}, "label is NaN or null"),
    "half a label": ({"label": 0.5}, "label is neither 0 nor 1"),
    "a label of two": ({"label": 2.0}, "label is neither 0 nor 1"),
    "a negative label": ({"label": -1.0}, "label is neither 0 nor 1"),
    "an infinite label": ({"label": INFINITY}, "label is neither 0 nor 1"),
    "a label of minus infinity": ({"label": -INFINITY}, "label is neither 0 nor 1"),
    "a null dense value": ({"price": None}, "price is null or not finite"),
    "a NaN dense value": ({"price": NAN}, "price is null or not finite"),
    "an infinite dense value": ({"price": INFINITY}, "price is null or not finite"),
    "a dense value of minus infinity": ({"price": -INFINITY}, "price is null or not finite"),
    "two faults, the first is named": ({"item": 100, "label": NAN, "price": NAN}, "label is NaN or null"),
    "a row of nulls": (dict.fromkeys(SAMPLE_SCHEMA.names), "unreadable row group"),
}


@pytest.mark.parametrize(("values", "reason"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_row_is_set_aside_alone(tmp_path, clean, values, reason):
    contract = write(tmp_path, with_values(**values))
    batches = batches_of(contract, tmp_path)
    assert_harmless(contract, batches)
    row_group, row = divmod(BAD_ROW, ROW_GROUP_ROWS)
    assert quarantined(tmp_path) == [(FILE, row_group, row, reason)]
    found = good_rows(batches)
    assert found == {key: value for key, value in clean.items() if key != (row_group, row)}
    statuses = np.concatenate([batch.provenance[0].status for batch in batches])
    assert (statuses == STATUS_QUARANTINED).sum() == 1


def test_a_candidate_that_is_no_feature_may_not_be_null(tmp_path):
    contract = write(tmp_path, with_values(item=None))
    contract = contract.model_copy(update={"features": tuple(feature for feature in contract.features if feature.name != "item")})
    batches = batches_of(contract, tmp_path)
    assert_harmless(contract, batches)
    assert [row[3] for row in quarantined(tmp_path)] == ["null item"]


def test_a_user_that_is_no_feature_may_not_be_null(tmp_path):
    contract = write(tmp_path, with_values(user=None))
    contract = contract.model_copy(update={"features": (Feature(name="price", kind="dense"),)})
    assert len(good_rows_of_price(batches_of(contract, tmp_path))) == NUM_ROWS - 1
    assert [row[3] for row in quarantined(tmp_path)] == ["null user"]


def good_rows_of_price(batches) -> list[float]:
    return [value for batch in batches for value in batch.dense["price"][batch.weight > 0].tolist()]


def test_several_bad_rows_of_a_shuffled_window_are_counted_one_by_one(tmp_path, clean):
    rows = numbered_samples(NUM_ROWS).to_pylist()
    for index, values in {0: {"label": NAN}, 7: {"item": 500}, 8: {"time": None}, 39: {"price": None}}.items():
        rows[index] |= values
    contract = write(tmp_path, pa.Table.from_pylist(rows, SAMPLE_SCHEMA))
    found = good_rows(batches_of(contract, tmp_path, shuffle=True))
    assert found == {key: value for key, value in clean.items() if key not in {(0, 0), (0, 7), (1, 0), (4, 7)}}
    assert sorted(row[1:] for row in quarantined(tmp_path)) == [
        (0, 0, "label is NaN or null"),
        (0, 7, "item is outside [0, 100)"),
        (1, 0, "null time"),
        (4, 7, "price is null or not finite"),
    ]


def test_rows_past_the_end_of_the_stream_are_not_counted(tmp_path):
    contract = write(tmp_path, with_values(label=NAN))
    spec = stream_spec(contract, tmp_path, 4, shuffle=False, quarantine_path=str(tmp_path / "quarantine"), window_batches=10)
    list(local_micro_batches(spec.lasting((0,), BAD_ROW // 4)))
    assert not quarantined(tmp_path)
    list(local_micro_batches(spec.lasting((0,), BAD_ROW // 4 + 1)))
    assert len(quarantined(tmp_path)) == 1


def test_without_a_quarantine_directory_bad_rows_are_only_counted(tmp_path):
    contract = write(tmp_path, with_values(label=NAN))
    spec = stream_spec(contract, tmp_path, 16)
    assert spec.quarantine_path is None
    weights = torch.cat([batch.weight for batch in local_micro_batches(spec)])
    assert weights.sum() == NUM_ROWS - 1
    assert not (tmp_path / "quarantine").exists()


def test_reading_a_window_again_writes_the_same_quarantine_file(tmp_path):
    contract = write(tmp_path, with_values(label=NAN))
    for _ in range(2):
        batches_of(contract, tmp_path)
    assert len(quarantined(tmp_path)) == 1


def flipped(file: Path, first: int, num_bytes: int = 1) -> None:
    data = bytearray(file.read_bytes())
    for index in range(first, first + num_bytes):
        data[index] ^= 0xFF
    file.write_bytes(bytes(data))


def test_a_corrupt_row_group_in_the_middle_is_set_aside_whole(tmp_path, clean):
    contract = write(tmp_path, numbered_samples(NUM_ROWS))
    column = pq.ParquetFile(tmp_path / FILE).metadata.row_group(2).column(0)
    first = column.dictionary_page_offset or column.data_page_offset
    flipped(tmp_path / FILE, first, column.total_compressed_size)
    batches = batches_of(contract, tmp_path)
    assert_harmless(contract, batches)
    assert quarantined(tmp_path) == [(FILE, 2, row, "unreadable row group") for row in range(ROW_GROUP_ROWS)]
    assert good_rows(batches) == {key: value for key, value in clean.items() if key[0] != 2}


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_any_flipped_byte_of_a_page_costs_its_row_group_at_most(tmp_path, clean, compression):
    contract = write(tmp_path, numbered_samples(NUM_ROWS), compression)
    original = (tmp_path / FILE).read_bytes()
    footer = len(original) - 8 - int.from_bytes(original[-8:-4], "little")
    costs = set()
    for position in np.random.default_rng(0).integers(4, footer, size=60).tolist():
        (tmp_path / FILE).write_bytes(original)
        flipped(tmp_path / FILE, position)
        found = good_rows(batches_of(contract, tmp_path))
        lost = clean.keys() - found.keys()
        assert len({fragment for fragment, _ in lost}) == min(1, len(lost))
        assert len(lost) in (0, ROW_GROUP_ROWS)
        assert found == {key: clean[key] for key in clean.keys() - lost}
        costs.add(len(lost))
    assert ROW_GROUP_ROWS in costs


def test_a_file_that_vanishes_after_planning_is_an_error_and_no_bad_row(tmp_path):
    contract = write(tmp_path, numbered_samples(NUM_ROWS))
    spec = stream_spec(contract, tmp_path, 16, quarantine_path=str(tmp_path / "quarantine"))
    (tmp_path / FILE).unlink()
    with pytest.raises(DataError, match=r"there for every worker\. Received: no such file"):
        list(local_micro_batches(spec))


def test_a_null_slice_that_is_no_feature_is_no_fault(tmp_path):
    contract = write(tmp_path, with_values(country=None))
    features = tuple(feature for feature in contract.features if feature.name != "country")
    contract = contract.model_copy(update={"features": features})
    save_contract(contract, str(tmp_path))
    spec = replace(stream_spec(contract, tmp_path, 16), quarantine_path=str(tmp_path / "quarantine"))
    assert sum(float(batch.weight.sum()) for batch in local_micro_batches(spec)) == NUM_ROWS


@pytest.mark.parametrize(
    ("label", "reason"),
    [(-0.01, "label is negative"), (NAN, "label is NaN or null"), (INFINITY, "label is infinite"), (-INFINITY, "label is infinite")],
    ids=["negative", "NaN", "infinite", "minus infinite"],
)
def test_an_amount_that_is_no_money_is_quarantined_and_any_other_kept(tmp_path, label, reason):
    contract = write(tmp_path, with_values(label=label)).model_copy(update={"amount": Amount(currency="GBP", horizon_days=90)})
    # Row 0 pays 12.5: bad as a click, good as an amount.
    rows = pq.read_table(tmp_path / FILE).to_pylist()
    rows[0]["label"] = 12.5
    write_samples(tmp_path / FILE, pa.Table.from_pylist(rows, SAMPLE_SCHEMA), ROW_GROUP_ROWS)
    batches = batches_of(contract, tmp_path)
    assert [found[3] for found in quarantined(tmp_path)] == [reason]
    assert batches[0].label[0] == 12.5
    assert all(torch.isfinite(batch.label).all() for batch in batches)
    assert sum(float(batch.weight.sum()) for batch in batches) == NUM_ROWS - 1


def test_a_slice_of_its_own_column_has_to_lie_in_its_table(tmp_path):
    channel = [9 if row == BAD_ROW else 1 + row % 3 for row in range(NUM_ROWS)]
    rows = numbered_samples(NUM_ROWS).append_column("channel", pa.array(channel, pa.int32()))
    contract = write(tmp_path, rows)
    tables = contract.tables | {"channel": Table(num_rows=4)}
    contract = contract.model_copy(update={"slice": "channel", "tables": tables, "unseen_slices": (2,)})
    spec = stream_spec(contract, tmp_path, 16, (), False, quarantine_path=str(tmp_path / "quarantine"), window_batches=2)
    batches = list(local_micro_batches(replace(spec, slices=True)))
    assert [found[3] for found in quarantined(tmp_path)] == ["channel is outside [0, 4)"]
    slices = torch.cat([batch.slice for batch in batches])[:NUM_ROWS].tolist()
    # Unseen in training, and the bad row: unknown.
    assert slices == [0 if row == BAD_ROW or row % 3 == 1 else 1 + row % 3 for row in range(NUM_ROWS)]
