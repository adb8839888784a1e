"""A worker refuses a stream that is not the one its checkpoint goes on with, or that ends too early."""

import pytest

from raytrain.data.cursor import Cursor
from raytrain.data.micro_batches import local_micro_batches, micro_batches_of
from raytrain.errors import StreamError
from tests.data.build import DomainRows, numbered_samples, write_dataset
from tests.data.served import stream_spec


class FakeShard:
    """A shard of given micro-batches."""

    def __init__(self, rows):
        self._rows = rows

    def iter_batches(self, **options):
        return iter(self._rows)


@pytest.fixture
def spec(tmp_path):
    contract = write_dataset(tmp_path, {"target": DomainRows({"train": numbered_samples(40)})})
    return stream_spec(contract, tmp_path, 8)


def rows_of(spec, cursor=b""):
    return [row for task in spec.source(1, cursor).get_read_tasks(-1) for row in task()]


def cursor_after(spec, num_batches):
    cursor = Cursor({"target": spec.manifest})
    for _, batch in zip(range(num_batches), local_micro_batches(spec), strict=False):
        cursor.add(batch.provenance[0])
    return cursor.to_bytes()


def test_what_is_left_comes_through(spec):
    cursor = cursor_after(spec, 2)
    assert len(list(micro_batches_of(FakeShard(rows_of(spec, cursor)), spec, cursor))) == 3


def test_a_stream_of_another_cursor_is_refused(spec):
    with pytest.raises(StreamError, match=r"a stream of cursor none, a checkpoint of cursor [0-9a-f]+"):
        list(micro_batches_of(FakeShard(rows_of(spec)), spec, cursor_after(spec, 2)))


def test_a_stream_that_ends_early_is_an_error(spec):
    with pytest.raises(StreamError, match=r"its part of 5 global batches. Received: 4"):
        list(micro_batches_of(FakeShard(rows_of(spec)[:-1]), spec))
