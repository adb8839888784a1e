import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.data.prepare.encode import encode_block, partial_schema
from raytrain.data.prepare.fingerprint import bucket_of
from raytrain.data.prepare.scan import Cut
from raytrain.data.prepare.write import Layout, Moments, canonical_order, history_table, write_bucket
from raytrain.storage import Storage
from tests.data.prepare.cases import events, spec, with_uses

VOCABULARIES = {
    "user": pa.array([1, 2], pa.int64()),
    "item": pa.array(["a", "b"], pa.large_string()),
    "country": pa.array(["x"], pa.large_string()),
    "tags": pa.array(["s", "t"], pa.large_string()),
}
ROWS = st.tuples(
    st.integers(0, 3), st.integers(0, 2), st.integers(0, 3), st.integers(0, 1), st.integers(0, 1),
    st.lists(st.integers(1, 300), max_size=2), st.integers(0, 1), st.integers(0, 1), st.integers(0, 2),
)  # fmt: skip


def partial(rows):
    columns = list(zip(*rows, strict=True)) or [()] * 9
    schema = partial_schema(spec())
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema)


@given(st.lists(ROWS, max_size=25), st.randoms())
def test_canonical_order_is_one_order_for_every_input_order(rows, random):
    shuffled = random.sample(rows, len(rows))
    ordered = canonical_order(partial(shuffled)).to_pylist()
    assert ordered == canonical_order(partial(rows)).to_pylist()
    assert [tuple(row.values()) for row in ordered] == sorted(rows, key=lambda row: (row[2], row[0], row[1], *row[3:]))


@given(st.lists(ROWS, max_size=25))
def test_histories_hold_every_event_once_in_time_order(rows):
    table, offsets = history_table(canonical_order(partial(rows)), spec())
    expected = {}
    for row in sorted(rows, key=lambda row: (row[0], row[2], row[1], *row[3:])):
        expected.setdefault(row[0], []).append((row[1], row[2], row[8]))
    found = {row["user"]: list(zip(row["item"], row["time"], row["rating"], strict=True)) for row in table.to_pylist()}
    assert list(found.items()) == sorted(expected.items())
    assert np.diff(offsets).tolist() == [len(events) for _, events in sorted(expected.items())]


@given(st.lists(st.lists(st.floats(-100, 100, width=32), max_size=20), min_size=1, max_size=5))
def test_moments_of_parts_add_up(parts):
    wholes = [Moments(len(part), float(np.mean(part)), float(np.var(part) * len(part))) if part else Moments() for part in parts]
    total = sum(wholes, Moments())
    flat = np.concatenate(parts)
    assert total.num_rows == len(flat)
    if len(flat) and np.std(flat) > 1e-6:
        assert total.mean == pytest.approx(np.mean(flat), abs=1e-9)
        assert total.std == pytest.approx(np.std(flat), rel=1e-6)


def test_a_constant_feature_has_std_one():
    assert Moments(5, 3.0, 0.0).std == 1.0


def test_encode_then_write_gives_the_rows_by_hand(tmp_path):
    storage = Storage(str(tmp_path))
    for folder in ("partials", "samples/ads/train", "samples/ads/valid", "samples/ads/test", "histories/ads"):
        (tmp_path / folder).mkdir(parents=True)
    block = events(
        (1, "b", 30, 5.0, "x", ["t", "s", "t"], 3, 2.5),
        (1, "a", 10, 2.0, "new", None, 99, None),
        (2, "a", 20, 4.0, None, ["u", "s"], 24, 1.0),
        (1, None, 10, 2.0, "x", None, 1, None),
    )
    part = encode_block(block, spec(), VOCABULARIES, 1, storage, "partials")
    assert part.num_rows == 3
    assert part.unknown == {"country": 2, "tags": 1, "hour": 1, "price": 1}
    bucket = write_bucket("ads", 0, [part.file], spec(), Cut(20, 30), Layout(8192, 65536), storage, storage)
    samples = [pq.read_table(tmp_path / f"samples/ads/{split}/bucket-00000.parquet").to_pylist() for split in ("train", "valid", "test")]
    assert samples == [
        [{"user": 1, "item": 1, "time": 10, "label": 0.0, "country": 0, "tags": [], "hour": 0, "price": -1.0}],
        [{"user": 2, "item": 1, "time": 20, "label": 1.0, "country": 0, "tags": [1], "hour": 24, "price": 1.0}],
        [{"user": 1, "item": 2, "time": 30, "label": 1.0, "country": 1, "tags": [2, 1], "hour": 3, "price": 2.5}],
    ]
    histories = pq.read_table(tmp_path / "histories/ads/bucket-00000.parquet").to_pylist()
    assert histories == [
        {"user": 1, "item": [1, 2], "time": [10, 30], "rating": [2, 5]},
        {"user": 2, "item": [1], "time": [20], "rating": [4]},
    ]
    assert (bucket.num_events, bucket.num_users, bucket.max_events) == (3, 2, 2)
    assert bucket.moments["price"] == Moments(1, -1.0, 0.0)


