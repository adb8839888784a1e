"""The pair: what external rows reach, what each stage trains, and how the two networks are brought together."""

from dataclasses import replace

import pytest
import torch

from raytrain.embeddings.local import LocalTables
from raytrain.embeddings.tables import EmbeddedRows, TableOptimizer
from raytrain.models.adsnet.declarations import adsnet_tables, backbone_histories, table_pairs
from raytrain.models.adsnet.pair import PairOutput, PseudoSiamese, domain_weights, pair_loss
from tests.models.adsnet.worlds import batch_of, contract, embedded_of, job, model, pair_of

DOMAINS = [0, 1, 0, 1, 1, 0]
EXTERNAL = torch.tensor(DOMAINS) == 1
MEASURED = ("internal", "external", "both")


def loss_of(section, pair, embedded, batch, accepted=None) -> torch.Tensor:
    accepted = torch.ones(batch.num_rows) if accepted is None else accepted
    return pair_loss(pair(embedded, batch), batch, accepted, domain_weights(batch), section.bridge, section.external_weight)


def vanilla_grads(pair: PseudoSiamese, embedded: dict[str, EmbeddedRows]) -> dict[str, torch.Tensor]:
    rows = {name: table.rows.grad for name, table in embedded.items() if name.startswith("vanilla/")}
    return rows | {name: parameter.grad for name, parameter in pair.vanilla.named_parameters()}


def test_each_network_has_every_table_under_its_own_name() -> None:
    tables = adsnet_tables(model(), job(), contract())
    assert [(table.name, table.features) for table in tables] == [
        ("vanilla/item", ("item",)),
        ("vanilla/tag", ("tags",)),
        ("gain/item", ("item",)),
        ("gain/tag", ("tags",)),
    ]
    assert table_pairs(tables) == (("vanilla/item", "gain/item"), ("vanilla/tag", "gain/tag"))
    assert backbone_histories(model(), contract()) == ()
    assert [table.name for table in adsnet_tables(model(skip_features=["tags"]), job(), contract())] == ["vanilla/item", "gain/item"]


@pytest.mark.parametrize("measured_on", MEASURED)
def test_external_rows_reach_nothing_of_the_vanilla_network(measured_on) -> None:
    section = model(bridge={"measured_on": measured_on})
    pair, batch = pair_of(section), batch_of([1] * 6)
    embedded = embedded_of(section, batch)
    loss_of(section, pair, embedded, batch).backward()
    assert all(not gradient.any() for gradient in vanilla_grads(pair, embedded).values())
    assert any(table.rows.grad.any() for name, table in embedded.items() if name.startswith("gain/"))


