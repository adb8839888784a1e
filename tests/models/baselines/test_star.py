"""STAR: what a domain has of its own and what it shares, by numbers computed by hand."""

import torch

from raytrain.model_config import StarModel
from raytrain.models.baselines.star import StarHead, StarLinear
from raytrain.models.ecdctr.batch_norm import reset_batch_norm
from raytrain.models.layers.weighted_batch_norm import PartitionedNorm

DOMAIN = torch.tensor([0, 1, 0, 1])


def test_a_layer_multiplies_shared_weights_by_the_domains_and_adds_biases() -> None:
    layer = StarLinear(2, 2, 1)
    with torch.no_grad():
        layer.shared.weight.copy_(torch.tensor([[2.0, 3.0]]))
        layer.shared.bias.fill_(1.0)
        layer.weight[1] = torch.tensor([[10.0, 0.5]])
        layer.bias[1] = 4.0
    outputs = layer(torch.tensor([[1.0, 1.0], [1.0, 2.0], [0.0, 2.0], [2.0, 0.0]]), DOMAIN)
    # Target: 2 a + 3 b + 1; source: 20 a + 1.5 b + 5.
    assert outputs[:, 0].tolist() == [6.0, 28.0, 7.0, 45.0]


def test_each_domain_is_normalised_by_its_own_moments() -> None:
    norm = PartitionedNorm(2, 1)
    inputs = torch.tensor([[1.0], [100.0], [3.0], [300.0]])
    outputs = norm(inputs, torch.ones(4), DOMAIN)
    torch.testing.assert_close(outputs[:, 0], torch.tensor([-1.0, -1.0, 1.0, 1.0]), rtol=1e-4, atol=1e-4)
    norm.eval()
    # Running moments have taken a tenth of each domain's mean in: 0.2 and 20; variances are unbiased, 2 and 20,000.
    expected = (inputs[:, 0] - torch.tensor([0.2, 20.0, 0.2, 20.0])) / torch.tensor([1.1, 2000.9, 1.1, 2000.9]).sqrt()
    torch.testing.assert_close(norm(inputs, torch.ones(4), DOMAIN)[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_rows_of_one_domain_leave_the_others_weights_alone() -> None:
    torch.manual_seed(0)
    head = StarHead(StarModel(hidden_units=(4,), auxiliary_units=(3,)), 2, 5)
    head(torch.randn(6, 5), torch.ones(6), torch.zeros(6, dtype=torch.int64)).sum().backward()
    for layer in head.layers:
        assert layer.weight.grad is not None
        assert layer.weight.grad[1].abs().sum() == 0
        assert layer.weight.grad[0].abs().sum() > 0
    assert head.norm.of[1].running_mean.abs().sum() == 0


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    head = StarHead(StarModel(hidden_units=(4,), auxiliary_units=(3,)), 2, 5).double()
    inputs = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: head(rows, torch.ones(4).double(), DOMAIN), (inputs,))


def test_a_new_start_forgets_what_domains_share_too() -> None:
    norm = PartitionedNorm(2, 1)
    norm(torch.tensor([[1.0], [5.0]]), torch.ones(2), torch.tensor([0, 1]))
    with torch.no_grad():
        norm.scale.fill_(3.0)
    reset_batch_norm(norm, "reset")
    assert norm.scale.item() == 1.0
    assert [one.running_mean.item() for one in norm.of] == [0.0, 0.0]
