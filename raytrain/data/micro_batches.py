"""What a worker iterates: its micro-batches of each stream, as tensors."""

from collections.abc import Iterator

from ray.data import DataIterator

from raytrain.data.batch import Batch
from raytrain.data.collate import Collator, join_domains
from raytrain.data.stream import StreamSpec


def micro_batches_of(shard: DataIterator, spec: StreamSpec) -> Iterator[Batch]:
    """This rank's micro-batches of one pass over the stream."""
    collate = Collator(spec.contract, spec.domain, spec.histories)
    tables = shard.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=spec.data.prefetch_batches)
    for row in tables:
        yield collate(row)


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
