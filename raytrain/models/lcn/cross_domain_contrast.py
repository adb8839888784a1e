"""The contrastive loss between one source domain and the target, over the pairs of a batch (CRP of LCN, arXiv 2312.06424).

Shapes: B rows, P pairs a row, N pairs, M candidates for a negative, U unique rows, E size of an aligned vector.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor, nn

from raytrain.data.batch import Batch
from raytrain.embeddings.tables import gathered
from raytrain.model_config import ContrastSection
from raytrain.models.layers.across_ranks import AcrossRanks
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.lcn.contrast import NEVER, Contrast, info_nce, margin_pairs, triplets
from raytrain.models.lcn.item_frequency import ItemFrequency
from raytrain.models.lcn.pairs import draw_events


@dataclass(frozen=True)
class Candidates:
    """Items of one domain that a step has to offer as negatives; [M, E], and [M] each."""

    aligned: Tensor
    item: Tensor
    user: Tensor
    is_positive: Tensor
    """bool: its user took it"""

    def across(self, gather: Callable[[Tensor], Tensor]) -> "Candidates":
        return Candidates(*(gather(part) for part in (self.aligned, self.item, self.user, self.is_positive)))

    def where(self, present: Tensor) -> "Candidates":
        """Those of M' that are present, bool [M']."""
        index = present.nonzero()[:, 0]
        return Candidates(*(part.index_select(0, index) for part in (self.aligned, self.item, self.user, self.is_positive)))


@dataclass(frozen=True)
class Pairs:
    """N items of one domain, and the item of the other that each belongs to; [N, E], and [N] each."""

    anchor: Tensor
    anchor_item: Tensor
    positive: Tensor
    positive_item: Tensor
    user: Tensor

    def swapped(self) -> "Pairs":
        return Pairs(self.positive, self.positive_item, self.anchor, self.anchor_item, self.user)

    def against(self, candidates: Candidates, frequency: ItemFrequency | None, hard_weight: float) -> Contrast:
        """Negatives are the other candidates but for the pair's own item, by whomever it was taken, and what the same user took.

        What the same user was shown and did not take stays in, ``hard_weight`` times.
        """
        with torch.no_grad():
            same_user = self.user[:, None] == candidates.user  # [N, M]
            collides = (self.positive_item[:, None] == candidates.item) | (same_user & candidates.is_positive)
            log_weight = self.anchor.new_zeros(same_user.shape)
            own = self.anchor.new_zeros(len(self.user))
            if frequency is not None:
                log_weight, own = log_weight - frequency.log_share(candidates.item), own - frequency.log_share(self.positive_item)
            if hard_weight != 1.0:
                log_weight += log(hard_weight) * same_user
            log_weight.masked_fill_(collides, NEVER)
        return Contrast(self.anchor, self.positive, own, candidates.aligned, log_weight)


class CrossDomainContrast(nn.Module):
    """Draws pairs and scores them against everything else in the step: from both sides for InfoNCE, else from the source's."""

    def __init__(self, section: ContrastSection) -> None:
        super().__init__()
        self.section = section
        self.across_ranks = AcrossRanks() if section.negatives == "all_ranks" else nn.Identity()
        popularity = section.popularity_correction
        self.target_frequency = ItemFrequency(section.frequency_buckets, section.frequency_steps) if popularity else None
        self.source_frequency = ItemFrequency(section.frequency_buckets, section.frequency_steps) if popularity else None

    def forward(
        self, aligned_query: Tensor, aligned_rows: Tensor, view: HistoryView, batch: Batch, item: Tensor, passed_over: Tensor | None
    ) -> Tensor:
        """Row loss float32 [B]: the mean over a row's pairs, 0 for rows that were not clicked or have no pair.

        A mean over rows, not over pairs, so that the loop's normalisation makes R ranks equal to one (our choice).

        Args:
            aligned_query: [B, E] of the candidates. aligned_rows: [U, E] of the source's items. view: the source's history.
            item: int64 [B], the candidates' ids. passed_over: [B, E], an item each row's user was shown and did not take; zeros
                where there is none.
        """
        section = self.section
        places, valid = draw_events(
            view.sequence, section.num_pairs, section.recent_events, section.pair_side, section.max_age_code, section.random_pairs
        )
        present = batch.weight > 0
        clicked = (batch.label > 0.5) & present
        valid = (valid & clicked[:, None]).flatten()  # [B * P]
        row = torch.arange(len(item), device=item.device).repeat_interleave(places.shape[1])
        source_item = view.sequence.items.gather(1, places).flatten()
        source = gathered(aligned_rows, view.inverse.gather(1, places)).flatten(0, 1)  # [B * P, E]

        # Every rank gathers equally often, whatever its rows are.
        user = batch.group
        targets = Candidates(aligned_query, item, user, clicked).where(present).across(self.across_ranks)
        sources = Candidates(source, source_item, user[row], valid).where(valid).across(self.across_ranks)
        if self.target_frequency is not None and self.source_frequency is not None:
            self.target_frequency.add(targets.item)
            self.source_frequency.add(sources.item)

        chosen = valid.nonzero()[:, 0]  # N pairs
        row = row[chosen]
        pairs = Pairs(source[chosen], source_item[chosen], aligned_query[row], item[row], user[row])
        to_target = pairs.against(targets, self.target_frequency, section.hard_negative_weight)
        if passed_over is not None:
            exists = passed_over[row].detach().any(dim=1)
            weight = torch.where(exists, log(section.hard_negative_weight), NEVER)
            to_target = replace(to_target, own=passed_over[row], own_log_weight=weight.to(passed_over.dtype))
        if section.form == "margin":
            loss = margin_pairs(to_target, section.margin)
        elif section.form == "triplet":
            loss = triplets(to_target, section.margin)
        else:
            to_source = pairs.swapped().against(sources, self.source_frequency, 1.0)
            loss = 0.5 * (info_nce(to_target, section.temperature) + info_nce(to_source, section.temperature))
        num_pairs = valid.view(len(item), -1).sum(1).clamp(min=1)
        return loss.new_zeros(len(item)).index_add(0, row, loss / num_pairs[row])
