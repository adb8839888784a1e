"""The contrastive losses: a pair's two items near each other, other items away.

Shapes: N pairs, M candidates for a negative, C exceptions, E size of an aligned vector.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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
    """float32 [M], likewise"""
    exceptions: Tensor = field(default_factory=lambda: torch.zeros(2, 0, dtype=torch.int64))
    """int64 [2, C]: anchors and the candidates that weigh otherwise for them; few, so that no mask [N, M] is built"""
    exception_log_weight: Tensor = field(default_factory=lambda: torch.zeros(0))
    """float32 [C], added, as often as a place is named: ``NEVER`` on collisions, the log of a hard negative's weight"""
    own: Tensor | None = None
    """float32 [N, E]: a negative of each anchor alone"""
    own_log_weight: Tensor | None = None
    """float32 [N], with ``own``; ``NEVER`` where an anchor has none"""


def info_nce(contrast: Contrast, temperature: float) -> Tensor:
    """[N]: -log of the positive's share in softmax(z_i . z_j / T - log q_j) (van den Oord et al., arXiv 1807.03748; in-batch
    negatives corrected by how often they are drawn: Yi et al., RecSys 2019). 0 for an anchor without negatives."""
    anchors = contrast.anchors / temperature
    positive = (anchors * contrast.positives).sum(1) + contrast.positive_log_weight
    everything: Tensor = _LogSumExpOfProducts.apply(  # type: ignore[no-untyped-call]
        anchors, contrast.candidates, contrast.log_weight, contrast.exceptions, contrast.exception_log_weight
    )
    everything = torch.logaddexp(everything, positive)
    if contrast.own is not None and contrast.own_log_weight is not None:
        everything = torch.logaddexp(everything, (anchors * contrast.own).sum(1) + contrast.own_log_weight)
    return everything - positive


class _LogSumExpOfProducts(torch.autograd.Function):
    """[N]: the log of the sum over candidates of exp(a . c + log weight).

    The products [N, M] are the largest tensor of a step: they are held once, changed in place, and never masked.
    """

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, candidates: Tensor, log_weight: Tensor, exceptions: Tensor, exception: Tensor) -> Tensor:
        # One more component instead of addmm(), which first copies the weights to all N x M places.
        left, right = torch.cat([anchors, anchors.new_ones(len(anchors), 1)], 1), torch.cat([candidates, log_weight[:, None]], 1)
        scores = _excepted(left @ right.t(), exceptions, exception)
        if not scores.numel():
            ctx.save_for_backward(anchors, candidates, scores, anchors.new_ones(len(anchors)))
            return anchors.new_full((len(anchors),), NEVER)
        highest = scores.amax(1, keepdim=True)
        powers = scores.sub_(highest).exp_()
        total = powers.sum(1)
        ctx.save_for_backward(anchors, candidates, powers, total)
        return total.log() + highest[:, 0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        anchors, candidates, powers, total = ctx.saved_tensors
        scale = (grads[0] / total)[:, None]
        return (powers @ candidates) * scale, powers.t() @ (anchors * scale), None, None, None


def _excepted(weights: Tensor, exceptions: Tensor, exception: Tensor) -> Tensor:
    """Adds to some places of contiguous [N, M], in place."""
    weights.view(-1).index_add_(0, exceptions[0] * weights.shape[1] + exceptions[1], exception.to(weights.dtype))
    return weights


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
    weight = contrast.log_weight.repeat(len(contrast.anchors), 1)
    weight = _excepted(weight, contrast.exceptions, contrast.exception_log_weight).exp()
    total, num = (push(contrast.anchors @ contrast.candidates.t()) * weight).sum(1), weight.sum(1)
    if contrast.own is not None and contrast.own_log_weight is not None:
        own_weight = contrast.own_log_weight.exp()
        own = push((contrast.anchors * contrast.own).sum(1, keepdim=True))[:, 0]
        total, num = total + own * own_weight, num + own_weight
    return total / num.clamp(min=torch.finfo(num.dtype).tiny)
