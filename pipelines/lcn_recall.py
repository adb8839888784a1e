"""Do the levels of LCN's pyramid find the events that decide? Recall against a planted truth (``truth.parquet``).

    raytrain train pipelines/configs/planted_lcn.yaml run.name=planted
    python -m pipelines.lcn_recall runs/planted

Shapes: B rows, L events, K events a level keeps.
"""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import pyarrow.parquet as pq
import torch
import typer
from torch import Tensor

from pipelines.lcn_run import LcnRun, look_at, network_of, open_lcn
from raytrain.data.batch import Batch
from raytrain.data.planted import TRUTH_FILE
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.lcn.pyramid import Levels
from raytrain.storage import Storage
from raytrain.training.loop import Learner

Recall = dict[str, dict[str, float]]
"""domain -> level, or way to choose as many events as the focused level keeps -> recall"""


def topics_of(data_path: str, table: str, num_rows: int) -> Tensor:
    """int64 [num_rows]: the hidden topic of every id, -1 where there is none."""
    storage = Storage(data_path)
    truth = pq.read_table(storage.path(TRUTH_FILE), filesystem=storage.filesystem)
    chosen = truth.filter(np.asarray(truth.column("table").to_pylist()) == table)
    topics = torch.full((num_rows,), -1, dtype=torch.int64)
    topics[torch.from_numpy(chosen.column("id").to_numpy().astype(np.int64))] = torch.from_numpy(
        chosen.column("topic").to_numpy().astype(np.int64)
    )
    return topics


def recall_of_run(run: str, num_batches: int = 8) -> Recall:
    """Recall of a finished run's best checkpoint on the first batches of its validation split.

    Raises:
        RunError: there is no run, it did not finish, or its model is not LCN.
    """
    return planted_recall(open_lcn(run), num_batches)


def planted_recall(run: LcnRun, num_batches: int) -> Recall:
    """The same of a run that is open."""
    topics = topics_of(run.job.data.path, run.item_table, run.contract.tables[run.item_table].num_rows)
    return level_recall(run.learner, run.batches("valid", num_batches), topics)


@torch.no_grad()
def level_recall(learner: Learner, batches: Iterable[Batch], topics: Tensor, count_same_item: bool = False) -> Recall:
    """Share of the relevant events (the candidate's topic) that each level keeps, over all rows that have one.

    Args:
        topics: int64, of every item id. count_same_item: whether events of the candidate itself, which equal ids find, count.
    """
    network = network_of(learner)
    found: dict[tuple[str, str], float] = defaultdict(float)
    num_relevant: dict[str, float] = defaultdict(float)
    network.eval()
    for batch in batches:
        looked = look_at(learner, batch)
        item = batch.ids[network.item]
        for name, level in looked.levels.items():
            view = looked.views[name]
            relevant = _relevant(view, item, topics, count_same_item) & (batch.weight > 0)[:, None]
            num_relevant[name] += float(relevant.sum())
            for way, index in _ways(level, view).items():
                kept = view.mask.gather(1, index)
                found[name, way] += float((relevant.gather(1, index) & kept).sum())
    recall: Recall = defaultdict(dict)
    for (name, way), number in found.items():
        recall[name][way] = number / max(num_relevant[name], 1.0)
    return dict(recall)


def _relevant(view: HistoryView, item: Tensor, topics: Tensor, count_same_item: bool) -> Tensor:
    """bool [B, L]."""
    events = view.sequence.items
    relevant = (topics[events] == topics[item][:, None]) & view.mask & (topics[item] >= 0)[:, None]
    return relevant if count_same_item else relevant & (events != item[:, None])


def _ways(level: Levels, view: HistoryView) -> dict[str, Tensor]:
    """Events kept by each level, and as many as the focused level keeps chosen without knowledge: int64 [B, K] each."""
    ways = {name: index for name, index in (("median", level.median_index), ("focused", level.focused_index)) if index is not None}
    num_events = next(reversed(ways.values())).shape[1] if ways else 1
    newest = view.sequence.lengths[:, None] - 1 - torch.arange(num_events)
    # Whoever has fewer events has padding in the last place, which is relevant to no one.
    newest = newest.where(newest >= 0, view.inverse.shape[1] - 1)
    drawn = torch.rand(view.inverse.shape).masked_fill(~view.mask, -1.0)
    popularity = torch.bincount(view.inverse[view.mask], minlength=len(view.rows))[view.inverse].masked_fill(~view.mask, -1)
    return ways | {
        "newest": newest,
        "random": drawn.topk(num_events, dim=1).indices,
        "popular": popularity.topk(num_events, dim=1).indices,
    }


def main(run: str) -> None:
    for domain, recall in recall_of_run(run).items():
        typer.echo(f"{domain}: " + ", ".join(f"{way} {share:.3f}" for way, share in recall.items()))


if __name__ == "__main__":
    typer.run(main)
