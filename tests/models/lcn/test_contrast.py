"""The three contrastive losses by hand, what counts as a negative, and gradients against finite differences."""

from dataclasses import replace
from math import exp, log, sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from raytrain.models.lcn.contrast import NEVER, Contrast, info_nce, margin_pairs, triplets
from raytrain.models.lcn.cross_domain_contrast import matches

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


def contrast() -> Contrast:
    """One anchor to the east whose positive lies north; candidates east, north and west."""
    return Contrast(
        anchors=torch.tensor([EAST]),
        positives=torch.tensor([NORTH]),
        positive_log_weight=torch.zeros(1),
        candidates=torch.tensor([EAST, NORTH, WEST]),
        log_weight=torch.zeros(3),
        **never((0, 1)),
    )


def never(*places: tuple[int, int]) -> dict[str, torch.Tensor]:
    return {
        "exceptions": torch.tensor(places, dtype=torch.int64).view(-1, 2).t(),
        "exception_log_weight": torch.full((len(places),), NEVER),
    }


def test_info_nce_by_hand() -> None:
    # Scores over T = 0.5: positive 0, negatives 2 and -2.
    assert info_nce(contrast(), 0.5).item() == pytest.approx(log(1 + exp(2) + exp(-2)))


def test_popularity_is_taken_from_the_scores() -> None:
    biased = replace(contrast(), positive_log_weight=-torch.tensor([log(0.5)]), log_weight=torch.full((3,), log(4)))
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
    own = replace(contrast(), **never((0, 1), (0, 2)), own=torch.tensor([WEST]), own_log_weight=torch.zeros(1))
    assert loss(own, 0.5).item() == pytest.approx(loss(contrast(), 0.5).item())
    nothing = replace(own, own_log_weight=torch.tensor([NEVER]))
    assert loss(nothing, 0.5).item() == pytest.approx(loss(replace(own, own=None), 0.5).item())


def test_a_weight_counts_a_negative_that_often() -> None:
    twice = replace(contrast(), candidates=torch.tensor([EAST, NORTH, WEST, EAST]), log_weight=torch.zeros(4))
    weighted = replace(contrast(), log_weight=torch.tensor([log(2), 0.0, 0.0]))
    places, values = torch.tensor([[0, 0, 0], [1, 0, 1]]), torch.tensor([NEVER, log(2), NEVER])
    for_this_anchor = replace(contrast(), exceptions=places, exception_log_weight=values)
    for loss in (info_nce, margin_pairs, triplets):
        expected = pytest.approx(loss(twice, 0.5).item(), rel=1e-5)
        assert loss(weighted, 0.5).item() == expected
        assert loss(for_this_anchor, 0.5).item() == expected


@pytest.mark.parametrize("loss", [info_nce, margin_pairs, triplets])
def test_without_negatives_nothing_is_pushed_away(loss) -> None:
    alone = replace(contrast(), **never((0, 0), (0, 1), (0, 2)), anchors=torch.tensor([NORTH]).requires_grad_())
    found = loss(alone, 0.5)
    assert found.item() == pytest.approx(0.0, abs=1e-6)
    found.sum().backward()
    assert alone.anchors.grad.isfinite().all()


@pytest.mark.parametrize("loss", [info_nce, margin_pairs, triplets])
def test_gradients_equal_finite_differences(loss) -> None:
    torch.manual_seed(0)
    vectors = [torch.randn(*shape, dtype=torch.float64).requires_grad_() for shape in ((4, 3), (4, 3), (5, 3), (4, 3))]
    places = (torch.rand(4, 5) > 0.7).nonzero().t()
    excepted = {"exceptions": places, "exception_log_weight": torch.full(places.shape[1:], NEVER, dtype=torch.float64)}

    def value(anchors: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        unit = [torch.nn.functional.normalize(part, dim=1) for part in (anchors, positives, candidates, own)]
        zeros = torch.zeros(4, dtype=torch.float64)
        log_weight = torch.linspace(-1, 1, 5, dtype=torch.float64)
        return loss(Contrast(unit[0], unit[1], zeros, unit[2], log_weight, **excepted, own=unit[3], own_log_weight=zeros), 0.7)

    assert gradcheck(value, vectors)


def test_no_pair_and_no_candidate_is_no_error() -> None:
    empty = Contrast(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0), torch.zeros(0, 2), torch.zeros(0))
    assert info_nce(empty, 0.5).shape == (0,)
    lonely = replace(contrast(), anchors=torch.tensor([EAST]).requires_grad_(), candidates=torch.zeros(0, 2), log_weight=torch.zeros(0))
    found = info_nce(replace(lonely, **never()), 0.5)
    assert found.item() == 0.0
    found.sum().backward()
    assert lonely.anchors.grad.tolist() == [[0.0, 0.0]]


@given(st.lists(st.integers(-3, 3), max_size=12), st.lists(st.integers(-3, 3), max_size=12))
def test_matches_are_those_of_a_comparison_of_all(left: list[int], right: list[int]) -> None:
    first, second = torch.tensor(left, dtype=torch.int64), torch.tensor(right, dtype=torch.int64)
    found = torch.zeros(len(left), len(right))
    rows, columns = matches(first, second)
    found.index_put_((rows, columns), torch.ones(len(rows)), accumulate=True)
    assert torch.equal(found, (first[:, None] == second).float())
