"""How an id's monthly vectors become one: hand-computed pools, ids that a month did not see, finite differences."""

from typing import get_args

import pytest
import torch

from raytrain.ecdctr_config import Aggregator, FusionSection
from raytrain.models.ecdctr.fusion import MonthFusion, known_months

AGGREGATORS = get_args(Aggregator)
MONTHS = torch.tensor([[[1.0, 2.0], [0.0, 0.0], [3.0, -4.0]], [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]])


def fusion(aggregator: str, num_outputs: int = 3) -> MonthFusion:
    torch.manual_seed(0)
    return MonthFusion(FusionSection(aggregator=aggregator, attention_dim=4, num_outputs=num_outputs), 3, 2)  # type: ignore[arg-type]


def pooled(aggregator: str) -> list[list[float]]:
    module = fusion(aggregator)
    known = known_months(MONTHS)
    found: list[list[float]] = module._pooled(torch.cat([MONTHS, 1 - known], dim=2), known).tolist()
    return found


def test_a_month_knows_an_id_whose_vector_is_not_zero() -> None:
    assert known_months(MONTHS)[:, :, 0].tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("aggregator", "expected"),
    [
        ("mean", [[2.0, -1.0, 0.0], [0.0, 0.0, 0.0]]),
        ("max", [[3.0, 2.0, 0.0], [0.0, 0.0, 0.0]]),
        ("last", [[3.0, -4.0, 0.0], [0.0, 0.0, 1.0]]),
        ("concat", [[1, 2, 0, 0, 0, 1, 3, -4, 0], [0, 0, 1, 0, 0, 1, 0, 0, 1]]),
    ],
)
def test_pools_by_hand(aggregator: str, expected: list[list[float]]) -> None:
    assert pooled(aggregator) == expected


def test_self_attention_by_hand() -> None:
    module = fusion("self_attention")
    inputs = torch.cat([MONTHS, 1 - known_months(MONTHS)], dim=2) + module.position
    expected = []
    for rows in inputs:
        query, key, value = (rows @ part.weight.T for part in (module.query, module.key, module.value))
        weights = torch.tensor([[(one @ other).item() / 2.0 for other in key] for one in query]).softmax(1)
        expected.append((weights @ value).reshape(-1))
    torch.testing.assert_close(module(MONTHS), module.output(torch.stack(expected)))


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_the_order_of_months_matters_where_it_should(aggregator: str) -> None:
    module = fusion(aggregator)
    same = torch.allclose(module(MONTHS), module(MONTHS.flip(1)))
    assert same == (aggregator in ("mean", "max"))


@pytest.mark.parametrize("aggregator", AGGREGATORS)
def test_gradients_are_those_of_finite_differences(aggregator: str) -> None:
    module = fusion(aggregator).double()
    inputs = tuple(parameter for parameter in module.parameters())
    names = [name for name, _ in module.named_parameters()]

    def of(*values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = torch.func.functional_call(module, dict(zip(names, values, strict=True)), (MONTHS.double(),))
        return found

    assert torch.autograd.gradcheck(of, inputs)
