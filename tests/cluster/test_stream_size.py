"""What streams take, against the plan, cursor and batches that run."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroaring import BitMap

from cluster.data_size import DataSize, DomainSize
from cluster.measured import CURSOR_FILE_BYTES, CURSOR_ROW_BYTES, FILE_BYTES, FRAGMENT_BYTES, SLICE_BYTES, WINDOW_BYTES
from cluster.stream_size import StreamSize, batch_bytes, cursor_bytes, history_bytes_per_sample, roaring_bytes, streams_of
from raytrain.data.contract import Split, load_contract
from raytrain.data.cursor import Cursor
from raytrain.data.fragments import FragmentPlan
from raytrain.data.manifest import Manifest
from raytrain.data.micro_batches import joined, local_micro_batches
from raytrain.data.provenance import STATUS_OK, Provenance
from raytrain.data.synthetic import synthetic_manifest
from raytrain.models.declared import declared_histories
from raytrain.training.specs import training_specs
from tests.cluster.planned import CONTRACT, SOURCE, TARGET, capacity_of, job_for


def sizes(num_rows: int, row_groups: int, files: int) -> DataSize:
    return DataSize(CONTRACT, {"ads": DomainSize(num_rows, row_groups, files)})


def test_a_stream_is_what_a_hand_counts():
    # 1,000 target rows are 10 steps of 100 an epoch, 25 in all; a source of 9,000 rows in steps of 60 has not ended by then.
    job = job_for("din", "training.epochs=3", "training.max_steps=25")
    target, source = streams_of(job, DataSize(CONTRACT, {"ads": TARGET, "feed": SOURCE}), 2)
    assert (target.rows_in_all, target.window_rows, target.windows) == (2_500, 200, 5 + 5 + 3)
    assert (source.rows_in_all, source.window_rows, source.windows) == (1_500, 120, 13)
    # Row groups of 50 rows: 50 of them, and one in two windows at each boundary.
    assert target.slices == 50 + 13
    assert target.plan_bytes == 4 * FILE_BYTES + 20 * FRAGMENT_BYTES + 63 * SLICE_BYTES + 13 * WINDOW_BYTES
    # A window of 4 row groups and one that it shares; complete ones take two bytes each at most.
    assert target.open_fragments == 5
    assert target.cursor_bytes == 16 + 40 + 5 * (CURSOR_ROW_BYTES + 16 + 100)
    assert cursor_bytes((target, source)) == CURSOR_FILE_BYTES + target.cursor_bytes + source.cursor_bytes


@given(
    files=st.integers(1, 6),
    groups=st.integers(1, 8),
    batch_size=st.integers(1, 40),
    window_batches=st.integers(1, 5),
    epochs=st.integers(1, 3),
    max_steps=st.none() | st.integers(1, 60),
)
def test_windows_are_those_that_are_planned(files, groups, batch_size, window_batches, epochs, max_steps):
    manifest = synthetic_manifest(files, groups, 20)
    plan = FragmentPlan(manifest, batch_size, window_batches)
    rest = plan.remaining({}, range(epochs), max_steps)
    job = job_for(
        "dnn",
        "data.source_batch_size=0",
        f"data.batch_size={batch_size}",
        f"data.window_batches={window_batches}",
        f"training.epochs={epochs}",
        f"training.max_steps={'null' if max_steps is None else max_steps}",
    )
    [stream] = streams_of(job, sizes(plan.num_rows, files * groups, files), 1)
    assert (stream.windows, stream.rows_in_all) == (len(list(rest.windows())), rest.num_rows)


@given(num_values=st.integers(1, 200_000), share=st.floats(0, 1), seed=st.integers(0, 99))
def test_no_bitmap_is_larger_than_its_bound(num_values, share, seed):
    chosen = np.flatnonzero(np.random.default_rng(seed).random(num_values) < share).astype(np.uint32)
    assert len(BitMap(chosen).serialize()) <= roaring_bytes(num_values)


@pytest.mark.parametrize("row_group_rows", [50, 2_000, 9_000])
def test_no_cursor_of_an_ordered_stream_is_larger_than_its_bound(row_group_rows):
    manifest = synthetic_manifest(20, 10, row_group_rows)
    plan = FragmentPlan(manifest, 500, 8)
    job = job_for("dnn", "data.source_batch_size=0", "data.batch_size=500", "data.window_batches=8")
    streams = streams_of(job, sizes(plan.num_rows, 200, 20), 1)
    cursor, largest = Cursor({"ads": manifest}), 0
    for window in islice(plan.windows(0), 12):
        rows = np.concatenate([np.arange(part.start, part.stop) for part in window.slices])
        fragments = np.concatenate([np.full(part.num_rows, part.fragment) for part in window.slices])
        order = window.left(True, 0)
        for batch in np.array_split(order, max(1, len(order) // 500)):
            status = np.full(len(batch), STATUS_OK, np.int8)
            cursor.add(Provenance("ads", 0, fragments[batch].astype(np.int32), rows[batch].astype(np.int32), status))
            largest = max(largest, len(cursor.to_bytes()))
    bound = cursor_bytes(streams)
    assert largest <= bound
    assert bound < 4 * largest


def test_streams_out_of_order_may_leave_a_window_open_on_each_worker():
    ordered, loose = (capacity_of(job_for("dnn", f"training.deterministic={value}"), 4).streams[1] for value in ("true", "false"))
    assert (ordered.open_fragments, loose.open_fragments) == (3, 12)


@pytest.mark.parametrize("model", ["lcn", "din", "dnn"])
def test_a_batch_takes_the_bytes_that_were_planned(dataset, model):
    contract = load_contract(dataset)
    job = job_for(model, f"data.path={dataset}", "data.batch_size=40", "data.source_batch_size=24", "data.history_length=1")
    specs = training_specs(job, contract, declared_histories(job, contract), "")
    batch = next(joined([local_micro_batches(spec) for spec in specs]))
    assert any(sequence.items.shape[1] == 1 for sequence in batch.histories.values()) or model == "dnn"
    assert batch.num_rows == 64
    # Lists of tags are as long as the batch's longest.
    width = batch.ids["tags"].shape[1]
    assert batch_bytes(job, contract, 64) == batch.num_bytes + 64 * 8 * (3 - width)


def test_history_is_read_by_whole_files():
    # 6,000 events of 13 bytes and the same of the source in 4 files; a window of 200 target rows lies in 4 of them.
    job = job_for("din")
    target, source = capacity_of(job).streams
    assert history_bytes_per_sample(job, CONTRACT, target) == pytest.approx(4 * (2 * 6_000 * 13 / 4) / 200)
    # 120 source rows are two row groups of 100, of two files.
    assert source.buckets_opened(job, CONTRACT) == 3
    assert history_bytes_per_sample(job_for("dnn"), CONTRACT, target) == 0
    # Kept by day, the same 4 files are 2 days of 2 buckets.
    ads = CONTRACT.domains["ads"]
    by_day = ads.model_copy(update={"splits": {"train": Split(path="s", folders=("a", "b"), num_rows=1_000, num_positives=500)}})
    contract = CONTRACT.model_copy(update={"domains": CONTRACT.domains | {"ads": by_day}})
    assert target.buckets_opened(job, contract) == 2
    assert history_bytes_per_sample(job, contract, target) == pytest.approx(2 * 6_000 * 13 / 200)


def test_a_plan_of_ten_million_row_groups_stays_below_two_gib():
    stream = StreamSize("ads", DomainSize(20 * 10**9, 10**7, 10**5), 65_536, 65_536 * 32, 20 * 10**9, 9_537, 1)
    assert stream.plan_bytes < 2**30
    assert cursor_bytes((stream,)) < 6 * 2**20


def test_manifests_are_counted_by_the_row_group():
    manifest = Manifest.of(["a", "b"], [np.array([3, 4]), np.array([5])])
    assert manifest.num_rows.nbytes + manifest.file_index.nbytes + manifest.row_group.nbytes == 3 * 16
