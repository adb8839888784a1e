"""LAP, the lifelong attention pyramid (LCN, arXiv 2312.06424, section 3.3 of our notes; sizes and formulas are our choice).

Three levels, each of which hands the events it scores highest to the next: complete scope (every event, a dot product of aligned
vectors), median scope (K1 events, with side information), focused scope (K2 events, multi-head attention). The outputs of all
three are used: top-k passes no gradient, so without them the upper levels' scores would learn nothing of what they leave out.

Shapes: B rows, L events, U unique rows, D embedding size, E size of an aligned vector, C codes of a side information.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from raytrain.embeddings.tables import gathered
from raytrain.model_config import LcnModel
from raytrain.models.layers.event_scores import pool_events, score_events
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.multi_head_attention import MultiHeadTargetAttention, masked_softmax
from raytrain.models.layers.sequence_network import HistoryShape
from raytrain.models.layers.side_attention import code_mass
from raytrain.models.layers.top_events import top_events

INITIAL_SCALE = 8.0
"""Of cosines in the complete scope: an aligned event starts with exp(8) times the weight of an orthogonal one."""

_PARTS = {"median": ("median_",), "focused": ("side_rows", "focused", "feed_forward", "norm")}


@dataclass(frozen=True)
class Levels:
    """What the levels made of one history; None for a level that is left out."""

    output: Tensor
    """float32 [B, num_outputs]"""
    complete_scores: Tensor | None
    """[B, L], -inf on padding"""
    median_index: Tensor | None
    """int64 [B, K1], the events the median scope saw; padding where a user has fewer"""
    focused_index: Tensor | None
    """int64 [B, K2]"""


class AttentionPyramid(nn.Module):
    """The levels over one domain's history."""

    def __init__(self, model: LcnModel, shape: HistoryShape) -> None:
        super().__init__()
        self.model, self.side = model, shape.side
        dim, num_codes = shape.dim, sum(shape.side.values())
        self.num_outputs = 0
        if "complete" in model.levels:
            # W_q1 and W_k1 of the dot product as one matrix, W_v1 in the head's first layer; cosines to begin with.
            self.complete = nn.Parameter(INITIAL_SCALE * torch.eye(model.aligned_dim))
            self.num_outputs += dim if "complete" in model.outputs else 0
        if "median" in model.levels:
            # W_q2 and the two halves of W_k2, for the item and for one-hot side codes, multiplied out.
            self.median_item = nn.Linear(dim, dim, bias=False)
            self.median_side = nn.Linear(dim, num_codes) if num_codes else None
            self.num_outputs += dim + num_codes if "median" in model.outputs else 0
        if "focused" in model.levels:
            key_dim = dim + len(self.side) * model.side_dim
            self.side_rows = nn.ParameterList(nn.Parameter(0.1 * torch.randn(size, model.side_dim)) for size in self.side.values())
            self.focused = MultiHeadTargetAttention(dim, key_dim, model.attention_dim, model.num_heads, model.attention_dim)
            self.feed_forward = nn.Sequential(
                nn.Linear(model.attention_dim, 2 * model.attention_dim), nn.ReLU(), nn.Linear(2 * model.attention_dim, model.attention_dim)
            )
            self.norm = nn.LayerNorm(model.attention_dim)
            self.num_outputs += model.attention_dim if "focused" in model.outputs else 0
        self.empty = nn.Parameter(torch.zeros(self.num_outputs))
        self._freeze_what_no_output_reaches()

    @property
    def trains_complete_scores(self) -> bool:
        """Whether a gradient reaches the complete scope's scores, and so the aligned vectors: top-k passes none."""
        residual = self.model.residual_scores and "median" in self.model.outputs
        return "complete" in self.model.levels and ("complete" in self.model.outputs or residual)

    def _freeze_what_no_output_reaches(self) -> None:
        """A parameter without a gradient would make DDP wait for it, and the optimizer has no state of it to save."""
        if "complete" in self.model.levels and not self.trains_complete_scores:
            self.complete.requires_grad_(False)
        for level in {"median", "focused"} & set(self.model.levels) - set(self.model.outputs):
            for name, parameter in self.named_parameters():
                if name.startswith(_PARTS[level]):
                    parameter.requires_grad_(False)

    def forward(self, query: Tensor, aligned_query: Tensor | None, aligned_rows: Tensor | None, view: HistoryView) -> Levels:
        """query [B, D]; aligned_query [B, E] and aligned_rows [U, E] are asked for by the complete scope alone."""
        outputs: list[Tensor] = []
        mask, index = view.mask, None  # what the next level sees; None is every event
        scores = complete_scores = median_index = focused_index = None
        if "complete" in self.model.levels:
            assert aligned_query is not None
            assert aligned_rows is not None
            raw = score_events(aligned_query @ self.complete, aligned_rows, view.bags)
            scores = complete_scores = raw.masked_fill(~mask, -torch.inf)
            if "complete" in self.model.outputs:
                attention = masked_softmax(raw, mask)
                outputs.append(pool_events(attention, view.rows, view.bags))
        if "median" in self.model.levels:
            index = median_index = _top(scores, self.model.median_events, view)
            mask, below = view.mask.gather(1, index), None if scores is None else scores.gather(1, index)
            items = view.events_at(index)  # [B, K1, D]
            raw, codes = self._median_scores(query, items, view, index, mask, below)
            scores = raw.masked_fill(~mask, -torch.inf)
            if "median" in self.model.outputs:
                attention = masked_softmax(raw, mask)
                outputs.append(torch.bmm(attention[:, None], items)[:, 0])
                outputs += [code_mass(attention, code, size) for code, size in zip(codes, self.side.values(), strict=True)]
        if "focused" in self.model.levels:
            places = _top(scores, self.model.focused_events, view)
            index = focused_index = places if index is None else index.gather(1, places)
            outputs += self._focused(query, view, index) if "focused" in self.model.outputs else []
        output = torch.cat(outputs, dim=1)
        output = torch.where(view.sequence.lengths[:, None] > 0, output, self.empty)
        return Levels(output, complete_scores, median_index, focused_index)

    def _median_scores(
        self, query: Tensor, items: Tensor, view: HistoryView, index: Tensor, mask: Tensor, below: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """[B, K1] scores and the events' codes of every side information."""
        scores = torch.bmm(items, self.median_item(query)[:, :, None])[:, :, 0] / math.sqrt(items.shape[2])
        codes = [view.side_at(name, index) for name in self.side]
        if self.median_side is not None:
            by_code = torch.split(self.median_side(query), list(self.side.values()), dim=1)
            for of_code, code in zip(by_code, codes, strict=True):
                scores = scores + of_code.gather(1, code)
        if below is not None and self.model.residual_scores:
            scores = scores + below.masked_fill(~mask, 0.0)
        return scores, codes

    def _focused(self, query: Tensor, view: HistoryView, index: Tensor) -> list[Tensor]:
        """[B, A], in a list of one."""
        side = [gathered(rows, view.side_at(name, index)) for name, rows in zip(self.side, self.side_rows, strict=True)]
        keys = torch.cat([view.events_at(index), *side], dim=2)
        found = self.focused(query, keys, view.mask.gather(1, index))
        return [self.norm(found + self.feed_forward(found))]


def _top(scores: Tensor | None, num_events: int, view: HistoryView) -> Tensor:
    """int64 [B, K]: places of the highest scores, the newer of two equal ones; every event where nothing has scored them."""
    num_rows, length = view.inverse.shape
    if scores is None:
        return torch.arange(length, device=view.inverse.device).expand(num_rows, length)
    return top_events(scores, num_events)
