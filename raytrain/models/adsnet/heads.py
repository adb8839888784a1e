"""The towers: a pure function of cached tower inputs, so that a gain can be differentiated by their parameters alone.

Every head maps tower inputs to last hidden layers, and those to a loss a row and to predictions. No batch norm, and no randomness
below the towers: a row's loss in evaluation mode depends on nothing but its own tower inputs.

Shapes: B rows, T tasks, E size of a tower input, H hidden units, K thresholds.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from raytrain.adsnet_config import BackboneSection, HeadSection
from raytrain.models.adsnet.amount import AmountTower, amount_loss, log_huber
from raytrain.models.adsnet.label_stats import LabelStats
from raytrain.models.adsnet.ordinal import ContinuationRatio, Coral, class_masses

_MIN_SIGMA, _MAX_SIGMA = 0.01, 5.0
_MAX_LOG_AMOUNT = 20.0
"""Predictions end at e^20 = 4.9e8, in whatever currency; a first step's overflow would be the last."""


class Head(nn.Module, ABC):
    """T towers of hidden layers; what they predict is up to the heads below."""

    num_tasks: ClassVar[int]

    def __init__(self, backbone: BackboneSection, num_inputs: int) -> None:
        super().__init__()
        units = backbone.tower_units
        self.num_hidden = units[-1]
        self.towers = nn.ModuleList()
        for _ in range(self.num_tasks):
            layers: list[nn.Module] = []
            for width, wider in zip(units, (num_inputs, *units), strict=False):
                layers += [nn.Linear(wider, width), nn.ReLU(), nn.Dropout(backbone.dropout)]
            self.towers.append(nn.Sequential(*layers))

    def hidden(self, tower_inputs: Tensor) -> Tensor:
        """[B, T, E] -> each tower's last hidden layer, [B, T, H]."""
        return torch.stack([tower(tower_inputs[:, task]) for task, tower in enumerate(self.towers)], dim=1)

    def forward(self, tower_inputs: Tensor, label: Tensor) -> Tensor:
        """Each row's loss, [B], as a function of tower inputs [B, T, E] and this module's parameters."""
        return self.row_loss(self.hidden(tower_inputs), label)

    @abstractmethod
    def row_loss(self, hidden: Tensor, label: Tensor) -> Tensor:
        """hidden [B, T, H], label [B] -> [B], unweighted, nothing averaged."""

    @abstractmethod
    def predict(self, hidden: Tensor) -> dict[str, Tensor]:
        """hidden [B, T, H] -> [B] each: "ltv" in units of the label and "pay", a probability; or "click"."""


class OrdinalHead(Head):
    """Class probabilities and an amount for each class; their product is the value (multi-granularity prediction).

    L = NLL of the class + alpha / pay_share 1[y > 0] Huber(amount of the true class) + beta Huber(predicted value), both Huber terms
    in log1p. Dividing by the payers' share makes the amount's mean one over payers, and yet a sum over rows.
    """

    num_tasks = 2
    thresholds: Tensor

    def __init__(self, backbone: BackboneSection, section: HeadSection, num_inputs: int, stats: LabelStats) -> None:
        super().__init__(backbone, num_inputs)
        self.section, self.pay_share = section, stats.pay_share
        thresholds = torch.tensor(stats.thresholds)
        self.register_buffer("thresholds", thresholds)
        form = ContinuationRatio if section.ordinal == "continuation" else Coral
        self.ordinal = form(self.num_hidden, len(thresholds))
        self.amount = AmountTower(self.num_hidden, thresholds, stats.tail_excess)

    def row_loss(self, hidden: Tensor, label: Tensor) -> Tensor:
        exceeds = label[:, None] > self.thresholds
        logits, amounts = self.ordinal(hidden[:, 0]), self.amount(hidden[:, 1])
        loss: Tensor = self.ordinal.row_loss(logits, exceeds)
        loss = loss + self.section.amount_weight / self.pay_share * amount_loss(amounts, label, exceeds)
        if self.section.blend_weight:
            survival = self.ordinal.survival(logits)
            masses = class_masses(survival.detach() if self.section.detach_masses else survival)
            loss = loss + self.section.blend_weight * log_huber((masses[:, 1:] * amounts).sum(1), label)
        return loss

    def predict(self, hidden: Tensor) -> dict[str, Tensor]:
        survival = self.ordinal.survival(self.ordinal(hidden[:, 0]))
        value = (class_masses(survival)[:, 1:] * self.amount(hidden[:, 1])).sum(1)
        return {"ltv": value, "pay": survival[:, 0]}


