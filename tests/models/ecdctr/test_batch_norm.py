"""Weighted batch norm against torch's, against repeated rows, and on several ranks against one."""

import pytest
import torch
from torch import Tensor, nn

from raytrain.models.ecdctr.batch_norm import BatchNormHead, reset_batch_norm
from raytrain.models.layers.weighted_batch_norm import WeightedBatchNorm
from raytrain.training.parallel import World, unwrapped
from tests.distributed.ranks import run_ranks

ROWS = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 100
WEIGHT = torch.tensor([1.0, 0, 2, 1, 1, 0, 1, 3, 1, 1, 0, 1], dtype=torch.float64)


def repeated(rows: Tensor, weight: Tensor) -> Tensor:
    return rows.repeat_interleave(weight.long(), dim=0)


def test_rows_of_equal_weight_are_normalised_as_by_torch() -> None:
    ours, torchs = WeightedBatchNorm(3).double(), nn.BatchNorm1d(3).double()
    for _ in range(3):
        torch.testing.assert_close(ours(ROWS, torch.ones(12, dtype=torch.float64)), torchs(ROWS))
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_var, torchs.running_var)
    torch.testing.assert_close(ours.eval()(ROWS, WEIGHT), torchs.eval()(ROWS))


def test_a_row_of_weight_two_counts_twice_and_one_of_weight_zero_not_at_all() -> None:
    ours, torchs = WeightedBatchNorm(3).double(), nn.BatchNorm1d(3).double()
    got = ours(ROWS, WEIGHT)
    torch.testing.assert_close(repeated(got, WEIGHT), torchs(repeated(ROWS, WEIGHT)))
    torch.testing.assert_close(ours.running_var, torchs.running_var)


def test_a_batch_without_rows_leaves_the_running_moments() -> None:
    norm = WeightedBatchNorm(3).double()
    assert torch.isfinite(norm(ROWS, torch.zeros(12, dtype=torch.float64))).all()
    assert norm.running_mean.tolist() == [0, 0, 0]
    assert norm.running_var.tolist() == [1, 1, 1]


def test_gradients_are_those_of_finite_differences() -> None:
    norm = WeightedBatchNorm(3).double()
    inputs = (ROWS - 100).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: norm(rows, WEIGHT), (inputs,))


def moments_and_gradients(num_rows_of: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    world = World.current()
    first = sum(num_rows_of[: world.rank])
    part = slice(first, first + num_rows_of[world.rank])
    torch.manual_seed(0)
    network = world.wrap(BatchNormHead(3, (5, 4), 0.0, 0.0).double())
    inputs = (ROWS[part] - 100).clone().requires_grad_()
    # As the loop has it: the share of the global mean, times the number of ranks.
    loss = (
        (network(inputs, WEIGHT[part], torch.zeros(len(inputs), dtype=torch.int64))[:, 0].square() * WEIGHT[part]).sum()
        / WEIGHT.sum()
        * world.size
    )
    loss.backward()
    assert inputs.grad is not None
    plain = unwrapped(network)
    return plain.norm[0].running_mean, plain.norm[1].running_var, plain.linear[0].weight.grad, inputs.grad / world.size


@pytest.mark.parametrize("num_rows_of", [(6, 6), (9, 2, 1), (12, 0)], ids=["even", "uneven", "a rank that has run dry"])
def test_any_number_of_ranks_normalises_as_one(num_rows_of: tuple[int, ...]) -> None:
    (alone,) = run_ranks(moments_and_gradients, 1, (12,))
    ranks = run_ranks(moments_and_gradients, len(num_rows_of), num_rows_of)
    for got in ranks:
        torch.testing.assert_close(got[:3], alone[:3])
    torch.testing.assert_close(torch.cat([got[3] for got in ranks]), alone[3])


@pytest.mark.parametrize(("mode", "mean", "scale"), [("keep", 7.0, 3.0), ("reset_statistics", 0.0, 3.0), ("reset", 0.0, 1.0)])
def test_a_new_start_forgets_what_it_is_told_to(mode: str, mean: float, scale: float) -> None:
    head = BatchNormHead(3, (2,), 0.0, 0.0)
    with torch.no_grad():
        head.norm[0].running_mean.fill_(7.0)
        head.norm[0].weight.fill_(3.0)
        head.norm[0].bias.fill_(1.0)
    before = head.linear[0].weight.clone()
    reset_batch_norm(head, mode)  # type: ignore[arg-type]
    assert head.norm[0].running_mean.tolist() == [mean] * 2
    assert head.norm[0].weight.tolist() == [scale] * 2
    assert head.norm[0].bias.tolist() == [0.0 if mode == "reset" else 1.0] * 2
    assert torch.equal(head.linear[0].weight, before)
