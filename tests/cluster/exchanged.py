"""What ranks really send in a lookup and its backward pass: every all-to-all of TorchRec, counted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from raytrain.data.batch import Batch
from raytrain.embeddings.sharded import ShardedTables
from raytrain.embeddings.tables import TableConfig, TableOptimizer


@contextmanager
def counted() -> Iterator[list[tuple[torch.dtype, int]]]:
    """Appends (type, bytes for other ranks) of each call while it lasts."""
    sent: list[tuple[torch.dtype, int]] = []
    original = dist.all_to_all_single

    def counting(output: Tensor, input: Tensor, output_split_sizes: Any = None, input_split_sizes: Any = None, **named: Any) -> Any:
        splits = input_split_sizes or [len(input) // dist.get_world_size()] * dist.get_world_size()
        row = input[:1].numel() if len(input) else 0
        others = sum(splits) - splits[dist.get_rank()]
        sent.append((input.dtype, others * row * input.element_size()))
        return original(output, input, output_split_sizes, input_split_sizes, **named)

    dist.all_to_all_single = counting
    try:
        yield sent
    finally:
        dist.all_to_all_single = original


def look_up(configs: tuple[TableConfig, ...], ids: dict[str, list[list[int]]], sharding: str) -> list[tuple[str, int]]:
    """(type, bytes sent) of each all-to-all of this rank's second step, when TorchRec has built its exchange.

    Args:
        ids: feature -> the ids of each rank.
    """
    tables = ShardedTables(configs, TableOptimizer("adagrad", 0.1), seed=0, sharding=sharding)
    mine = {name: torch.tensor(of_ranks[dist.get_rank()]) for name, of_ranks in ids.items()}
    zeros = torch.zeros(len(next(iter(mine.values()))), dtype=torch.int64)
    batch = Batch(mine, {}, {}, zeros.float(), zeros.float(), zeros, zeros, zeros)
    _step(tables, batch, configs)
    with counted() as sent:
        _step(tables, batch, configs)
    return [(str(dtype), num_bytes) for dtype, num_bytes in sent]


def _step(tables: ShardedTables, batch: Batch, configs: tuple[TableConfig, ...]) -> None:
    embedded = tables(batch)
    torch.stack([embedded[config.name].of(config.features[0]).sum() for config in configs]).sum().backward()