def test_columns_say_the_split_of_a_sample_and_what_is_history(tmp_path):
    storage = Storage(str(tmp_path))
    for folder in ("partials", "samples/ads/train", "samples/ads/valid", "samples/ads/test", "histories/ads"):
        (tmp_path / folder).mkdir(parents=True)
    block = events(
        (1, "a", 10, 5.0, "x", [], 1, 7.0),
        (1, "b", 20, 5.0, "x", [], 2, 3.0),
        (1, "a", 20, 1.0, "x", [], 3, 5.0),
        (2, "b", 5, 5.0, "x", [], 4, 7.0),
        (2, "a", 6, 1.0, "x", [], 5, 7.0),
    )
    block = with_uses(block, [None, "train", "train", "test", None], [True, True, False, True, None])
    declared = spec(split={"column": "split"}, in_history="in_history")
    part = encode_block(block, declared, VOCABULARIES, 1, storage, "partials")
    bucket = write_bucket("ads", 0, [part.file], declared, None, Layout(8192, 65536), storage, storage)
    samples = [pq.read_table(tmp_path / f"samples/ads/{split}/bucket-00000.parquet") for split in ("train", "valid", "test")]
    # Nothing of the uses is left in the samples.
    assert samples[0].column_names == ["user", "item", "time", "label", "country", "tags", "hour", "price"]
    found = [[(row["user"], row["item"], row["time"], row["label"]) for row in table.to_pylist()] for table in samples]
    # Positive and drawn negative share their time; the negative is in no history, the oldest event in no split.
    assert found == [[(1, 1, 20, 0.0), (1, 2, 20, 1.0)], [], [(2, 2, 5, 1.0)]]
    assert pq.read_table(tmp_path / "histories/ads/bucket-00000.parquet").to_pylist() == [
        {"user": 1, "item": [1, 2], "time": [10, 20], "rating": [5, 5]},
        {"user": 2, "item": [2], "time": [5], "rating": [5]},
    ]
    assert (bucket.num_events, bucket.num_users, bucket.max_events) == (3, 2, 2)
    # Dense moments are of training rows alone.
    assert bucket.moments["price"] == Moments(2, 4.0, 2.0)


def test_row_groups_are_bounded_and_users_stay_whole(tmp_path):
    storage = Storage(str(tmp_path))
    for folder in ("partials", *(f"samples/ads/{split}" for split in ("train", "valid", "test")), "histories/ads"):
        (tmp_path / folder).mkdir(parents=True)
    users = pa.array(range(1, 7), pa.int64())
    counts = {1: 2, 2: 2, 3: 9, 4: 1, 5: 3, 6: 1}
    block = events(*((user, "a", time, 5.0, "x", [], 1, 0.0) for user, count in counts.items() for time in range(count)))
    part = encode_block(block, spec(), VOCABULARIES | {"user": users}, 1, storage, "partials")
    write_bucket("ads", 0, [part.file], spec(), Cut(100, 200), Layout(7, 4), storage, storage)
    samples = pq.ParquetFile(tmp_path / "samples/ads/train/bucket-00000.parquet")
    histories = pq.ParquetFile(tmp_path / "histories/ads/bucket-00000.parquet")
    assert [samples.metadata.row_group(index).num_rows for index in range(samples.num_row_groups)] == [7, 7, 4]
    groups = [histories.read_row_group(index)["user"].to_pylist() for index in range(histories.num_row_groups)]
    assert groups == [[1, 2], [3], [4, 5], [6]]
    assert histories.metadata.row_group(0).column(0).statistics.max == 2


def test_row_group_k_of_a_partial_file_is_bucket_k(tmp_path):
    (tmp_path / "partials").mkdir()
    block = events(*((user, "a", 1, 5.0, "x", [], 1, 0.0) for user in range(1, 10)))
    vocabularies = VOCABULARIES | {"user": pa.array(range(1, 10), pa.int64())}
    part = encode_block(block, spec(), vocabularies, 16, Storage(str(tmp_path)), "partials")
    file = pq.ParquetFile(tmp_path / part.file)
    assert file.num_row_groups == 16
    for bucket in range(16):
        users = file.read_row_group(bucket)["user"].to_numpy()
        assert (bucket_of(users, 16) == bucket).all()
    assert file.metadata.num_rows == 9
