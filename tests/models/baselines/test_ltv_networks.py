"""``ltv`` is one half of the pair; ``cdaf`` has a predictor for each domain over one body."""

from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from raytrain.embeddings.tables import EmbeddedRows
from raytrain.ltv_config import CdafModel, LtvModel
from raytrain.models.adsnet.declarations import backbone_tables
from raytrain.models.baselines.cdaf import CdafNetwork
from raytrain.models.baselines.ltv import LtvNetwork
from tests.models.adsnet.worlds import STATS, batch_of, contract, embedded_of, job, model, pair_of

DOMAINS = [0, 1, 0, 1, 1, 0]
EXTERNAL = torch.tensor(DOMAINS) == 1
SMALL: dict[str, Any] = {"backbone": {"expert_units": [4, 3], "tower_units": [3]}}


def embedded(rows: torch.Tensor | None = None) -> dict[str, EmbeddedRows]:
    """Both tables under their own names; the pair's vanilla rows unless ``rows`` [12, 3] are given."""
    batch = batch_of(DOMAINS)
    of_pair = embedded_of(model(), batch)
    found = {}
    for table, part in zip(backbone_tables(LtvModel(), job(), contract()), (slice(0, 7), slice(7, 12)), strict=True):
        pair_rows = of_pair[f"vanilla/{table.name}"]
        found[table.name] = pair_rows if rows is None else EmbeddedRows(rows[part], pair_rows.ids, pair_rows.inverse)
    return found


def cdaf_of(**sections: Any) -> CdafNetwork:
    torch.manual_seed(0)
    return CdafNetwork(CdafModel.parse({**SMALL, **sections}, "test"), job(), contract(), STATS).double()


@pytest.mark.parametrize("kind", ["ordinal", "ziln", "mse"])
def test_it_computes_what_the_vanilla_network_does(kind: str) -> None:
    section = model(head={"kind": kind})
    pair, batch = pair_of(section), batch_of(DOMAINS)
    alone = LtvNetwork(LtvModel(backbone=section.backbone, head=section.head), job(), contract(), STATS).double()
    alone.backbone.load_state_dict(pair.vanilla.state_dict())
    output, of_pair = alone(embedded(), batch), pair(embedded_of(section, batch), batch)
    torch.testing.assert_close(output.row_loss[~EXTERNAL], of_pair.vanilla_loss[~EXTERNAL])
    assert (output.row_loss[EXTERNAL] > 0).all()
    assert output.predictions == {}
    found, expected = alone.eval()(embedded(), batch).predictions, pair.eval()(embedded_of(section, batch), batch).predictions
    assert found.keys() == {name.removeprefix("vanilla/") for name in expected}
    for name, values in found.items():
        torch.testing.assert_close(values, expected[f"vanilla/{name}"])


@pytest.mark.parametrize("is_dual", [False, True], ids=["one predictor", "two predictors"])
def test_every_row_is_its_own_domains_predictors(is_dual: bool) -> None:
    network, batch = cdaf_of(), batch_of(DOMAINS)
    network.is_dual = is_dual
    output = network(embedded(), batch)
    tower_inputs = output.encoded.view(6, 2, 3)
    own, others = network.internal(tower_inputs, batch.label), network.external(tower_inputs, batch.label)
    torch.testing.assert_close(output.row_loss, torch.where(EXTERNAL & is_dual, others, own))
    predictions = network.eval()(embedded(), batch).predictions
    torch.testing.assert_close(predictions["ltv"], network.internal.predict(network.internal.hidden(tower_inputs))["ltv"])


def test_external_rows_reach_the_shared_body_and_their_own_predictor() -> None:
    network, batch = cdaf_of(), batch_of(DOMAINS)
    (network(embedded(), batch).row_loss * EXTERNAL).sum().backward()
    assert not any(parameter.grad.any() for parameter in network.internal.parameters())
    assert any(parameter.grad.any() for parameter in network.external.parameters())
    assert any(parameter.grad.any() for parameter in network.body.parameters())


def test_every_parameter_of_cdaf_has_a_gradient_whatever_the_rows() -> None:
    for domains in (DOMAINS, [0] * 6, [1] * 6):
        for is_dual in (False, True):
            network = cdaf_of()
            network.is_dual = is_dual
            network(embedded(), batch_of(domains)).row_loss.sum().backward()
            assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


def test_gradients_of_cdaf_against_finite_differences() -> None:
    # Where the loss stops a gradient it is not the function's.
    network, batch = cdaf_of(head={"detach_masses": False}), batch_of(DOMAINS)
    drawn = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)

    def outputs(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = network(embedded(rows), batch)
        return output.row_loss, output.encoded

    assert gradcheck(outputs, (drawn,))