@pytest.mark.parametrize("measured_on", MEASURED)
def test_the_vanilla_network_learns_to_the_bit_as_if_external_rows_were_not_there(measured_on) -> None:
    section = model(bridge={"measured_on": measured_on})
    batch = batch_of(DOMAINS)
    inside = ~EXTERNAL
    alone = replace(
        batch,
        ids={name: ids[inside] for name, ids in batch.ids.items()},
        dense={name: values[inside] for name, values in batch.dense.items()},
        **{name: getattr(batch, name)[inside] for name in ("label", "weight", "group", "time", "domain")},
    )
    found = []
    for rows in (batch, alone):
        pair, embedded = pair_of(section), embedded_of(section, rows)
        loss_of(section, pair, embedded, rows).backward()
        found.append(vanilla_grads(pair, embedded))
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("measured_on", MEASURED)
def test_rejected_rows_touch_nothing(measured_on) -> None:
    """Neither the gain network's rows, nor its weights: as if their labels and features were others."""
    section = model(bridge={"measured_on": measured_on})
    gradients = []
    for scrambled in (False, True):
        batch = batch_of(DOMAINS)
        if scrambled:
            batch.ids["item"][EXTERNAL], batch.dense["price"][EXTERNAL], batch.label[EXTERNAL] = 0, 9.0, 50.0
        pair, embedded = pair_of(section), embedded_of(section, batch)
        loss_of(section, pair, embedded, batch, torch.zeros(len(DOMAINS))).backward()
        gradients.append({name: table.rows.grad for name, table in embedded.items()} | {n: p.grad for n, p in pair.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_every_parameter_has_a_gradient_in_every_stage() -> None:
    """DDP stops at the first that has none; a rank may hold rows of one domain alone."""
    for stage in ("warmup", "joint"):
        for domains in (DOMAINS, [0] * 6, [1] * 6):
            for measured_on in MEASURED:
                section = model(bridge={"measured_on": measured_on})
                pair, batch = pair_of(section), batch_of(domains)
                pair.stage = stage
                loss_of(section, pair, embedded_of(section, batch), batch).backward()
                assert [name for name, parameter in pair.named_parameters() if parameter.grad is None] == []


def test_warmup_trains_the_vanilla_network_alone() -> None:
    section = model()
    pair, batch = pair_of(section), batch_of(DOMAINS)
    pair.stage = "warmup"
    embedded = embedded_of(section, batch)
    loss_of(section, pair, embedded, batch).backward()
    assert all(not parameter.grad.any() for parameter in pair.gain.parameters())
    assert all(table.rows.grad is None or not table.rows.grad.any() for name, table in embedded.items() if name.startswith("gain/"))
    assert all(gradient.any() for name, gradient in vanilla_grads(pair, embedded).items() if "tower" in name)


def test_the_loss_is_a_mean_of_each_domain() -> None:
    batch = batch_of([0, 0, 1, 1])
    numbers = {"vanilla_loss": [1.0, 3.0, 0.0, 0.0], "gain_loss": [2.0, 4.0, 6.0, 10.0]}
    numbers |= {"embedding_distance": [1.0, 2.0, 3.0, 4.0], "tower_distance": [2.0, 2.0, 2.0, 6.0]}
    inputs = pair_of(model())(embedded_of(model(), batch), batch)
    output = PairOutput(
        **{name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()},
        vanilla_inputs=inputs.vanilla_inputs,
        gain_inputs=inputs.gain_inputs,
        tower_inputs=inputs.tower_inputs,
        predictions={},
    )
    bridge = model(bridge={"measured_on": "both", "embedding_weight": 0.5, "tower_weight": 0.25}).bridge
    batch = replace(batch, weight=torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    accepted = torch.tensor([0.0, 0.0, 1.0, 0.5])
    assert domain_weights(batch).tolist() == [2.0, 2.0]
    # V (1 + 3) / 2, G (2 + 4) / 2, accepted rows 2 x (6 + 10 / 2) / 2, bridges (1 + 1.5 + 2 + 3.5 / 2) / 4.
    loss = pair_loss(output, batch, accepted, domain_weights(batch), bridge, external_weight=2.0)
    assert loss.item() == pytest.approx(2 + 3 + 11 + 6.25 / 4)
    # Two ranks with the same rows: each brings half of the step's loss.
    half = pair_loss(output, batch, accepted, 2 * domain_weights(batch), bridge, external_weight=2.0)
    assert half.item() == pytest.approx(loss.item() / 2)


def test_the_teacher_is_measured_where_it_should_be() -> None:
    batch = batch_of(DOMAINS)
    for measured_on, rows in (("internal", ~EXTERNAL), ("external", EXTERNAL), ("both", EXTERNAL | True)):
        section = model(bridge={"measured_on": measured_on})
        output = pair_of(section)(embedded_of(section, batch), batch)
        for distance in (output.embedding_distance, output.tower_distance):
            assert ((distance > 0) == rows).all()


def test_without_a_bridge_there_is_no_adapter() -> None:
    pair = pair_of(model(bridge={"embedding_weight": 0, "tower_weight": 0, "measured_on": "both"}))
    assert pair.embedding_adapter is None
    assert pair.tower_adapter is None
    batch = batch_of(DOMAINS)
    assert not pair(embedded_of(model(), batch), batch).embedding_distance.any()


@pytest.mark.parametrize("head", ["ordinal", "ziln", "mse", "click"])
def test_both_networks_predict_and_the_gain_network_is_served(head) -> None:
    section = model(head={"kind": head})
    pair, batch = pair_of(section), batch_of(DOMAINS)
    embedded = embedded_of(section, batch)
    assert pair(embedded, batch).predictions == {}
    pair.eval()
    names = {"mse": {"ltv"}, "click": {"click"}}.get(head, {"ltv", "pay"})
    joint = pair(embedded, batch).predictions
    assert joint.keys() == names | {f"vanilla/{name}" for name in names}
    assert all(not torch.equal(joint[name], joint[f"vanilla/{name}"]) for name in names)
    pair.stage = "warmup"
    warm = pair(embedded, batch).predictions
    assert all(torch.equal(warm[name], joint[f"vanilla/{name}"]) for name in names)


@pytest.mark.parametrize(("direction", "vanilla", "gain"), [("g2v", 3.0, 3.0), ("v2g", 1.0, 1.0), ("average", 2.0, 2.0)])
def test_alignment_brings_weights_together(direction, vanilla, gain) -> None:
    pair = pair_of(model())
    with torch.no_grad():
        for parameter in pair.vanilla.parameters():
            parameter.fill_(1.0)
        for parameter in pair.gain.parameters():
            parameter.fill_(3.0)
    assert pair.drift().item() == pytest.approx(2 * sum(parameter.numel() for parameter in pair.gain.parameters()) ** 0.5)
    pair.align(direction)
    assert {value for parameter in pair.vanilla.parameters() for value in parameter.flatten().tolist()} == {vanilla}
    assert {value for parameter in pair.gain.parameters() for value in parameter.flatten().tolist()} == {gain}
    assert pair.drift() == 0


def test_a_share_makes_the_vanilla_network_a_moving_average() -> None:
    pair = pair_of(model())
    with torch.no_grad():
        pair.vanilla.head.towers[0][0].bias.fill_(1.0)
        pair.gain.head.towers[0][0].bias.fill_(3.0)
    pair.align("g2v", share=0.25)
    assert pair.vanilla.head.towers[0][0].bias.tolist() == [1.5] * 5
    assert pair.gain.head.towers[0][0].bias.tolist() == [3.0] * 5


def test_networks_start_equal_and_apart_from_each_other() -> None:
    torch.manual_seed(0)
    pair = PseudoSiamese(model(head={"kind": "click"}), job(), contract(), None)
    assert pair.drift() == 0
    with torch.no_grad():
        pair.gain.head.output.bias.add_(1.0)
    assert pair.drift() == 1


def test_tables_move_as_the_losses_say() -> None:
    """The real tables: in a step of external rows alone the vanilla ones keep their bytes, rejected rows move none at all."""
    section = model(bridge={"measured_on": "both"})
    tables = LocalTables(adsnet_tables(section, job(), contract()), TableOptimizer("adagrad", 0.1), seed=0)
    pair, batch = pair_of(section).float(), batch_of([1] * 6)
    batch = replace(
        batch, label=batch.label.float(), weight=batch.weight.float(), dense={name: value.float() for name, value in batch.dense.items()}
    )
    for accepted, moved in ((torch.zeros(6), set()), (torch.ones(6), {"gain/item.weight", "gain/tag.weight"})):
        before = {name: weight.clone() for name, weight in tables.state_dict().items()}
        loss_of(section, pair, tables(batch), batch, accepted).backward()
        assert {name for name, weight in tables.state_dict().items() if not torch.equal(weight, before[name])} == moved


def test_the_whole_loss_against_finite_differences() -> None:
    section = model(bridge={"measured_on": "both"}, backbone={"levels": 2}, head={"detach_masses": False})
    pair, batch = pair_of(section), batch_of(DOMAINS)
    embedded = embedded_of(section, batch)
    accepted = torch.rand(6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    names, tables = zip(*embedded.items(), strict=True)

    def loss(*rows):
        found = {name: EmbeddedRows(row, table.ids, table.inverse) for name, row, table in zip(names, rows, tables, strict=True)}
        return loss_of(section, pair, found, batch, accepted)

    # The vanilla network is a fixed teacher, so that finite differences by its rows would see what gradients must not.
    gain = [index for index, name in enumerate(names) if name.startswith("gain/")]
    rows = [table.rows.detach() for table in tables]

    def by_gain_rows(*values):
        mixed = list(rows)
        for index, value in zip(gain, values, strict=True):
            mixed[index] = value
        return loss(*mixed)

    assert torch.autograd.gradcheck(by_gain_rows, [tables[index].rows for index in gain])
