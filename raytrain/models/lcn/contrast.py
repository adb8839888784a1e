"""The contrastive losses: a pair's two items near each other, other items away.

Shapes: N pairs, M candidates for a negative, E size of an aligned vector.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NEVER = -1e30
"""Log weight of what is no negative; finite, so that an anchor without any negative has a gradient of 0 and not NaN."""


@dataclass(frozen=True)
class Contrast:
    """N anchors, the item each belongs to, and what it is to be told from. Vectors are of length one."""

    anchors: Tensor
    """float32 [N, E]"""
    positives: Tensor
    """float32 [N, E]"""
    positive_log_weight: Tensor
    """float32 [N]: minus the log of how often the item is drawn (logQ), or zeros"""
    candidates: Tensor
    """float32 [M, E]"""
    log_weight: Tensor
    """float32 [N, M], likewise, plus the log of a hard negative's weight; ``NEVER`` on collisions and padding"""
    own: Tensor | None = None
    """float32 [N, E]: a negative of each anchor alone"""
    own_log_weight: Tensor | None = None
    """float32 [N], with ``own``; ``NEVER`` where an anchor has none"""


def info_nce(contrast: Contrast, temperature: float) -> Tensor:
    """[N]: -log of the positive's share in softmax(z_i . z_j / T - log q_j) (van den Oord et al., arXiv 1807.03748; in-batch
    negatives corrected by how often they are drawn: Yi et al., RecSys 2019). 0 for an anchor without negatives."""
    anchors = contrast.anchors / temperature
    positive = (anchors * contrast.positives).sum(1) + contrast.positive_log_weight
    everything = torch.logaddexp(torch.logsumexp(torch.addmm(contrast.log_weight, anchors, contrast.candidates.t()), dim=1), positive)
    if contrast.own is not None and contrast.own_log_weight is not None:
        everything = torch.logaddexp(everything, (anchors * contrast.own).sum(1) + contrast.own_log_weight)
    return everything - positive


def margin_pairs(contrast: Contrast, margin: float) -> Tensor:
    """[N]: D^2 of the pair plus the mean over negatives of max(0, margin - D)^2 (Hadsell et al., CVPR 2006)."""
    positive = (contrast.anchors * contrast.positives).sum(1)
    return (2.0 - 2.0 * positive) + _mean_of_negatives(contrast, lambda product: (margin - _distance(product)).clamp(min=0.0).square())


def triplets(contrast: Contrast, margin: float) -> Tensor:
    """[N]: mean over negatives of max(0, D(i, j+) - D(i, j-) + margin) (Schroff et al., CVPR 2015)."""
    reach = (_distance((contrast.anchors * contrast.positives).sum(1)) + margin)[:, None]
    return _mean_of_negatives(contrast, lambda product: (reach - _distance(product)).clamp(min=0.0))


def _distance(product: Tensor) -> Tensor:
    """Euclidean distance of two vectors of length one with this dot product."""
    # The root's slope at 0 is infinite, and rounding gives -1e-7.
    return (2.0 - 2.0 * product).clamp(min=1e-6).sqrt()


def _mean_of_negatives(contrast: Contrast, push: Callable[[Tensor], Tensor]) -> Tensor:
    """[N]: the mean of ``push`` of each negative's dot product [N, M], weighted as a softmax weighs them."""
    weight = contrast.log_weight.exp()
    total, num = (push(contrast.anchors @ contrast.candidates.t()) * weight).sum(1), weight.sum(1)
    if contrast.own is not None and contrast.own_log_weight is not None:
        own_weight = contrast.own_log_weight.exp()
        own = push((contrast.anchors * contrast.own).sum(1, keepdim=True))[:, 0]
        total, num = total + own * own_weight, num + own_weight
    return total / num.clamp(min=torch.finfo(num.dtype).tiny)
