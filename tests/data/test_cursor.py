"""The cursor holds what was trained, and a plan minus a cursor is exactly the rest."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raytrain.data.cursor import Cursor, hash_of
from raytrain.data.fragments import FragmentPlan
from raytrain.data.provenance import STATUS_OK, STATUS_PADDING, STATUS_QUARANTINED, Provenance
from raytrain.errors import CursorError
from tests.data.test_fragments import manifest_of, plans

THREE_FILES = manifest_of([[4, 3], [5], [2, 6]])
ROWS = [(fragment, row) for fragment, count in enumerate(THREE_FILES.num_rows.tolist()) for row in range(count)]


def part_of(rows: list[tuple[int, int]], epoch: int = 0, status: int = STATUS_OK, domain: str = "target") -> Provenance:
    fragment, row = np.array(rows, dtype=np.int32).reshape(-1, 2).T
    return Provenance(domain, epoch, fragment, row, np.full(len(rows), status, dtype=np.int8))


def cursor_of(manifest=THREE_FILES, *parts: Provenance) -> Cursor:
    cursor = Cursor({"target": manifest})
    for part in parts:
        cursor.add(part)
    return cursor


def rows_left(plan: FragmentPlan, cursor: Cursor, epochs: tuple[int, ...], num_batches: int | None = None) -> list[tuple[int, int, int]]:
    """(epoch, fragment, row) in the order served."""
    found = []
    for window in plan.remaining(cursor.of("target"), epochs, num_batches).windows():
        rows = [(window.epoch, part.fragment, row) for part in window.slices for row in range(part.start, part.stop)]
        found += [rows[position] for position in window.left(plan.shuffle, plan.seed)]
    return found


def test_quarantined_rows_are_spent_and_padding_is_nothing():
    cursor = cursor_of(THREE_FILES, part_of(ROWS[:3], status=STATUS_QUARANTINED), part_of([(-1, -1)] * 2, status=STATUS_PADDING))
    assert cursor.num_rows("target") == 3


def test_a_fragment_closes_with_its_last_row():
    cursor = cursor_of(THREE_FILES, part_of([(1, 2), (0, 0), (1, 0)]))
    trained = cursor.of("target")[0]
    assert (list(trained.complete), sorted(trained.open)) == ([], [0, 1])
    cursor.add(part_of([(1, 1)]))
    assert (list(trained.complete), sorted(trained.open)) == ([1], [0])


@pytest.mark.parametrize(
    ("before", "again"),
    [([(0, 1)], [(0, 1)]), ([(1, 0), (1, 1), (1, 2)], [(1, 2)]), ([], [(2, 3), (2, 3)])],
    ids=["open fragment", "complete fragment", "one batch"],
)
def test_a_row_cannot_be_trained_twice_an_epoch(before, again):
    cursor = cursor_of(THREE_FILES, part_of(before))
    with pytest.raises(CursorError, match="Received: rows of fragment"):
        cursor.add(part_of(again))
    if before:
        cursor.add(part_of(before, epoch=1))
        other = cursor_of(THREE_FILES, part_of(before))
        with pytest.raises(CursorError, match="second time"):
            cursor.merge(other)


def test_ranks_that_share_fragments_merge_to_their_union():
    cursor = cursor_of(THREE_FILES, part_of(ROWS[::3]))
    for first in (1, 2):
        cursor.merge(Cursor.from_bytes(cursor_of(THREE_FILES, part_of(ROWS[first::3])).to_bytes(), {"target": THREE_FILES}))
    assert cursor.num_rows("target") == len(ROWS)
    assert list(cursor.of("target")[0].complete) == [0, 1, 2, 3, 4]
    assert not cursor.of("target")[0].open


def test_a_cursor_of_other_data_is_refused():
    saved = cursor_of(THREE_FILES, part_of(ROWS[:5])).to_bytes()
    with pytest.raises(CursorError, match="Restore the data set"):
        Cursor.from_bytes(saved, {"target": manifest_of([[4, 3], [5], [2, 7]])})
    with pytest.raises(CursorError, match="has to be readable"):
        Cursor.from_bytes(b"torn", {"target": THREE_FILES})


@given(plans(), st.data())
def test_what_is_left_and_what_is_trained_are_the_whole(plan, data):
    epochs = (0, 1)
    rows = [(epoch, fragment, row) for epoch in epochs for fragment, count in enumerate(plan.manifest.num_rows) for row in range(count)]
    trained = data.draw(st.lists(st.sampled_from(rows), unique=True))
    cursor = cursor_of(plan.manifest)
    for epoch in epochs:
        cursor.add(part_of([row[1:] for row in trained if row[0] == epoch], epoch))
    saved = cursor.to_bytes()
    cursor = Cursor.from_bytes(saved, {"target": plan.manifest})
    assert hash_of(cursor.to_bytes()) == hash_of(saved)
    assert cursor.num_rows("target") == len(trained)
    left = rows_left(plan, cursor, epochs)
    assert sorted(left + trained) == sorted(rows)
    remaining = plan.remaining(cursor.of("target"), epochs)
    assert remaining.num_rows == len(left)
    served = [len(window.left(plan.shuffle, plan.seed)) for window in remaining.windows()]
    assert all(served)
    assert remaining.num_batches == sum(-(-count // plan.batch_size) for count in served)


@given(plans(), st.integers(0, 30), st.integers(0, 30))
def test_after_whole_batches_in_order_the_rest_is_the_end_of_the_stream(plan, num_trained, num_batches):
    """A prefix of steps leaves exactly the later steps, batch for batch, so a restart repeats an undisturbed run."""
    epochs = (0, 1, 2)
    whole = rows_left(plan, cursor_of(plan.manifest), epochs, num_batches)
    assert len(whole) == plan.num_rows_in(min(num_batches, 3 * plan.num_batches))
    num_rows = plan.num_rows_in(min(num_trained, num_batches, 3 * plan.num_batches))
    cursor = cursor_of(plan.manifest)
    for epoch in epochs:
        cursor.add(part_of([row[1:] for row in whole[:num_rows] if row[0] == epoch], epoch))
    assert rows_left(plan, cursor, epochs, num_batches) == whole[num_rows:]
    left = plan.remaining(cursor.of("target"), epochs, num_batches).num_batches
    assert left == max(0, min(num_batches, 3 * plan.num_batches) - num_trained)
