"""The amount inside each class of paying rows, and its loss (our choice: ADSNet gives no equations).

Shapes: B rows, K thresholds, which are also the K classes above 0; H hidden units.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import huber_loss, softplus


class AmountTower(nn.Module):
    """m_k = c_{k-1} + (c_k - c_{k-1}) sigmoid(a_k); the last class is open: m_K = c_{K-1} + tail_excess softplus(a_K)."""

    lower: Tensor
    width: Tensor

    def __init__(self, num_inputs: int, thresholds: Tensor, tail_excess: float) -> None:
        """``thresholds`` [K] from 0 on; ``tail_excess`` is the mean excess of training labels over the last."""
        super().__init__()
        self.output = nn.Linear(num_inputs, len(thresholds))
        self.register_buffer("lower", thresholds.clone())
        self.register_buffer("width", torch.cat([thresholds.diff(), thresholds.new_tensor([tail_excess])]))

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, H] -> amounts of the K classes, [B, K]."""
        scores = self.output(hidden)
        inside = torch.cat([torch.sigmoid(scores[:, :-1]), softplus(scores[:, -1:])], dim=1)
        return self.lower + self.width * inside


def amount_loss(amounts: Tensor, label: Tensor, exceeds: Tensor) -> Tensor:
    """Huber loss of the true class's amount, both in log1p, [B]; 0 where y = 0.

    Args:
        amounts: [B, K]. label: [B]. exceeds: bool [B, K], y > c_k.
    """
    true_class = exceeds.sum(1)  # 0 is {0}
    chosen = amounts.gather(1, (true_class - 1).clamp(min=0)[:, None])[:, 0]
    return log_huber(chosen, label) * (true_class > 0)


def log_huber(predicted: Tensor, label: Tensor) -> Tensor:
    """Huber loss (delta 1) of two amounts in log1p, elementwise."""
    return huber_loss(torch.log1p(predicted), torch.log1p(label), reduction="none")