class ZilnHead(Head):
    """Zero-inflated lognormal (Wang et al., arXiv 1912.07753); sigma and the exponent are clamped, the bounds are ours."""

    num_tasks = 2

    def __init__(self, backbone: BackboneSection, num_inputs: int) -> None:
        super().__init__(backbone, num_inputs)
        self.pay, self.amount = nn.Linear(self.num_hidden, 1), nn.Linear(self.num_hidden, 2)

    def row_loss(self, hidden: Tensor, label: Tensor) -> Tensor:
        paid = label > 0
        loss = binary_cross_entropy_with_logits(self.pay(hidden[:, 0])[:, 0], paid.to(hidden.dtype), reduction="none")
        mu, sigma = self._lognormal(hidden)
        log_label = torch.log(torch.where(paid, label, 1.0))
        surprise = log_label + torch.log(sigma) + 0.5 * math.log(2 * math.pi) + 0.5 * ((log_label - mu) / sigma).square()
        # As published the amount's mean is over all rows, payers or not.
        return loss + paid * surprise

    def predict(self, hidden: Tensor) -> dict[str, Tensor]:
        pay = torch.sigmoid(self.pay(hidden[:, 0])[:, 0])
        mu, sigma = self._lognormal(hidden)
        return {"ltv": pay * torch.exp((mu + 0.5 * sigma.square()).clamp(max=_MAX_LOG_AMOUNT)), "pay": pay}

    def _lognormal(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        mu, scale = self.amount(hidden[:, 1]).unbind(1)
        return mu, softplus(scale).clamp(_MIN_SIGMA, _MAX_SIGMA)


class MseHead(Head):
    """Plain regression; it knows no probability of paying, so it predicts "ltv" alone."""

    num_tasks = 1

    def __init__(self, backbone: BackboneSection, section: HeadSection, num_inputs: int, stats: LabelStats) -> None:
        super().__init__(backbone, num_inputs)
        self.in_logs, self.mean_paid = section.target == "log1p", stats.mean_paid
        self.output = nn.Linear(self.num_hidden, 1)

    def row_loss(self, hidden: Tensor, label: Tensor) -> Tensor:
        target = torch.log1p(label) if self.in_logs else label / self.mean_paid
        loss: Tensor = (self.output(hidden[:, 0])[:, 0] - target).square()
        return loss

    def predict(self, hidden: Tensor) -> dict[str, Tensor]:
        score = self.output(hidden[:, 0])[:, 0].clamp(min=0.0)
        return {"ltv": torch.expm1(score.clamp(max=_MAX_LOG_AMOUNT)) if self.in_logs else score * self.mean_paid}


class ClickHead(Head):
    """Binary cross-entropy, for CTR and CVR."""

    num_tasks = 1

    def __init__(self, backbone: BackboneSection, num_inputs: int) -> None:
        super().__init__(backbone, num_inputs)
        self.output = nn.Linear(self.num_hidden, 1)

    def row_loss(self, hidden: Tensor, label: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(self.output(hidden[:, 0])[:, 0], label, reduction="none")

    def predict(self, hidden: Tensor) -> dict[str, Tensor]:
        return {"click": torch.sigmoid(self.output(hidden[:, 0])[:, 0])}


HEAD_TASKS = {"ordinal": OrdinalHead.num_tasks, "ziln": ZilnHead.num_tasks, "mse": MseHead.num_tasks, "click": ClickHead.num_tasks}


def build_head(backbone: BackboneSection, section: HeadSection, num_inputs: int, stats: LabelStats | None) -> Head:
    """The head that ``section.kind`` names; ``stats`` may be None for a click."""
    if section.kind == "click":
        return ClickHead(backbone, num_inputs)
    if section.kind == "ziln":
        return ZilnHead(backbone, num_inputs)
    assert stats is not None, "amounts need the statistics of the internal training labels"
    return OrdinalHead(backbone, section, num_inputs, stats) if section.kind == "ordinal" else MseHead(backbone, section, num_inputs, stats)
