"""Ordinal classification of an amount: the probabilities of exceeding each threshold, in order by construction.

ADSNet (arXiv 2406.10517) models the cumulative distribution over sub-distributions of the value; the two forms are our choice.
Thresholds c_0 = 0 < ... < c_{K-1} make K + 1 classes: {0}, (c_0, c_1], ..., (c_{K-1}, infinity).

Shapes: B rows, K thresholds, H hidden units.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid, softplus


class ContinuationRatio(nn.Module):
    """P(y > c_k | y > c_{k-1}) = sigmoid(z_k), so P(y > c_k) is a product of probabilities."""

    def __init__(self, num_inputs: int, num_thresholds: int) -> None:
        super().__init__()
        self.output = nn.Linear(num_inputs, num_thresholds)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, H] -> logits [B, K]."""
        logits: Tensor = self.output(hidden)
        return logits

    def survival(self, logits: Tensor) -> Tensor:
        """P(y > c_k), [B, K]."""
        return logsigmoid(logits).cumsum(1).exp()

    def row_loss(self, logits: Tensor, exceeds: Tensor) -> Tensor:
        """Exact negative log likelihood of each row's class, [B]. ``exceeds`` bool [B, K] is y > c_k."""
        # A term counts where the row came that far; what follows the first threshold that it does not exceed is unknown.
        reached = torch.cat([torch.ones_like(exceeds[:, :1]), exceeds[:, :-1]], dim=1)
        terms = binary_cross_entropy_with_logits(logits, exceeds.to(logits.dtype), reduction="none")
        return (terms * reached).sum(1)


class Coral(nn.Module):
    """P(y > c_k) = sigmoid(w h + b_k) with falling b (Cao et al., Pattern Recognition Letters 2020); all K terms count."""

    def __init__(self, num_inputs: int, num_thresholds: int) -> None:
        super().__init__()
        self.output = nn.Linear(num_inputs, 1)
        self.gap = nn.Parameter(torch.zeros(num_thresholds - 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, H] -> logits [B, K]."""
        falling = torch.cat([self.gap.new_zeros(1), -softplus(self.gap).cumsum(0)])
        logits: Tensor = self.output(hidden) + falling
        return logits

    def survival(self, logits: Tensor) -> Tensor:
        """P(y > c_k), [B, K]."""
        return torch.sigmoid(logits)

    def row_loss(self, logits: Tensor, exceeds: Tensor) -> Tensor:
        """Sum of the K binary cross-entropies, [B]. ``exceeds`` bool [B, K] is y > c_k."""
        return binary_cross_entropy_with_logits(logits, exceeds.to(logits.dtype), reduction="none").sum(1)


def class_masses(survival: Tensor) -> Tensor:
    """P(y > c_k) [B, K], falling in k -> the probabilities of the K + 1 classes: 0 or more, of sum 1."""
    one, zero = torch.ones_like(survival[:, :1]), torch.zeros_like(survival[:, :1])
    return torch.cat([one, survival], dim=1) - torch.cat([survival, zero], dim=1)
