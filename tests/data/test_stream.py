"""Through Ray: rank r's k-th micro-batch is its part of global batch k, and nothing is lost on the way."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from raytrain.data.batch import Batch
from raytrain.data.micro_batches import local_micro_batches, micro_batches_of
from raytrain.data.stream import StreamDataConfig, StreamSpec, StreamStart
from tests.data.build import build_dataset
from tests.data.served import keys_of, micro_batches_for, stream_spec

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_2_cpus")]

Keys = list[tuple[int, int, int]]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> StreamSpec:
    """Two epochs of 125 rows, 7 rows a global batch: ranks of three get unequal shares and short last batches."""
    path = tmp_path_factory.mktemp("stream")
    contract = build_dataset(path, num_users=15, num_items=10, row_group_rows=16, num_buckets=3)
    spec = stream_spec(contract, path, 7, ("target", "source"), seed=4, window_batches=4)
    assert spec.plan.num_rows % 7 != 0
    return spec.lasting((0, 1), None)


def streamed(spec: StreamSpec, world_size: int, deterministic: bool, num_passes: int) -> list[list[list[Keys]]]:
    """pass -> rank -> the keys of its micro-batches in the order received."""
    config = StreamDataConfig(deterministic)
    shards = config.configure({spec.name: StreamStart(spec)}, world_size, None, None)

    def consume(rank: int) -> list[list[Keys]]:
        shard = shards[rank][spec.name]
        return [[keys_of_batch(batch) for batch in micro_batches_of(shard, spec)] for _ in range(num_passes)]

    # A split begins a pass once every rank has asked for it.
    with ThreadPoolExecutor(world_size) as pool:
        ranks = list(pool.map(consume, range(world_size)))
    return [[rank[index] for rank in ranks] for index in range(num_passes)]


def keys_of_batch(batch: Batch) -> Keys:
    [part] = batch.provenance
    assert (batch.weight.numpy() == (part.fragment >= 0)).all()
    return [(part.epoch, fragment, row) for fragment, row in zip(part.fragment.tolist(), part.row.tolist(), strict=True) if fragment >= 0]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_in_order_each_rank_receives_its_part_of_every_global_batch(spec, world_size):
    first, second = streamed(spec, world_size, deterministic=True, num_passes=2)
    expected = [keys_of(part) for part in micro_batches_for(spec, world_size)]
    assert len(expected) == spec.total_batches * world_size
    for rank in range(world_size):
        assert first[rank] == expected[rank::world_size]
    assert first == second


@pytest.mark.parametrize("world_size", [2, 3])
def test_out_of_order_every_row_arrives_once_and_ranks_get_equally_many(spec, world_size):
    [ranks] = streamed(spec, world_size, deterministic=False, num_passes=1)
    assert {len(rank) for rank in ranks} == {spec.total_batches}
    expected = sorted(key for part in micro_batches_for(spec) for key in keys_of(part))
    assert sorted(key for rank in ranks for keys in rank for key in keys) == expected


def test_histories_and_labels_come_through_unchanged(spec):
    shards = StreamDataConfig(True).configure({spec.name: StreamStart(spec)}, 1, None, None)
    for received, local in zip(micro_batches_of(shards[0][spec.name], spec), local_micro_batches(spec), strict=True):
        assert np.array_equal(received.histories["source"].items, local.histories["source"].items)
        assert np.array_equal(received.label, local.label)
        assert np.array_equal(received.ids["tags"], local.ids["tags"])
