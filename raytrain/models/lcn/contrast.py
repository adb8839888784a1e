"""The contrastive losses: a pair's two items near each other, other items away.

Shapes: N pairs, M candidates for a negative, E size of an aligned vector.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Contrast:
    """N anchors, the item each belongs to, and what it is to be told from. Vectors are of length one."""

    anchors: Tensor
    """float32 [N, E]"""
    positives: Tensor
    """float32 [N, E]"""
    candidates: Tensor
    """float32 [M, E]"""
    is_negative: Tensor
    """bool [N, M]; false on collisions and padding"""
    positive_bias: Tensor
    """float32 [N], subtracted from the score: the log of how often the item is drawn (logQ), or zeros"""
    candidate_bias: Tensor
    """float32 [M] or [N, M], likewise; a negative of weight w has its log subtracted from this"""
    own: Tensor | None = None
    """float32 [N, E]: a negative of each anchor alone; zeros where it has none"""
    own_bias: float = 0.0

    def products(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Dot products with the positive [N], with every negative [N, M], their bias, and which of them count, both [N, M].

        With own negatives there is a column more of each.
        """
        positive = (self.anchors * self.positives).sum(1)
        negative = self.anchors @ self.candidates.t()
        bias, counts = self.candidate_bias.expand_as(negative), self.is_negative
        if self.own is not None:
            negative = torch.cat([negative, (self.anchors * self.own).sum(1, keepdim=True)], dim=1)
            bias = torch.cat([bias, bias.new_full((len(bias), 1), self.own_bias)], dim=1)
            counts = torch.cat([counts, self.own.any(dim=1, keepdim=True)], dim=1)
        return positive, negative, bias, counts


def info_nce(contrast: Contrast, temperature: float) -> Tensor:
    """[N]: -log of the positive's share in softmax(z_i . z_j / T - log q_j) (van den Oord et al., arXiv 1807.03748; in-batch
    negatives corrected by how often they are drawn: Yi et al., RecSys 2019). 0 for an anchor without negatives."""
    positive, negative, bias, counts = contrast.products()
    positive = positive / temperature - contrast.positive_bias
    scores = (negative / temperature - bias).masked_fill(~counts, -torch.inf)
    return torch.logsumexp(torch.cat([positive[:, None], scores], dim=1), dim=1) - positive


def margin_pairs(contrast: Contrast, margin: float) -> Tensor:
    """[N]: D^2 of the pair plus the mean over negatives of max(0, margin - D)^2 (Hadsell et al., CVPR 2006)."""
    positive, negative, bias, counts = contrast.products()
    pushed = (margin - _distance(negative)).clamp(min=0.0).square()
    return (2.0 - 2.0 * positive) + _mean_of_negatives(pushed, bias, counts)


def triplets(contrast: Contrast, margin: float) -> Tensor:
    """[N]: mean over negatives of max(0, D(i, j+) - D(i, j-) + margin) (Schroff et al., CVPR 2015)."""
    positive, negative, bias, counts = contrast.products()
    pushed = (_distance(positive)[:, None] - _distance(negative) + margin).clamp(min=0.0)
    return _mean_of_negatives(pushed, bias, counts)


def _distance(product: Tensor) -> Tensor:
    """Euclidean distance of two vectors of length one with this dot product."""
    # The root's slope at 0 is infinite, and rounding gives -1e-7.
    return (2.0 - 2.0 * product).clamp(min=1e-6).sqrt()


def _mean_of_negatives(values: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    """[N, M] -> [N], weighted by exp(-bias), as a softmax weighs them."""
    weight = torch.exp(-bias) * counts
    return (values * weight).sum(1) / weight.sum(1).clamp(min=torch.finfo(weight.dtype).tiny)
