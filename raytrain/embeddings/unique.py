"""The ids of one table in one step, each once: what is looked up and what travels between ranks.

Shapes: B rows, L events, M values, N ids of all features together, U unique ids.
"""

import torch
from torch import Tensor

from raytrain.data.batch import Batch
from raytrain.embeddings.tables import TableConfig, history_feature
from raytrain.errors import TablesError

# Marking costs a pass over the table's rows, sorting one over the ids. One thread, uniform to Zipf ids with half of them
# padding, N = 20 k / 200 k / 400 k: marking takes 0.2-0.3 / 1.4-2.1 / 2.9-4.2 ms at num_rows = N, sorting 0.7-1.1 / 4-5 /
# 8-9 ms; they meet at num_rows = 4 N (skewless ids, 400 k) to 30 N (20 k). Far beyond it marking loses by 100 times,
# well below it wins by 2 to 4: the multiple is the low end.
_MARKED_ROWS_PER_ID = 4


def unique_ids(batch: Batch, config: TableConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Unique ids over all features and histories of a table.

    Returns:
        ids: int64 [U], ascending.
        inverse: feature -> int64 positions in ``ids``, shaped like the feature ([B], [B, M]; "history/<name>": [B, L]).

    Raises:
        TablesError: an id is negative or not below ``num_rows``, or the batch lacks a feature or history of the table.
    """
    columns = _columns(batch, config)
    if not columns:
        return torch.empty(0, dtype=torch.int64), {}
    flat = torch.cat([column.reshape(-1) for column in columns.values()])
    if len(flat) > 0:
        _check_range(flat, config)
    if config.num_rows <= _MARKED_ROWS_PER_ID * len(flat):
        ids, positions = mark_unique(flat, config.num_rows)
    else:
        ids, positions = torch.unique(flat, return_inverse=True)
    parts = torch.split(positions, [column.numel() for column in columns.values()])
    return ids, {name: part.view(column.shape) for (name, column), part in zip(columns.items(), parts, strict=True)}


def mark_unique(flat: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """What ``torch.unique(flat, return_inverse=True)`` returns, for int64 [N] in 0..num_rows-1, in O(num_rows + N)."""
    marks = torch.zeros(num_rows, dtype=torch.bool, device=flat.device).scatter_(0, flat, True)
    ids = marks.nonzero().squeeze(1)
    # Only the U marked places are ever written or read, so the rest may stay uninitialised.
    places = torch.empty(num_rows, dtype=torch.int64, device=flat.device)
    places.scatter_(0, ids, torch.arange(len(ids), device=flat.device))
    return ids, places.index_select(0, flat)


def _columns(batch: Batch, config: TableConfig) -> dict[str, Tensor]:
    missing = [name for name in config.features if name not in batch.ids]
    missing += [history_feature(name) for name in config.histories if name not in batch.histories]
    if missing:
        have = [*batch.ids, *map(history_feature, batch.histories)]
        raise TablesError(
            f"A batch has to hold every feature of table {config.name}. "
            f"Received: {', '.join(have) or 'none'}. Add {', '.join(missing)} to the data set or drop it from the table."
        )
    columns = {name: batch.ids[name] for name in config.features}
    return columns | {history_feature(name): batch.histories[name].items for name in config.histories}


def _check_range(flat: Tensor, config: TableConfig) -> None:
    # FBGEMM would map an id outside to row 0 and only warn; on CUDA this is a host sync, as finding U is anyway.
    low, high = (int(bound) for bound in torch.aminmax(flat))
    if low < 0 or high >= config.num_rows:
        raise TablesError(
            f"Ids of table {config.name} have to lie in 0..{config.num_rows - 1}. "
            f"Received: id={low if low < 0 else high}. Raise the table's num_rows or quarantine the row."
        )
