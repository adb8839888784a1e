"""The three contrastive losses by hand, what counts as a negative, and gradients against finite differences."""

from dataclasses import replace
from math import exp, log, sqrt

import pytest
import torch
from torch.autograd import gradcheck

from raytrain.models.lcn.contrast import NEVER, Contrast, info_nce, margin_pairs, triplets

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def contrast() -> Contrast:
    """One anchor to the east whose positive lies north; candidates east, north and west."""
    return Contrast(
        anchors=torch.tensor([EAST]),
        positives=torch.tensor([NORTH]),
        positive_log_weight=torch.zeros(1),
        candidates=torch.tensor([EAST, NORTH, WEST]),
        log_weight=torch.tensor([[0.0, NEVER, 0.0]]),
    )


def test_info_nce_by_hand() -> None:
    # Scores over T = 0.5: positive 0, negatives 2 and -2.
    assert info_nce(contrast(), 0.5).item() == pytest.approx(log(1 + exp(2) + exp(-2)))


def test_popularity_is_taken_from_the_scores() -> None:
    biased = replace(contrast(), positive_log_weight=-torch.tensor([log(0.5)]), log_weight=torch.tensor([[log(4), NEVER, log(4)]]))
    expected = -log(2 / (2 + 4 * exp(2) + 4 * exp(-2)))
    assert info_nce(biased, 0.5).item() == pytest.approx(expected, rel=1e-5)


def test_margin_by_hand() -> None:
    # D^2 = 2 of the pair; the negatives lie 0 and 2 away, so the margin of 1 is broken by 1 and by nothing.
    assert margin_pairs(contrast(), 1.0).item() == pytest.approx(2 + (1 + 0) / 2, abs=2e-3)


def test_triplet_by_hand() -> None:
    # D+ = sqrt 2, D- = 0 and 2.
    assert triplets(contrast(), 0.2).item() == pytest.approx((sqrt(2) + 0.2 + 0) / 2, abs=1e-3)


@pytest.mark.parametrize("loss", [info_nce, margin_pairs, triplets])
def test_an_own_negative_is_one_more_candidate(loss) -> None:
    own = replace(contrast(), log_weight=torch.tensor([[0.0, NEVER, NEVER]]), own=torch.tensor([WEST]), own_log_weight=torch.zeros(1))
    assert loss(own, 0.5).item() == pytest.approx(loss(contrast(), 0.5).item())
    nothing = replace(own, own_log_weight=torch.tensor([NEVER]))
    assert loss(nothing, 0.5).item() == pytest.approx(loss(replace(own, own=None), 0.5).item())


def test_a_weight_counts_a_negative_that_often() -> None:
    twice = replace(contrast(), candidates=torch.tensor([EAST, NORTH, WEST, EAST]), log_weight=torch.tensor([[0.0, NEVER, 0.0, 0.0]]))
    weighted = replace(contrast(), log_weight=torch.tensor([[log(2), NEVER, 0.0]]))
    for loss in (info_nce, margin_pairs, triplets):
        assert loss(weighted, 0.5).item() == pytest.approx(loss(twice, 0.5).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [info_nce, margin_pairs, triplets])
def test_without_negatives_nothing_is_pushed_away(loss) -> None:
    alone = replace(contrast(), log_weight=torch.full((1, 3), NEVER), anchors=torch.tensor([NORTH]).requires_grad_())
    found = loss(alone, 0.5)
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    found.sum().backward()
    assert alone.anchors.grad.isfinite().all()


@pytest.mark.parametrize("loss", [info_nce, margin_pairs, triplets])
def test_gradients_equal_finite_differences(loss) -> None:
    torch.manual_seed(0)
    vectors = [torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((4, 3), (4, 3), (5, 3), (4, 3))]
    mask = torch.rand(4, 5) > 0.3

    def value(anchors: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        unit = [torch.nn.functional.normalize(part, dim=1) for part in (anchors, positives, candidates, own)]
        zeros = torch.zeros(4, dtype=torch.float64)
        log_weight = torch.zeros(4, 5, dtype=torch.float64).masked_fill(~mask, NEVER)
        return loss(Contrast(unit[0], unit[1], zeros, unit[2], log_weight, own=unit[3], own_log_weight=zeros), 0.7)

    assert gradcheck(value, vectors)
