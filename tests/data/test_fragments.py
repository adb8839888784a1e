"""Every row exactly once, in an order that is arithmetic."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raytrain.data.fragments import FragmentPlan
from raytrain.data.manifest import Manifest
from raytrain.data.provenance import FRAGMENT, ROW, STATUS, STATUS_OK, STATUS_PADDING
from raytrain.data.window import micro_batches
from tests.data.build import DomainRows, Layout, numbered_samples, write_dataset
from tests.data.served import global_batches, keys_of, micro_batches_for, stream_spec

FILES = st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=6).filter(lambda files: any(files))


def manifest_of(files: list[list[int]]) -> Manifest:
    """A manifest of files given by the row counts of their row groups."""
    return Manifest(
        tuple(f"bucket-{index}.parquet" for index in range(len(files))),
        np.repeat(np.arange(len(files), dtype=np.int32), [len(file) for file in files]),
        np.concatenate([np.arange(len(file), dtype=np.int32) for file in files]),
        np.concatenate([np.asarray(file, dtype=np.int64) for file in files]),
    )


def plans(**fixed):
    values = {
        "manifest": FILES.map(manifest_of),
        "batch_size": st.integers(1, 12),
        "window_batches": st.integers(1, 4),
        "files_per_window": st.integers(1, 3),
        "shuffle": st.booleans(),
        "seed": st.integers(0, 5),
    }
    return st.builds(FragmentPlan, **(values | fixed))


def rows_of(plan: FragmentPlan, epoch: int, num_batches: int | None = None) -> list[tuple[int, int]]:
    return [
        (part.fragment, row)
        for window in plan.windows(epoch, num_batches)
        for part in window.slices
        for row in range(part.start, part.stop)
    ]


@given(plans(), st.integers(0, 3))
def test_windows_hold_every_row_of_an_epoch_once(plan, epoch):
    expected = [(fragment, row) for fragment, count in enumerate(plan.manifest.num_rows) for row in range(count)]
    assert sorted(rows_of(plan, epoch)) == expected
    windows = list(plan.windows(epoch))
    assert len(windows) == -(-plan.num_rows // plan.window_rows)
    assert all(window.num_rows == window.num_served == plan.window_rows for window in windows[:-1])
    assert all(part.num_rows > 0 for window in windows for part in window.slices)


@given(plans(), st.integers(0, 3))
def test_the_order_is_a_function_of_seed_and_epoch_alone(plan, epoch):
    again = replace(plan, batch_size=plan.batch_size + 1, window_batches=plan.window_batches + 1)
    assert plan.order(epoch).tolist() == again.order(epoch).tolist()
    assert rows_of(plan, epoch) == rows_of(again, epoch)


def test_epochs_and_seeds_differ():
    plan = FragmentPlan(manifest_of([[4] * 5] * 4), 4)
    orders = [tuple(replace(plan, seed=seed).order(epoch)) for seed in range(3) for epoch in range(3)]
    assert len(set(orders)) == 9


def test_without_shuffling_the_order_is_that_of_the_files():
    assert FragmentPlan(manifest_of([[1, 2], [3]]), 4, shuffle=False).order(7).tolist() == [0, 1, 2]


def test_fragments_of_files_per_window_files_are_interleaved():
    plan = FragmentPlan(manifest_of([[5] * 3] * 6), 4, files_per_window=2)
    files = plan.manifest.file_index[plan.order(0)].reshape(3, 6)
    assert [len(set(group)) for group in files.tolist()] == [2, 2, 2]


@given(plans(), st.integers(0, 40))
def test_rows_in_a_number_of_batches_are_those_counted_one_by_one(plan, num_batches):
    sizes = [min(plan.batch_size, plan.num_rows - first) for first in range(0, plan.num_rows, plan.batch_size)]
    assert plan.num_batches == len(sizes)
    assert plan.num_rows_in(num_batches) == sum(sizes[index % len(sizes)] for index in range(num_batches))


@given(plans(), st.integers(0, 20))
def test_a_limit_serves_whole_batches_of_the_same_windows(plan, num_batches):
    limited, whole = list(plan.windows(0, num_batches)), list(plan.windows(0))
    assert [window.slices for window in limited] == [window.slices for window in whole[: len(limited)]]
    assert sum(window.num_served for window in limited) == plan.num_rows_in(min(num_batches, plan.num_batches))


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5))
def test_dealing_gives_each_rank_its_share_of_every_batch(num_rows, batch_size, world_size):
    order = np.random.default_rng(0).permutation(num_rows)
    dealt = list(micro_batches(order, batch_size, world_size))
    assert len(dealt) == -(-num_rows // batch_size) * world_size
    assert {len(part) for part in dealt} == {-(-batch_size // world_size)}
    for first in range(0, len(dealt), world_size):
        ranks = [part[part >= 0] for part in dealt[first : first + world_size]]
        assert max(map(len, ranks)) - min(map(len, ranks)) <= 1
        start = first // world_size * batch_size
        assert sorted(np.concatenate(ranks)) == sorted(order[start : start + batch_size])
        # Padding comes last in a rank's part.
        assert all((np.diff((part >= 0).astype(int)) <= 0).all() for part in dealt[first : first + world_size])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_rows=st.integers(1, 70),
    num_buckets=st.integers(1, 4),
    row_group_rows=st.integers(1, 20),
    batch_size=st.integers(5, 16),
    window=st.integers(1, 3),
    files_per_window=st.integers(1, 3),
    world_size=st.integers(1, 5),
    seed=st.integers(0, 3),
    shuffle=st.booleans(),
)
def test_ranks_read_every_row_of_every_epoch_once(
    tmp_path_factory, num_rows, num_buckets, row_group_rows, batch_size, window, files_per_window, world_size, seed, shuffle
):
    path = tmp_path_factory.mktemp("exact")
    contract = write_dataset(path, {"target": DomainRows({"train": numbered_samples(num_rows)})}, Layout(num_buckets, row_group_rows))
    spec = stream_spec(
        contract, path, batch_size, seed=seed, shuffle=shuffle, window_batches=window, files_per_window=files_per_window
    ).lasting((0, 1), None)
    micro = micro_batches_for(spec, world_size)
    assert len(micro) == spec.total_batches * world_size
    assert {len(part[STATUS]) for part in micro} == {-(-batch_size // world_size)}
    rows = Counter(key for part in micro for key in keys_of(part))
    counts = spec.manifest.num_rows
    assert rows == Counter((epoch, fragment, row) for epoch in (0, 1) for fragment in range(len(counts)) for row in range(counts[fragment]))
    assert sum(rows.values()) == spec.expected_rows == 2 * num_rows
    for part in micro:
        padding = part[FRAGMENT] < 0
        assert (part[STATUS][padding] == STATUS_PADDING).all()
        assert (part[STATUS][~padding] == STATUS_OK).all()
        assert (part[ROW][padding] == -1).all()
    times = np.concatenate([part["time"][part[FRAGMENT] >= 0] for part in micro])
    assert sorted(times - times.min()) == sorted([*range(num_rows)] * 2)
    assert global_batches(spec, world_size) == global_batches(spec, 1)


@pytest.mark.parametrize("num_batches", [0, 1, 4, 7, 8, 11, 100])
def test_a_limited_stream_is_the_beginning_of_the_whole_one(tmp_path, num_batches):
    contract = write_dataset(tmp_path, {"target": DomainRows({"train": numbered_samples(54)})}, Layout(3, 7))
    # 54 rows in batches of 8: 7 batches an epoch, windows of 3 batches.
    whole = stream_spec(contract, tmp_path, 8, window_batches=3).lasting((0, 1, 2), None)
    limited = whole.lasting((0, 1, 2), num_batches)
    assert whole.total_batches == 21
    assert limited.total_batches == min(21, num_batches)
    assert global_batches(limited, 2) == global_batches(whole, 2)[:num_batches]
    assert limited.expected_rows == sum(map(len, global_batches(limited)))


def test_a_window_is_shuffled_and_differently_in_every_epoch(tmp_path):
    # One fragment, so that only the shuffle inside the window can tell the epochs apart.
    contract = write_dataset(tmp_path, {"target": DomainRows({"train": numbered_samples(64)})}, Layout(1, 64))
    spec = stream_spec(contract, tmp_path, 8).lasting((0, 1), None)
    first, second = (np.concatenate([part["time"] for part in half]) for half in np.split(np.array(micro_batches_for(spec)), 2))
    assert sorted(first) == sorted(second)
    assert (first != second).any()
    assert (np.diff(first) < 0).any()
    unshuffled = micro_batches_for(replace(spec, shuffle=False))
    assert [keys_of(part) for part in unshuffled[:8]] == [[(0, *key[1:]) for key in keys_of(part)] for part in unshuffled[8:]]
