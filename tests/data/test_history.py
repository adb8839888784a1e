"""No sample sees an event at or after its own time: histories against an oracle written with lists."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrain.data.contract import load_contract
from raytrain.data.history import age_code, load_histories
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import DataError
from raytrain.storage import Storage
from tests.data.build import NUM_AGES, START, DomainRows, Events, Layout, history_rows, samples, write_dataset
from tests.data.served import stream_spec
from tests.messages import assert_three_parts


def events_of(*rows: tuple[int, int, int, int]) -> Events:
    """Each row: user, item, seconds after START, rating."""
    columns = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    return Events(columns[0], columns[1], START + columns[2], columns[3])


def oracle(events: Events, user: int, time: int, length: int) -> list[tuple[int, int, int]]:
    """(item, rating, age code) of the newest ``length`` events strictly before ``time``, oldest first."""
    rows = sorted(
        ((int(t), int(item), int(rating)) for u, item, t, rating in zip(*vars(events).values(), strict=True) if u == user and t < time),
        key=lambda row: row[:2],
    )
    # (1 + age).bit_length() is 1 + floor(log2(1 + age)) in exact arithmetic.
    return [(item, rating, min((1 + time - t).bit_length(), NUM_AGES - 1)) for t, item, rating in rows[-length:]]


def joined_histories(path: Path, keys: list[tuple[int, int]], events: Events, length: int, layout: Layout):
    """(user, time) -> history as the collated batches hold it; ``keys`` are (user, seconds after START)."""
    users, seconds = np.array(keys, dtype=np.int64).T
    rows = samples(users, np.ones_like(users), START + seconds, np.zeros_like(users))
    contract = write_dataset(path, {"target": DomainRows({"train": rows}, events)}, layout)
    spec = stream_spec(contract, path, 8, ("target",), history_length=length)
    found = []
    for batch in local_micro_batches(spec):
        history = batch.histories["target"]
        assert history.items.shape[1] <= length
        for index in np.nonzero(batch.weight.numpy())[0]:
            count = int(history.lengths[index])
            for codes in (history.items, history.side["rating"], history.side["age"]):
                assert (codes[index, count:] == 0).all()
                assert (codes[index, :count] > 0).all()
            cut = (history.items[index, :count], history.side["rating"][index, :count], history.side["age"][index, :count])
            values = list(zip(*(part.tolist() for part in cut), strict=True))
            found.append(((int(batch.ids["user"][index]), int(batch.time[index])), values))
    return found


USERS = st.integers(1, 6)
SECONDS = st.integers(0, 12)


@settings(max_examples=60)
@given(
    keys=st.lists(st.tuples(USERS, SECONDS), min_size=1, max_size=20),
    # The rating follows the item, so that events which tie in time and item are equal.
    events=st.lists(st.tuples(USERS, st.integers(1, 9), SECONDS).map(lambda row: (*row, 1 + row[1] % 5)), max_size=60),
    length=st.integers(1, 8),
    num_buckets=st.integers(1, 3),
    row_group_users=st.integers(1, 3),
)
def test_histories_equal_the_oracle(tmp_path_factory, keys, events, length, num_buckets, row_group_users):
    planted = events_of(*events)
    layout = Layout(num_buckets, row_group_rows=4, row_group_users=row_group_users)
    found = joined_histories(tmp_path_factory.mktemp("history"), keys, planted, length, layout)
    assert sorted(key for key, _ in found) == sorted((user, START + seconds) for user, seconds in keys)
    for (user, time), history in found:
        assert history == oracle(planted, user, time, length)


@pytest.mark.parametrize(
    ("events", "expected_items"),
    [
        ([], []),
        ([(1, 7, 99, 5)], [7]),
        ([(1, 7, 100, 5)], []),
        ([(1, 7, 101, 5)], []),
        ([(1, 7, 99, 5), (1, 8, 100, 5), (1, 9, 101, 5)], [7]),
        ([(1, 7, 99, 5), (1, 7, 99, 5), (1, 7, 100, 5), (1, 7, 100, 5)], [7, 7]),
        ([(1, 9, 98, 1), (1, 8, 99, 2), (1, 7, 97, 3)], [7, 9, 8]),
        ([(2, 7, 50, 5), (3, 7, 60, 5)], []),
        ([(1, item, item, 4) for item in range(1, 90)], list(range(86, 90))),
    ],
    ids=[
        "no events at all",
        "one second earlier",
        "exactly at the sample's time",
        "one second later",
        "earlier, equal and later",
        "duplicates before and at the time",
        "oldest first",
        "other users' events only",
        "the newest four of eighty-nine",
    ],
)
def test_an_event_at_the_sample_time_is_not_in_its_history(tmp_path, events, expected_items):
    [(_, history)] = joined_histories(tmp_path, [(1, 100)], events_of(*events), 4, Layout(1))
    assert [item for item, _, _ in history] == expected_items


def test_the_newest_events_are_kept_with_their_ratings_and_ages(tmp_path):
    events = events_of((1, 3, 0, 1), (1, 4, 93, 5), (1, 5, 97, 2), (1, 6, 99, 4))
    [(_, history)] = joined_histories(tmp_path, [(1, 100)], events, 3, Layout(1))
    # Ages of 7, 3 and 1 seconds: 1 + log2(8), 1 + log2(4), 1 + log2(2).
    assert history == [(4, 5, 4), (5, 2, 3), (6, 4, 2)]


def test_a_user_with_five_thousand_events_among_small_ones(tmp_path):
    draw = np.random.default_rng(0)
    user = np.concatenate([np.full(5000, 4), draw.integers(1, 9, 300)])
    seconds = np.concatenate([np.arange(5000), draw.integers(0, 5000, 300)])
    item = draw.integers(1, 90, len(user))
    events = Events(user, item, START + seconds, 1 + item % 5)
    keys = [(4, 0), (4, 1), (4, 2500), (4, 4999), (4, 6000), (5, 2500), (8, 4000), (3, 10)]
    found = joined_histories(tmp_path, keys, events, 200, Layout(2, row_group_users=2))
    assert len(found) == len(keys)
    for (user_id, time), history in found:
        assert history == oracle(events, user_id, time, 200)
    assert max(len(history) for _, history in found) == 200


def test_two_domains_keep_their_own_histories(tmp_path):
    target, source = events_of((1, 2, 10, 5)), events_of((1, 60, 20, 1), (1, 61, 30, 2))
    rows = samples(np.array([1]), np.array([2]), np.array([START + 30]), np.array([1]))
    domains = {"target": DomainRows({"train": rows}, target), "source": DomainRows({"train": rows}, source, "source")}
    contract = write_dataset(tmp_path, domains)
    [batch] = local_micro_batches(stream_spec(contract, tmp_path, 1, ("target", "source")))
    assert batch.histories["target"].items.tolist() == [[2]]
    assert batch.histories["source"].items.tolist() == [[60]]


def test_row_groups_of_other_users_are_not_read(tmp_path):
    events = events_of(*((user, 1, second, 3) for user in range(1, 41) for second in range(20)))
    contract = write_dataset(
        tmp_path, {"target": DomainRows({"train": samples(*np.ones((4, 1), int))}, events)}, Layout(1, row_group_users=1)
    )
    storage, history = Storage(str(tmp_path)), contract.domains["target"].history
    files = ["histories/target/bucket-00000.parquet"]

    def load(users):
        return load_histories(storage, history, files, np.array(users), np.full(len(users), START + 5), 200, 100)

    one, two, absent = load([3]), load([3, 3, 17]), load([77])
    assert one.num_bytes_read * 2 == two.num_bytes_read
    assert len(one.events["item"]) == 20
    assert two.lengths.tolist() == [5, 5, 5]
    assert absent.num_bytes_read == 0
    assert absent.lengths.tolist() == [0]


@given(st.integers(0, 2**40), st.integers(2, 60))
def test_age_codes_count_the_bits(age_s, num_values):
    assert age_code(np.array([age_s]), num_values).tolist() == [min((1 + age_s).bit_length(), num_values - 1)]


def rewrite(column, values):
    return lambda table: table.set_column(table.column_names.index(column), column, pa.array(values, table.schema.field(column).type))


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (rewrite("item", [[1, 2], [-3]]), "has to hold item values in [0, 100). Received: -3 to"),
        (rewrite("item", [[1, 100], [3]]), "Received: 1 to 100."),
        (rewrite("rating", [[1, 6], [3]]), "has to hold rating values in [0, 6)"),
        (rewrite("time", [[START + 2, START + 1], [START]]), "its events in time order"),
        (rewrite("user", [2, 1]), "one row a user by ascending id"),
        (rewrite("user", [1, 1]), "one row a user by ascending id"),
        (rewrite("time", [[START], [START, START]]), "column time that are not as long as those of item"),
        (rewrite("item", [[1, 2], None]), "nulls in column item"),
        (rewrite("rating", [[1, None], [3]]), "nulls in column rating"),
        (lambda table: table.drop_columns(["rating"]), "rating"),
    ],
    ids=[
        "a negative item",
        "an item past its table",
        "a side code past its values",
        "events out of order",
        "users out of order",
        "a user twice",
        "lists of unequal lengths",
        "a null list",
        "a null inside a list",
        "a side column missing",
    ],
)
def test_a_broken_history_stops_the_read(tmp_path, break_it, expected):
    events = events_of((1, 1, 0, 2), (1, 2, 1, 3), (2, 3, 0, 4))
    file = tmp_path / "histories/target/bucket-00000.parquet"
    joined_histories(tmp_path, [(1, 5), (2, 5)], events, 4, Layout(1))
    pq.write_table(break_it(history_rows(events)), file)
    contract = load_contract(str(tmp_path))
    with pytest.raises(DataError) as error:
        list(local_micro_batches(stream_spec(contract, tmp_path, 4, ("target",))))
    assert_three_parts(error.value, "histories/target/bucket-00000.parquet", expected)
