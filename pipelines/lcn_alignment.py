"""Do items of two domains that belong together lie together? Before the contrastive projection, and after it.

Before: rows of the embedding table, scaled to length one. After: each domain's projection of them, which the complete scope scores
with. Shapes: S items of the source, T of the target, N and M vectors, E their size; vectors have length one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pipelines.discrepancy import discrepancy, some
from pipelines.lcn_partners import Partners
from pipelines.lcn_run import LcnRun, interest_of

TOP = (10, 50)
"""k of recall@k"""


@dataclass(frozen=True)
class DomainVectors:
    """Vectors of the items of ``Partners``."""

    source: Tensor
    """float32 [S, E]"""
    target: Tensor
    """float32 [T, E]"""


@torch.no_grad()
def vectors_of(run: LcnRun, source: str, found: Partners) -> dict[str, DomainVectors]:
    """``before`` and ``after`` the projection."""
    align = interest_of(run.learner).align
    of_source, of_target = (run.item_rows[torch.from_numpy(domain.items)] for domain in (found.source, found.target))
    return {
        "before": DomainVectors(normalize(of_source, dim=1), normalize(of_target, dim=1)),
        "after": DomainVectors(align(source, of_source), align(run.contract.target, of_target)),
    }


def rankings(run: LcnRun, vectors: Mapping[str, DomainVectors], found: Partners) -> dict[str, Tensor]:
    """How to rank the target's items for each of the source's: float [S, T], the higher the nearer.

    ``after_with_popularity`` is the score whose softmax InfoNCE trains: with logQ correction cosine / temperature stands for a
    partner's share of users over its popularity, so popularity is put back. ``best`` knows the answer and bounds the others.
    """
    popularity = torch.from_numpy(found.target.num_trained).double()[None].expand(found.shared_users.shape)
    scores = {name: (domain.source @ domain.target.t()).double() for name, domain in vectors.items()}
    contrast = run.model.contrast
    if "after" in scores and contrast.weight and contrast.form == "infonce" and contrast.popularity_correction:
        scores["after_with_popularity"] = scores["after"] / contrast.temperature + popularity.clamp(min=0.5).log()
    return scores | {"popularity": popularity, "best": torch.from_numpy(found.shared_users)}


def recall_at(scores: Tensor, shared_users: Tensor, num_top: int) -> float:
    """Of an item's pairs (user, partner) the share whose partner is among the ``num_top`` that score highest; a mean over the
    items that have partners, NaN without any.

    Args:
        scores: [S, T], -inf where an item must not be chosen. shared_users: [S, T].
    """
    total = shared_users.sum(1)
    has_partners = total > 0
    best = scores.topk(min(num_top, scores.shape[1]), dim=1)
    found = (shared_users.gather(1, best.indices) * (best.values > -torch.inf)).sum(1)
    return float((found[has_partners] / total[has_partners]).mean())


def recall_of_partners(scores: Tensor, is_partner: Tensor, num_top: int) -> float:
    """Share of an item's partners among the ``num_top`` that score highest, of the most that fit there: |found| /
    min(num_top, |partners|); a mean over items with partners, NaN without any. is_partner: bool [S, T]."""
    total = is_partner.sum(1)
    has_partners = total > 0
    best = scores.topk(min(num_top, scores.shape[1]), dim=1)
    found = (is_partner.gather(1, best.indices) & (best.values > -torch.inf)).sum(1)
    return float((found[has_partners] / total[has_partners].clamp(max=num_top)).double().mean())


def partner_recall(scores: Mapping[str, Tensor], found: Partners) -> dict[str, dict[str, float]]:
    """ranking -> {"co_liked@10", "beyond_chance@10", ...}, and ``random``: what a random order has on average, exactly.

    The best order of co-liked partners is not the best of those beyond chance, so ``best`` knows the one or the other.
    """
    same, shared = torch.from_numpy(found.is_same_item), torch.from_numpy(found.shared_users)
    beyond = torch.from_numpy(found.is_beyond_chance)
    recall: dict[str, dict[str, float]] = {}
    for name, score in scores.items():
        allowed = score.masked_fill(same, -torch.inf)
        of_beyond = beyond.double().masked_fill(same, -torch.inf) if name == "best" else allowed
        recall[name] = {f"co_liked@{num_top}": recall_at(allowed, shared, num_top) for num_top in TOP}
        recall[name] |= {f"beyond_chance@{num_top}": recall_of_partners(of_beyond, beyond, num_top) for num_top in TOP}
    num_candidates = (~same).sum(1).double()
    drawn = {num_top: (num_top / num_candidates).clamp(max=1.0) for num_top in TOP}
    num_partners = beyond.sum(1).double()
    has_any, has_beyond = shared.sum(1) > 0, num_partners > 0
    recall["random"] = {f"co_liked@{num_top}": float(share[has_any].mean()) for num_top, share in drawn.items()}
    recall["random"] |= {
        f"beyond_chance@{num_top}": float((share * num_partners / num_partners.clamp(max=num_top))[has_beyond].mean())
        for num_top, share in drawn.items()
    }
    return recall


def alignment(vectors: DomainVectors, weight: Tensor) -> float:
    """Mean squared distance of pairs, each counted ``weight`` times (float [S, T]): 0 is one point, 2 is orthogonal (Wang & Isola,
    ICML 2020, arXiv 2005.10242, alpha = 2)."""
    distance = 2.0 - 2.0 * (vectors.source @ vectors.target.t()).double()
    return float((distance * weight).sum() / weight.sum())


def chance_alignment(vectors: DomainVectors, weight: Tensor) -> float:
    """The same of pairs drawn independently, each item as often as it is in the weighted pairs."""
    of_source, of_target = weight.sum(1, keepdim=True), weight.sum(0, keepdim=True)
    return alignment(vectors, of_source * of_target)


def uniformity(vectors: Tensor) -> float:
    """log of the mean over pairs of different items of exp(-2 |x - y|^2), [N, E]: 0 if all are one point, the lower the more evenly
    they fill the sphere (Wang & Isola, t = 2)."""
    product = (vectors @ vectors.t()).double()
    gaussian = torch.exp(-4.0 + 4.0 * product)
    num = len(vectors)
    return float(((gaussian.sum() - gaussian.diagonal().sum()) / (num * (num - 1))).log())


def alignment_numbers(vectors: DomainVectors, found: Partners) -> dict[str, float]:
    """All of one space; pairs are partners beyond chance."""
    weight = torch.from_numpy(found.is_beyond_chance).double()
    co_liked = torch.from_numpy(found.shared_users)
    difference = discrepancy(some(vectors.source), some(vectors.target))
    return {
        "alignment_beyond_chance": alignment(vectors, weight),
        "alignment_beyond_chance_independent": chance_alignment(vectors, weight),
        "alignment_co_liked": alignment(vectors, co_liked),
        "alignment_co_liked_independent": chance_alignment(vectors, co_liked),
        "uniformity_source": uniformity(vectors.source),
        "uniformity_target": uniformity(vectors.target),
        "uniformity_both": uniformity(torch.cat([vectors.source, vectors.target])),
        "mmd_squared": difference.mmd_squared,
        "mmd_squared_by_chance": difference.by_chance,
    }
