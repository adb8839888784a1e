"""Slices of a logistic task, some of which have flipped labels: the smallest world in which transfer can hurt.

20 dense features, 400 internal rows of which 100 are the probe, 20 external slices of 400 rows, half of the slices harmful.
"""

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.backbone import BackboneInputs
from raytrain.models.adsnet.gain.judge import GainJudge
from raytrain.models.adsnet.gain.rows import JudgedRows, one_rank

DIM, NUM_SLICES, ROWS_PER_SLICE, NUM_PROBES = 20, 20, 400, 100
INTERNAL_ROWS, EXTERNAL_ROWS, LR = 64, 256, 0.1


@dataclass(frozen=True)
class Outcome:
    judge: GainJudge
    is_harmful: Tensor
    """bool [S]"""
    harmful_share: float
    """Of the rows accepted in the second half of training"""
    test_auc: float


class LogisticHead(nn.Module):
    """A network that is all tower."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(DIM))

    def forward(self, tower_inputs: Tensor, label: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(tower_inputs @ self.weight, label, reduction="none")


def train_toy(
    seed: int, section: GainSection, purity: float = 1.0, num_steps: int = 300, harmful_share: float = 0.5, signal: float = 1.0
) -> Outcome:
    """Trains on shuffled batches in which all slices mix, after 100 steps on internal rows alone."""
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randn(DIM, generator=draw) * 0.5 * signal

    def rows(num_rows: int) -> tuple[Tensor, Tensor]:
        features = torch.randn(num_rows, DIM, generator=draw)
        return features, (torch.rand(num_rows, generator=draw) < torch.sigmoid(features @ truth)).float()

    features, label = rows(400)
    probe = judged(features[:NUM_PROBES], label[:NUM_PROBES])
    features, label = features[NUM_PROBES:], label[NUM_PROBES:]
    external, external_label = rows(NUM_SLICES * ROWS_PER_SLICE)
    slices = torch.arange(NUM_SLICES).repeat_interleave(ROWS_PER_SLICE)
    is_harmful = torch.arange(NUM_SLICES) < harmful_share * NUM_SLICES
    typical = torch.rand(len(slices), generator=draw) < purity
    flipped = is_harmful[slices] == typical
    external_label = torch.where(flipped, 1.0 - external_label, external_label)
    test, test_label = rows(4000)

    head = LogisticHead()
    pair = SimpleNamespace(gain=SimpleNamespace(head=head))
    judge = GainJudge(section, NUM_SLICES)
    optimizer = torch.optim.SGD(head.parameters(), lr=LR)
    harmful = accepted_rows = 0.0
    for step in range(-100, num_steps):
        own = torch.randint(0, len(features), (INTERNAL_ROWS,), generator=draw)
        loss = head(features[own], label[own]).mean()
        if step >= 0:
            other = torch.randint(0, len(slices), (EXTERNAL_ROWS,), generator=draw)
            batch = judged(
                torch.cat([features[own], external[other]]), torch.cat([label[own], external_label[other]]), slices[other], other % 2
            )
            accepted = judge.weigh(pair, batch, probe, one_rank)[INTERNAL_ROWS:]
            loss = loss + (head(external[other], external_label[other]) * accepted).mean()
            if step >= num_steps // 2:
                harmful, accepted_rows = harmful + float(accepted[flipped[other]].sum()), accepted_rows + float(accepted.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Outcome(judge, is_harmful, harmful / max(1.0, accepted_rows), auc(test @ head.weight.detach(), test_label > 0))


def judged(features: Tensor, label: Tensor, slices: Tensor | None = None, fold: Tensor | None = None) -> JudgedRows:
    """Internal rows, then the external ones that ``slices`` and ``fold`` are of."""
    num_internal = len(label) - (0 if slices is None else len(slices))
    internal = torch.zeros(num_internal, dtype=torch.int64)
    unused = BackboneInputs(features[:, None], features[:, :0])
    return JudgedRows(
        label=label,
        weight=torch.ones_like(label),
        is_external=torch.arange(len(label)) >= num_internal,
        slice=internal if slices is None else torch.cat([internal, slices]),
        fold=internal if fold is None else torch.cat([internal, fold]),
        vanilla_inputs=unused,
        gain_inputs=unused,
        tower_inputs=features,
    )


def auc(score: Tensor, positive: Tensor) -> float:
    """Share of (positive, negative) pairs in the right order, ties counting half."""
    above, below = score[positive][:, None], score[~positive][None, :]
    return float(((above > below).double() + 0.5 * (above == below).double()).mean())
