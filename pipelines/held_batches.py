"""Batches read into memory before a measurement, so that neither reading nor collation is in it."""

from collections.abc import Iterable
from itertools import islice

from raytrain.data.batch import Batch

MAX_HELD_BYTES = 4 << 30


def held_batches(stream: Iterable[Batch], num_batches: int, max_bytes: int = MAX_HELD_BYTES) -> list[Batch]:
    """The first ``num_batches`` of a stream, or as many as there are; none more once they take ``max_bytes``."""
    held, num_bytes = [], 0
    for batch in islice(stream, num_batches):
        held.append(batch)
        num_bytes += _num_bytes(batch)
        if num_bytes > max_bytes:
            break
    return held


def _num_bytes(batch: Batch) -> int:
    parts = [*batch.ids.values(), *batch.dense.values()]
    for history in batch.histories.values():
        parts += [history.items, *history.side.values(), *(() if history.age_s is None else (history.age_s,))]
    return sum(tensor.nbytes for tensor in parts)
