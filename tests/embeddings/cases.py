"""A small table set, a global batch that exercises it, and a loss: the same for every backend and number of ranks."""

from typing import Any

import torch
from torch import Tensor

from raytrain.data.batch import Batch, Sequence
from raytrain.embeddings.tables import Embedded, TableConfig, Tables

NUM_ROWS = 12
LENGTH = 5
# Two dims make two exchanges; "item" serves two features and a history; 7 rows do not divide by 2 or 3.
CONFIGS = (
    TableConfig("user", 41, 8, features=("user",), init_std=0.1),
    TableConfig("item", 50, 8, features=("item", "tags"), histories=("target",), init_std=0.1),
    TableConfig("country", 7, 4, features=("country",), init_std=0.1),
)
FROZEN = TableConfig("old_item", 50, 8, features=("item",), histories=("target",), init_std=0.1, frozen=True)
PADDED_USER = 40
"""An id that only a row of weight 0 has."""


def make_batch(ids: dict[str, Tensor], histories: dict[str, Tensor] | None = None, weight: Tensor | None = None) -> Batch:
    num_rows = len(next(iter(ids.values())))
    zeros = torch.zeros(num_rows, dtype=torch.int64)
    return Batch(
        ids=ids,
        dense={},
        histories={name: Sequence(items, (items != 0).sum(1)) for name, items in (histories or {}).items()},
        label=torch.linspace(-1, 1, num_rows),
        weight=torch.ones(num_rows) if weight is None else weight,
        group=zeros,
        time=zeros,
        domain=zeros,
    )


def global_batch(step: int) -> Batch:
    """12 rows with duplicate ids in and across features and ranks; the last row has weight 0 and an id of its own."""
    draw = torch.Generator().manual_seed(step)

    def ids(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=draw)

    user = ids(6, NUM_ROWS)
    user[-1] = PADDED_USER
    weight = torch.rand(NUM_ROWS, generator=draw) + 0.5
    weight[-1] = 0.0
    features = {"user": user, "item": ids(50, NUM_ROWS), "tags": ids(10, NUM_ROWS, 2), "country": ids(7, NUM_ROWS)}
    return make_batch(features, {"target": ids(20, NUM_ROWS, LENGTH)}, weight)


def rows_of_rank(batch: Batch, rank: int, num_ranks: int) -> Batch:
    part = slice(rank, None, num_ranks)
    return make_batch(
        {name: value[part] for name, value in batch.ids.items()},
        {name: sequence.items[part] for name, sequence in batch.histories.items()},
        batch.weight[part],
    )


def row_loss(embedded: Embedded, batch: Batch) -> Tensor:
    """float32 [B], quadratic in every table, with the first column of country left without gradient."""
    item = embedded["item"]
    history = (item.of("history/target") * batch.histories["target"].mask[..., None]).sum(1)
    user = embedded["user"].of("user") + history + item.of("tags").mean(1)
    score = (user * item.of("item")).sum(1) + embedded["country"].of("country")[:, 1:].square().sum(1)
    if "old_item" in embedded:
        score = score + (embedded["old_item"].of("item") * user).sum(1)
    return (score - 1.0).square()


def train_step(tables: Tables, step: int, rank: int = 0, num_ranks: int = 1) -> None:
    """One backward by the loop's convention: each rank's loss is R * sum(w * l) / W of the global batch."""
    whole = global_batch(step)
    mine = rows_of_rank(whole, rank, num_ranks)
    loss = num_ranks * (mine.weight * row_loss(tables(mine), mine)).sum() / whole.weight.sum()
    loss.backward()


def local_parts(state: dict[str, Any]) -> dict[str, list[tuple[list[int], Tensor]]]:
    """This rank's part of a state dict as (offsets, values), ready to travel."""
    return {
        key: [(list(s.metadata.shard_offsets), s.tensor.detach().clone()) for s in value.local_shards()] for key, value in state.items()
    }


def assemble(parts: list[dict[str, list[tuple[list[int], Tensor]]]], like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors from every rank's parts; a place no rank holds stays NaN and fails any comparison."""
    whole = {key: torch.full_like(value, float("nan")) for key, value in like.items()}
    for part in parts:
        assert part.keys() <= like.keys()
        for key, shards in part.items():
            for offsets, values in shards:
                whole[key][tuple(slice(first, first + size) for first, size in zip(offsets, values.shape, strict=True))] = values
    return whole


PAIR = (
    TableConfig("v/user", 41, 8, features=("user",), init_std=0.1),
    TableConfig("v/country", 4, 8, features=("country",), init_std=0.1),
    TableConfig("g/user", 41, 8, features=("user",), init_std=0.1, beside="v/user"),
    TableConfig("g/country", 4, 8, features=("country",), init_std=0.1, beside="v/country"),
)
"""Two sets of the same id spaces; of 4 rows over 3 ranks one would hold none, so such a table stays whole."""
PAIRS = (("v/user", "g/user"), ("v/country", "g/country"))


def train_pair(tables: Tables, step: int, rank: int = 0, num_ranks: int = 1) -> None:
    """One backward by the loop's convention that moves both sets, and each of them otherwise."""
    whole = global_batch(step)
    whole.ids["country"].clamp_(max=3)
    mine = rows_of_rank(whole, rank, num_ranks)
    rows = tables(mine)
    score = sum(
        factor * rows[f"{prefix}/{name}"].of(name).square().sum(1)
        for prefix, factor in (("v", 1.0), ("g", 2.0))
        for name in ("user", "country")
    )
    (num_ranks * (mine.weight * score).sum() / whole.weight.sum()).backward()


def blended(tables: Tables, rank: int = 0, num_ranks: int = 1) -> None:
    """A step, a copy with the optimizer's state, a step, a move of a quarter of the way, a step."""
    train_pair(tables, 0, rank, num_ranks)
    tables.blend([(giver, receiver) for receiver, giver in PAIRS], 1.0, with_state=True)
    train_pair(tables, 1, rank, num_ranks)
    tables.blend(PAIRS, 0.25)
    train_pair(tables, 2, rank, num_ranks)
