"""Encoder, experts, adapters: numbers by hand and gradients against finite differences."""

from itertools import combinations
from math import exp

import pytest
import torch
from torch.autograd import gradcheck

from raytrain.adsnet_config import BackboneSection
from raytrain.models.adsnet.adapters import ResidualAdapter
from raytrain.models.adsnet.encoder import FwfmEncoder
from raytrain.models.adsnet.ple import Cgc, Ple


def with_parameters(module, *inputs):
    """gradcheck by inputs and by every parameter."""
    parameters = list(module.parameters())
    return gradcheck(lambda *values: module(*values[: len(inputs)]), (*inputs, *parameters))


@pytest.mark.parametrize("variant", ["fwfm", "inner"])
def test_pairs_are_weighted_products(variant) -> None:
    torch.manual_seed(0)
    encoder = FwfmEncoder(3, 2, num_dense=1, variant=variant)
    with torch.no_grad():
        encoder.field_weight.copy_(torch.tensor([2.0, -1.0, 0.5]))  # pairs 01, 02, 12
    vectors, dense = torch.randn(4, 3, 2), torch.randn(4, 1)
    products = [weight * vectors[:, i] * vectors[:, j] for weight, (i, j) in zip([2.0, -1.0, 0.5], combinations(range(3), 2), strict=True)]
    crossed = sum(products) if variant == "fwfm" else torch.stack([product.sum(1) for product in products], dim=1)
    encoded = encoder(vectors, dense)
    assert encoded.shape == (4, encoder.num_outputs)
    torch.testing.assert_close(encoded, torch.cat([vectors.flatten(1), crossed, dense], dim=1))


def test_the_encoder_starts_as_a_plain_factorization_machine() -> None:
    vectors = torch.randn(4, 5, 3)
    crossed = FwfmEncoder(5, 3)(vectors, torch.empty(4, 0))[:, -3:]
    torch.testing.assert_close(crossed, 0.5 * (vectors.sum(1).square() - vectors.square().sum(1)))


@pytest.mark.parametrize("variant", ["fwfm", "inner"])
def test_one_field_has_no_pairs(variant) -> None:
    encoder = FwfmEncoder(1, 3, variant=variant)
    encoded = encoder(torch.ones(2, 1, 3), torch.empty(2, 0))
    assert encoded.shape == (2, encoder.num_outputs)
    assert encoded.tolist() == [[1, 1, 1] + [0] * (encoder.num_outputs - 3)] * 2


@pytest.mark.parametrize("variant", ["fwfm", "inner"])
def test_encoder_gradients(variant) -> None:
    encoder = FwfmEncoder(3, 2, num_dense=2, variant=variant).double()
    assert with_parameters(encoder, torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True), torch.randn(3, 2, dtype=torch.float64))


def cgc_by_hand(is_last: bool) -> Cgc:
    """One expert a branch, of one unit: u -> relu(weight u), weights 1 (task 0), 2 (task 1), 3 (shared)."""
    section = BackboneSection(task_experts=1, shared_experts=1, expert_units=(1,))
    level = Cgc(1, 2, section, is_last)
    with torch.no_grad():
        for weight, group in zip((1.0, 2.0, 3.0), (*level.tasks, level.shared), strict=True):
            group.experts[0][0].weight.fill_(weight)
            group.experts[0][0].bias.zero_()
        level.gates[0].weight.copy_(torch.tensor([[0.0], [1.0]]))
        level.gates[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        if level.shared_gate is not None:
            level.shared_gate.weight.copy_(torch.tensor([[0.0], [0.0], [1.0]]))
    return level


def test_each_gate_weighs_experts_by_its_own_branch() -> None:
    inputs = [torch.tensor([[0.5]]), torch.tensor([[1.0]]), torch.tensor([[2.0]])]
    # Experts: task 0 gives 0.5, task 1 gives 2, shared gives 6. Gate 0 scores (0, 0.5), gate 1 (1, 0), the shared gate (0, 0, 2).
    first = (0.5 + exp(0.5) * 6) / (1 + exp(0.5))
    second = (exp(1) * 2 + 6) / (exp(1) + 1)
    shared = (0.5 + 2 + exp(2) * 6) / (2 + exp(2))
    found = [value.item() for value in cgc_by_hand(is_last=False)(inputs)]
    assert found == pytest.approx([first, second, shared])
    assert [value.item() for value in cgc_by_hand(is_last=True)(inputs)] == pytest.approx([first, second])


def test_the_last_level_has_no_shared_gate() -> None:
    experts = Ple(5, 2, BackboneSection(levels=3, expert_units=(4, 3)))
    assert [level.shared_gate is None for level in experts.levels] == [False, False, True]
    assert experts(torch.randn(6, 5)).shape == (6, 2, 3)


@pytest.mark.parametrize("levels", [1, 2])
def test_every_expert_and_gate_is_trained(levels) -> None:
    torch.manual_seed(1)
    experts = Ple(5, 2, BackboneSection(levels=levels, expert_units=(8, 6)))
    experts(torch.randn(32, 5)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in experts.parameters())


@pytest.mark.parametrize("levels", [1, 2])
def test_expert_gradients(levels) -> None:
    torch.manual_seed(0)
    experts = Ple(3, 2, BackboneSection(levels=levels, task_experts=1, shared_experts=1, expert_units=(3, 2))).double()
    assert with_parameters(experts, torch.randn(3, 3, dtype=torch.float64, requires_grad=True))


def test_an_adapter_starts_as_the_identity_and_stops_at_the_teacher() -> None:
    adapter = ResidualAdapter(4, 3)
    student, teacher = torch.randn(5, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    assert torch.equal(adapter(student), student)
    distance = adapter.distance(student, teacher)
    torch.testing.assert_close(distance, (student - teacher).square().sum(1) / 4)
    distance.sum().backward()
    assert teacher.grad is None
    assert adapter.outer.weight.grad.abs().sum() > 0


def test_adapter_gradients() -> None:
    torch.manual_seed(0)
    adapter = ResidualAdapter(4, 3).double()
    with torch.no_grad():
        adapter.outer.weight.normal_()
    assert with_parameters(adapter, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))
