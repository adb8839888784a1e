"""What a worker iterates: its micro-batches of each stream, as tensors."""

from collections.abc import Iterator

import pyarrow as pa
from ray.data import DataIterator

from raytrain.data.batch import Batch
from raytrain.data.collate import Collator, join_domains
from raytrain.data.cursor import hash_of
from raytrain.data.provenance import CURSOR
from raytrain.data.stream import StreamSpec
from raytrain.errors import StreamError


def micro_batches_of(shard: DataIterator, spec: StreamSpec, cursor: bytes = b"") -> Iterator[Batch]:
    """This rank's micro-batches of one pass over what is left of the stream after ``cursor``.

    Raises:
        StreamError: the stream ends before the plan does (a rank that ran dry alone would leave the others in a collective),
            or was planned from another cursor than this worker's checkpoint.
    """
    num_expected, num_batches = spec.remaining(cursor).num_batches, 0
    if not num_expected:
        return
    collate = Collator(spec.contract, spec.domain, spec.histories, spec.event_ages, spec.slices)
    for row in shard.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=spec.data.prefetch_batches):
        _check_cursor(row, spec, hash_of(cursor))
        num_batches += 1
        yield collate(row)
    if num_batches != num_expected:
        raise StreamError(
            f"Stream {spec.name} has to give every worker its part of {num_expected} global batches. "
            f"Received: {num_batches}. A read task was lost; resume the run, and look for its error in Ray's logs."
        )


def joined(streams: list[Iterator[Batch]]) -> Iterator[Batch]:
    """Steps that hold rows of several domains, until the last stream ends.

    In order all streams end together; out of order a restart may leave one a few batches more, which then come alone.
    """
    live = list(streams)
    while live:
        parts = [(stream, next(stream, None)) for stream in live]
        live = [stream for stream, batch in parts if batch is not None]
        if live:
            yield join_domains([batch for _, batch in parts if batch is not None])


def local_micro_batches(spec: StreamSpec, cursor: bytes = b"") -> Iterator[Batch]:
    """The same batches as one rank gets, read in this process without a Ray cluster."""
    collate = Collator(spec.contract, spec.domain, spec.histories, spec.event_ages, spec.slices)
    for task in spec.source(1, cursor).get_read_tasks(-1):
        for row in task():
            yield collate(row)


def rank_micro_batches(spec: StreamSpec, rank: int, world_size: int) -> Iterator[Batch]:
    """A rank's part of every global batch, read by itself: for few rows, since every rank reads all of them."""
    collate = Collator(spec.contract, spec.domain, spec.histories, spec.event_ages, spec.slices)
    rows = (row for task in spec.source(world_size).get_read_tasks(-1) for row in task())
    for number, row in enumerate(rows):
        if number % world_size == rank:
            yield collate(row)


def _check_cursor(row: pa.Table, spec: StreamSpec, expected: str) -> None:
    found = row.column(CURSOR)[0].as_py()
    if found != expected:
        raise StreamError(
            f"Stream {spec.name} has to go on from the checkpoint that the worker loaded. "
            f"Received: a stream of cursor {found or 'none'}, a checkpoint of cursor {expected or 'none'}. Resume the run."
        )
