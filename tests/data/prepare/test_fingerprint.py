import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.data.prepare.fingerprint import bucket_of, hashed_ids, table_digest


def test_bucket_of_is_splitmix64():
    # First outputs of the generator seeded with 0 and 1, as published with xoshiro (prng.di.unimi.it/splitmix64.c).
    outputs = [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]
    assert bucket_of(np.array([0, 1], np.int32), 1000).tolist() == [output % 1000 for output in outputs]


def test_bucket_of_spreads_consecutive_users():
    counts = np.bincount(bucket_of(np.arange(1, 80_001, dtype=np.int32), 8), minlength=8)
    assert abs(counts - 10_000).max() < 500


def test_hashed_ids_are_stable_agree_over_types_and_leave_zero_to_null():
    expected = 1 + int.from_bytes(hashlib.blake2b(b"12", digest_size=8).digest(), "big") % 99
    assert hashed_ids(pa.array([12, None], pa.int64()), 100).tolist() == [expected, 0]
    assert hashed_ids(pa.array(["12"], pa.large_string()), 100).tolist() == [expected]


@given(st.lists(st.text(), max_size=30), st.integers(2, 50))
def test_hashed_ids_lie_in_the_table(values, num_rows):
    ids = hashed_ids(pa.array(values, pa.large_string()), num_rows)
    assert all(0 < value < num_rows for value in ids.tolist())


@given(st.lists(st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=3)), max_size=12), st.integers(0, 12))
def test_table_digest_does_not_see_chunks(rows, cut):
    schema = pa.schema({"user": pa.int32(), "tags": pa.list_(pa.int32())})
    table = pa.table({"user": [row[0] for row in rows], "tags": [row[1] for row in rows]}, schema=schema)
    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert table_digest(chunked) == table_digest(table)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"user": [1, 2], "tags": [[1, 2], []]}, id="value in another row"),
        pytest.param({"user": [2, 1], "tags": [[1], [2]]}, id="order of rows"),
        pytest.param({"item": [1, 2], "tags": [[1], [2]]}, id="name of a column"),
    ],
)
def test_table_digest_sees(other):
    table = pa.table({"user": [1, 2], "tags": [[1], [2]]})
    assert table_digest(pa.table(other)) != table_digest(table)
