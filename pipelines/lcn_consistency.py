"""Do the levels of LCN's pyramid agree on which events matter? What the upper levels keep against what the attention would choose.

The attention of the focused scope is evaluated on every event of the whole history, which the model itself never does.

Shapes: B rows, L events, K events a level keeps, H heads.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pipelines.lcn_run import interest_of, look_at
from raytrain.data.batch import Batch
from raytrain.embeddings.tables import gathered
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.multi_head_attention import masked_softmax
from raytrain.models.layers.top_events import top_events
from raytrain.models.lcn.pyramid import AttentionPyramid, Levels
from raytrain.training.loop import Learner

Consistency = dict[str, dict[str, dict[str, float]]]
"""domain -> comparison -> {share, chance, rows_left_out_share}"""


@torch.no_grad()
def level_consistency(learner: Learner, batches: Iterable[Batch]) -> Consistency:
    """Overlap of the levels' choices, a mean over rows.

    ``complete`` and ``median``: share of the focused scope's K2 events (its attention's top-K2 of the whole history, mean over
    heads) that are among the level's own top-K2. ``handed_on``: share of them among the K1 events that the complete scope leaves
    to the others. ``complete_and_median``: overlap of those two levels' own top-K2. ``chance`` is what as many
    events drawn at random have: K / events, exactly.

    Rows with no more events than are chosen have nothing to disagree about and are left out. A domain whose focused scope is not
    trained, or which has no level above it, has no entry.
    """
    sums: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros(4, dtype=torch.float64))
    for batch in batches:
        looked = look_at(learner, batch)
        for domain, view in looked.views.items():
            pyramid = _pyramid(interest_of(learner).pyramid, domain)
            if "focused" not in pyramid.model.outputs:
                continue
            wanted = top_events(focused_attention(pyramid, looked.query, view), pyramid.model.focused_events)
            for name, (index, reference) in _choices(pyramid, looked.levels[domain], wanted).items():
                sums[domain, name] += _compared(index, reference, view, batch.weight > 0)
    found: Consistency = defaultdict(dict)
    for (domain, name), (share, chance, num_compared, num_rows) in sums.items():
        found[domain][name] = {
            "share": float(share / num_compared),
            "chance": float(chance / num_compared),
            "rows_left_out_share": float(1 - num_compared / num_rows.clamp(min=1)),
        }
    return dict(found)


def focused_attention(pyramid: AttentionPyramid, query: Tensor, view: HistoryView) -> Tensor:
    """[B, L]: the attention of the focused scope if it saw every event, a mean over heads; -inf on padding."""
    side = [gathered(rows, view.sequence.side[name]) for name, rows in zip(pyramid.side, pyramid.side_rows, strict=True)]
    keys = torch.cat([view.events(), *side], dim=2)
    scores = torch.bmm(pyramid.focused.head_queries(query), keys.transpose(1, 2))  # [B, H, L]
    return masked_softmax(scores, view.mask[:, None]).mean(1).masked_fill(~view.mask, -torch.inf)


def overlap(chosen: Tensor, wanted: Tensor, length: int) -> Tensor:
    """float64 [B]: share of the ``wanted`` places, int64 [B, K], that are among the ``chosen``, int64 [B, K']; places are below L."""
    is_chosen = torch.zeros(len(chosen), length, dtype=torch.bool).scatter(1, chosen, True)
    return is_chosen.gather(1, wanted).double().mean(1)


def _choices(pyramid: AttentionPyramid, level: Levels, wanted: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What is compared with what: places int64 [B, K'] and [B, K2]."""
    choices = {}
    if level.complete_scores is not None:
        complete = top_events(level.complete_scores, pyramid.model.focused_events)
        choices["complete"] = complete, wanted
    if level.median_index is not None and level.focused_index is not None:
        choices["median"] = level.focused_index, wanted
        if level.complete_scores is not None:
            choices["handed_on"] = level.median_index, wanted
            choices["complete_and_median"] = complete, level.focused_index
    return choices


def _compared(index: Tensor, wanted: Tensor, view: HistoryView, is_row: Tensor) -> Tensor:
    """float64 [4]: sums of share and chance over the rows that can be compared, their number, and the number of rows."""
    num_chosen, lengths = index.shape[1], view.sequence.lengths
    comparable = is_row & (lengths > max(num_chosen, wanted.shape[1]))
    share = overlap(index, wanted, view.inverse.shape[1])[comparable].sum()
    chance = (num_chosen / lengths[comparable].double()).sum()
    return torch.stack([share, chance, comparable.sum().double(), is_row.sum().double()])


def _pyramid(pyramids: nn.ModuleDict, domain: str) -> AttentionPyramid:
    pyramid = pyramids[domain]
    assert isinstance(pyramid, AttentionPyramid)
    return pyramid
