"""The sliced Wasserstein distance: numbers by hand, a slower way to the same, gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from raytrain.models.layers.sliced_wasserstein import sliced_wasserstein, unit_directions


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param(column(3, 1, 2), column(1.5, 3.5, 2.5), 0.25, id="a shift by a half"),
        pytest.param(column(3, 1), column(1, 3), 0.0, id="equal samples in another order"),
        pytest.param(column(0, 2), column(0, 0, 2, 2), 0.0, id="equal distributions of unequal size"),
        # The quantile functions differ by 1/2 between 1/3 and 2/3.
        pytest.param(column(0, 1), column(0, 0.5, 1), 1 / 12, id="unequal sizes"),
        pytest.param(column(5), column(4, 5, 7), (1 + 0 + 4) / 3, id="a point"),
    ],
)
def test_distances_by_hand(one, other, expected) -> None:
    assert sliced_wasserstein(one, other).item() == pytest.approx(expected)
    assert sliced_wasserstein(other, one).item() == pytest.approx(expected)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 9))
def test_it_is_what_repeating_rows_to_equal_numbers_gives(num_one: int, num_other: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    one, other = draw.normal(size=(num_one, 3)), draw.normal(size=(num_other, 3))
    repeated = np.sort(np.repeat(one, num_other, axis=0), axis=0) - np.sort(np.repeat(other, num_one, axis=0), axis=0)
    assert sliced_wasserstein(torch.from_numpy(one), torch.from_numpy(other)).item() == pytest.approx((repeated**2).mean())


def test_a_shift_of_vectors_is_seen_along_every_line() -> None:
    torch.manual_seed(0)
    rows, shift = torch.randn(6, 4, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
    lines = unit_directions(4, 5000, seed=1).double()
    found = sliced_wasserstein(rows @ lines, (rows + shift).flip(0) @ lines).item()
    assert found == pytest.approx((shift @ lines).square().mean().item())
    # Over the sphere the mean is |shift|^2 / 4.
    assert found == pytest.approx(14 / 4, rel=0.05)


def test_lines_are_unit_vectors_by_seed_alone() -> None:
    torch.manual_seed(1)
    first = unit_directions(3, 8, seed=5)
    torch.manual_seed(2)
    assert torch.equal(unit_directions(3, 8, seed=5), first)
    assert not torch.equal(unit_directions(3, 8, seed=6), first)
    torch.testing.assert_close(first.norm(dim=0), torch.ones(8))


def test_gradients_against_finite_differences() -> None:
    torch.manual_seed(0)
    rows = [torch.randn(size, 2, dtype=torch.float64, requires_grad=True) for size in (3, 5)]
    assert gradcheck(sliced_wasserstein, rows)


def test_nothing_to_compare_is_no_distance() -> None:
    one = torch.ones(2, 3, requires_grad=True)
    distance = sliced_wasserstein(one, torch.empty(0, 3))
    distance.backward()
    assert distance.item() == 0
    assert not one.grad.any()
