"""What a worker iterates: its micro-batches of each stream, as tensors."""

from collections.abc import Iterator

from ray.data import DataIterator

from raytrain.data.batch import Batch
from raytrain.data.collate import Collator, join_domains
from raytrain.data.stream import StreamSpec
from raytrain.errors import DataError


def micro_batches_of(shard: DataIterator, spec: StreamSpec) -> Iterator[Batch]:
    """This rank's micro-batches of one pass over the stream.

    Raises:
        DataError: the stream ends before the plan does. A rank that ran dry alone would leave the others in a collective.
    """
    collate = Collator(spec.contract, spec.domain, spec.histories)
    tables = shard.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=spec.data.prefetch_batches)
    num_batches = 0
    for row in tables:
        num_batches += 1
        yield collate(row)
    if num_batches != spec.total_batches:
        raise DataError(
            f"Stream {spec.name} has to give every worker its part of {spec.total_batches} global batches. "
            f"Received: {num_batches}. A read task was lost; run again, and look for its error in Ray's logs."
        )


def joined(streams: list[Iterator[Batch]]) -> Iterator[Batch]:
    """Steps that hold rows of several domains; ends with the shortest stream."""
    for parts in zip(*streams, strict=False):
        yield join_domains(list(parts))


def local_micro_batches(spec: StreamSpec) -> Iterator[Batch]:
    """The same batches as one rank gets, read in this process without a Ray cluster: for tests, profiling and notebooks."""
    collate = Collator(spec.contract, spec.domain, spec.histories)
    for task in spec.source(world_size=1).get_read_tasks(-1):
        for row in task():
            yield collate(row)
