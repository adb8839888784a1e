"""The contrastive loss between one source domain and the target, over the pairs of a batch (CRP of LCN, arXiv 2312.06424).

Shapes: B rows, T target events a row (its candidate first), P source events each, N pairs, M candidates for a negative, C places in
a matrix of pairs and candidates, U unique rows, E size of an aligned vector.
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
from raytrain.models.lcn.pairs import draw_before


@dataclass(frozen=True)
class TargetEvents:
    """What the users of a batch did in the target domain: each row's candidate, and some events of its history."""

    aligned: Tensor
    """float32 [B, T, E]"""
    item: Tensor
    """int64 [B, T]"""
    age_s: Tensor
    """int64 [B, T], 0 of the candidate"""
    is_positive: Tensor
    """bool [B, T]: the user took it"""
    is_present: Tensor
    """bool [B, T]: false on padding; what is present and was not taken is a negative still"""
    passed_over: Tensor | None = None
    """float32 [B, E]: another item that the user was shown and did not take; zeros where there is none"""
    passed_over_item: Tensor | None = None
    """int64 [B], its id"""


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
        """Those that are present, bool [M]."""
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

    def against(self, candidates: Candidates, frequency: ItemFrequency | None, hard_weight: float, shares_ids: bool = False) -> Contrast:
        """Negatives are the other candidates but for the pair's own item, by whomever it was taken, and what the same user took.

        What the same user was shown and did not take stays in, ``hard_weight`` times. Where the domains share ids the anchor itself,
        met in the other domain, is no negative either.
        """
        with torch.no_grad():
            by_user, by_item = matches(self.user, candidates.user), matches(self.positive_item, candidates.item)
            collisions = [by_item, by_user[:, candidates.is_positive[by_user[1]]]]
            exceptions = torch.cat([*collisions, matches(self.anchor_item, candidates.item)] if shares_ids else collisions, dim=1)
            weight = self.anchor.new_full((exceptions.shape[1],), NEVER)
            if hard_weight != 1.0:
                exceptions = torch.cat([exceptions, by_user], dim=1)
                weight = torch.cat([weight, weight.new_full((by_user.shape[1],), log(hard_weight))])
            log_weight, own = self.anchor.new_zeros(len(candidates.item)), self.anchor.new_zeros(len(self.user))
            if frequency is not None:
                log_weight, own = -frequency.log_share(candidates.item), -frequency.log_share(self.positive_item)
        return Contrast(self.anchor, self.positive, own, candidates.aligned, log_weight, exceptions, weight)


def matches(left: Tensor, right: Tensor) -> Tensor:
    """int64 [2, C]: the places in ``left`` [N] and ``right`` [M] that hold the same number, without comparing all N x M."""
    ordered, order = right.sort()
    first = torch.searchsorted(ordered, left)
    num = torch.searchsorted(ordered, left, right=True) - first
    row = torch.arange(len(left), device=left.device).repeat_interleave(num)
    nth = torch.arange(len(row), device=left.device) - (num.cumsum(0) - num)[row]
    return torch.stack([row, order[first[row] + nth]])


class CrossDomainContrast(nn.Module):
    """Draws pairs and scores them against everything else in the step: from both sides for InfoNCE, else from the source's."""

    def __init__(self, section: ContrastSection, shares_ids: bool = False) -> None:
        """``shares_ids``: whether one id means one item in both domains."""
        super().__init__()
        self.section, self.shares_ids = section, shares_ids
        self.across_ranks = AcrossRanks() if section.negatives == "all_ranks" else nn.Identity()
        popularity = section.popularity_correction
        self.target_frequency = ItemFrequency(section.frequency_buckets, section.frequency_steps) if popularity else None
        self.source_frequency = ItemFrequency(section.frequency_buckets, section.frequency_steps) if popularity else None

    def forward(self, targets: TargetEvents, aligned_rows: Tensor, view: HistoryView, batch: Batch) -> Tensor:
        """Row loss float32 [B]: the mean over a row's pairs, 0 for rows without one.

        A mean over rows, not over pairs, so that the loop's normalisation makes R ranks equal to one (our choice).

        Args:
            aligned_rows: [U, E] of the source's items. view: the source's history, with ages.
        """
        section, user = self.section, batch.group
        places, valid = draw_before(
            view.sequence,
            targets.age_s,
            section.num_pairs,
            section.partner_events,
            section.window_s,
            section.pair_side,
            section.random_pairs,
        )
        num_rows, num_targets, num_sources = places.shape
        valid = (valid & targets.is_positive[:, :, None]).flatten()  # [B * T * P]
        places = places.flatten(1)
        source_item = view.sequence.items.gather(1, places).flatten()
        source = gathered(aligned_rows, view.inverse.gather(1, places)).flatten(0, 1)
        event = torch.arange(num_rows * num_targets, device=user.device).repeat_interleave(num_sources)
        row = event // num_targets

        # Every rank gathers equally often, whatever its rows are.
        target, target_item = targets.aligned.flatten(0, 1), targets.item.flatten()
        of_target = user.repeat_interleave(num_targets)
        offered = Candidates(target, target_item, of_target, targets.is_positive.flatten()).where(targets.is_present.flatten())
        offered = offered.across(self.across_ranks)
        sources = Candidates(source, source_item, user[row], valid).where(valid).across(self.across_ranks)
        if self.target_frequency is not None and self.source_frequency is not None:
            self.target_frequency.add(offered.item)
            self.source_frequency.add(sources.item)

        chosen = valid.nonzero()[:, 0]  # N pairs
        event, row = event[chosen], row[chosen]
        pairs = Pairs(source[chosen], source_item[chosen], target[event], target_item[event], user[row])
        to_target = pairs.against(offered, self.target_frequency, section.hard_negative_weight, self.shares_ids)
        if targets.passed_over is not None and targets.passed_over_item is not None:
            own = targets.passed_over[row]
            weight = own.new_full((len(own),), log(section.hard_negative_weight))
            if self.target_frequency is not None:
                # On the scale of the other negatives, which it would vanish beside.
                weight = weight - self.target_frequency.log_share(targets.passed_over_item[row])
            # An item passed over once and taken later is no negative of itself.
            weight = weight.masked_fill(~own.detach().any(dim=1) | (targets.passed_over_item[row] == pairs.positive_item), NEVER)
            to_target = replace(to_target, own=own, own_log_weight=weight)
        if section.form == "margin":
            loss = margin_pairs(to_target, section.margin)
        elif section.form == "triplet":
            loss = triplets(to_target, section.margin)
        else:
            to_source = pairs.swapped().against(sources, self.source_frequency, 1.0, self.shares_ids)
            loss = 0.5 * (info_nce(to_target, section.temperature) + info_nce(to_source, section.temperature))
        num_pairs = valid.view(num_rows, -1).sum(1).clamp(min=1)
        return loss.new_zeros(num_rows).index_add(0, row, loss / num_pairs[row])
