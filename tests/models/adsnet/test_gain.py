"""Gain estimators: what they say, row by row and slice by slice, and that looking changes nothing."""

from dataclasses import replace

import pytest
import torch

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.gain.estimators import PairedGain, build_estimator, matched_rows
from raytrain.models.adsnet.gain.functional import directional_derivatives, evaluating, parameters_of
from raytrain.models.adsnet.gain.judge import GainJudge
from raytrain.models.adsnet.gain.rows import JudgedRows, fold_of, one_rank
from raytrain.models.adsnet.pair import PseudoSiamese
from tests.models.adsnet.several_ranks import part, weigh_together
from tests.models.adsnet.worlds import batch_of, embedded_of, model, pair_of

KINDS = ("ordinal", "ziln", "mse", "click")
ESTIMATORS = ("ledger", "siamese", "lookahead", "paired", "grad", "none")
DOMAINS = [0, 0, 0, 1, 1, 1, 1, 1]
SLICES = torch.tensor([0, 1, 2, 0, 2, 0, 1, 2])


def world(head: str = "ordinal", dropout: float = 0.0, **options: bool) -> tuple[PseudoSiamese, JudgedRows, JudgedRows]:
    """A pair, a step's rows of both domains, and an internal probe."""
    section = model(head={"kind": head, **options}, backbone={"dropout": dropout})
    pair = pair_of(section)

    def seen(domain: list[int], seed: int, slices: torch.Tensor) -> JudgedRows:
        batch = batch_of(domain, seed)
        if head == "click":
            batch = replace(batch, label=(batch.label > 0).double())
        return JudgedRows.of(pair(embedded_of(section, batch), batch), batch, slices)

    return pair, seen(DOMAINS, 1, SLICES), seen([0] * 6, 2, torch.zeros(6, dtype=torch.int64))


def row_gradients(head: torch.nn.Module, tower_inputs: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """[B, P], one backward pass a row."""
    parameters = list(head.parameters())
    found = [torch.autograd.grad(head(tower_inputs[row : row + 1], label[row : row + 1])[0], parameters) for row in range(len(label))]
    return torch.stack([torch.cat([part.flatten() for part in parts]) for parts in found])


@pytest.mark.parametrize("derivative", ["jvp", "double_vjp"])
@pytest.mark.parametrize("head", KINDS)
def test_gains_are_inner_products_with_every_rows_own_gradient(head, derivative) -> None:
    pair, rows, probe = world(head)
    tower = pair.gain.head
    direction = row_gradients(tower, probe.tower_inputs, probe.label).mean(0)
    expected = row_gradients(tower, rows.tower_inputs, rows.label) @ (direction / direction.norm())
    estimator = build_estimator(GainSection(probe="held_out", derivative=derivative), 3)
    found = estimator.estimate(pair, rows, probe, one_rank)
    torch.testing.assert_close(found.gain, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(found.evidence, rows.weight)


def test_the_running_gradient_of_internal_rows_is_a_probe_too() -> None:
    pair, rows, other = world()
    tower, inside = pair.gain.head, ~rows.is_external
    first = row_gradients(tower, rows.tower_inputs[inside], rows.label[inside]).mean(0)
    second = row_gradients(tower, other.tower_inputs, other.label)
    estimator = build_estimator(GainSection(probe_decay=0.75), 3)
    direction = 0.75 * 0.25 * first + 0.25 * second.mean(0)
    estimator.estimate(pair, rows, None, one_rank)
    found = estimator.estimate(pair, other, None, one_rank)
    torch.testing.assert_close(found.gain, second @ (direction / direction.norm()), rtol=1e-10, atol=1e-10)


def test_a_small_step_along_a_row_takes_its_gain_off_the_probe() -> None:
    # Where the loss stops a gradient, no step follows it.
    pair, rows, probe = world(detach_masses=False)
    tower, size = pair.gain.head, 1e-6
    gradients = row_gradients(tower, rows.tower_inputs, rows.label)
    length = row_gradients(tower, probe.tower_inputs, probe.label).mean(0).norm()
    gain = build_estimator(GainSection(probe="held_out"), 3).estimate(pair, rows, probe, one_rank).gain
    vector = torch.nn.utils.parameters_to_vector(tower.parameters()).detach()
    before = tower(probe.tower_inputs, probe.label).mean()
    for row in range(len(gain)):
        torch.nn.utils.vector_to_parameters(vector - size * gradients[row], tower.parameters())
        after = tower(probe.tower_inputs, probe.label).mean()
        assert ((before - after) / size).item() == pytest.approx((gain[row] * length).item(), rel=1e-3, abs=1e-6)
    torch.nn.utils.vector_to_parameters(vector, tower.parameters())


@pytest.mark.parametrize("estimator", ["siamese", "lookahead"])
def test_tentative_steps_are_those_an_optimizer_would_take(estimator) -> None:
    section = GainSection(estimator=estimator, step_size=0.05, slices_per_step=3)
    pair, rows, probe = world()
    found = build_estimator(section, 3).estimate(pair, rows, probe, one_rank)
    assert torch.equal(found.evidence, rows.is_external.double())
    for number in range(3):
        tried, _, _ = world()
        losses = []
        for name in ("vanilla" if estimator == "siamese" else "gain", "gain"):
            backbone = getattr(world()[0], name)
            own, of_probe = getattr(rows, f"{name}_inputs"), getattr(probe, f"{name}_inputs")
            row_loss = backbone.head(backbone.body(own.vectors, own.dense)[1], rows.label)
            loss = row_loss[~rows.is_external].mean()
            if losses:
                loss = loss + row_loss[rows.is_external & (rows.slice == number)].mean()
            loss.backward()
            torch.optim.SGD(backbone.parameters(), lr=section.step_size).step()
            losses.append(backbone.head(backbone.body(of_probe.vectors, of_probe.dense)[1], probe.label).mean())
        inside = rows.is_external & (rows.slice == number)
        torch.testing.assert_close(found.gain[inside], (losses[0] - losses[1]).detach().expand(int(inside.sum())), rtol=1e-9, atol=1e-12)
        assert tried.drift() == pair.drift()


@pytest.mark.parametrize("estimator", ["ledger", "siamese", "lookahead"])
def test_three_ranks_judge_as_one(estimator) -> None:
    """One of them without internal rows, one without a probe's."""
    pair, rows, probe = world()
    section = GainSection(estimator=estimator, min_rows=0, slices_per_step=2, weights="soft")
    one, ranks = GainJudge(section, 3), [GainJudge(section, 3) for _ in range(3)]
    parts = [part(rows, *cut) for cut in ((0, 2), (2, 5), (5, 8))]
    probes = [part(probe, *cut) for cut in ((0, 0), (0, 5), (5, 6))]
    for _ in range(2):
        whole = one.weigh(pair, rows, probe, one_rank)
        torch.testing.assert_close(torch.cat(weigh_together(pair, ranks, parts, probes)), whole, rtol=1e-10, atol=1e-12)
    for rank in ranks:
        for name, value in one.state_dict().items():
            torch.testing.assert_close(rank.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def test_slices_are_tried_in_turn() -> None:
    pair, rows, probe = world()
    estimator = build_estimator(GainSection(estimator="lookahead"), 5)
    tried = []
    for _ in range(4):
        evidence = estimator.estimate(pair, rows, probe, one_rank).evidence
        tried.append(set(rows.slice[evidence > 0].tolist()))
    # Slices 3 and 4 have no row in the batch.
    assert tried == [{0}, {1}, {2}, {0}]
    again = build_estimator(GainSection(estimator="lookahead"), 5)
    again.load_state_dict(estimator.state_dict())
    evidence = again.estimate(pair, rows, probe, one_rank).evidence
    assert set(rows.slice[evidence > 0].tolist()) == {1}


def test_pairs_are_of_one_slice_where_there_are_any() -> None:
    external, internal = torch.tensor([5, 2, 5, 5, 9, 9, 2]), torch.tensor([2, 5, 5, 7])
    # Slice 5 meets internal rows 1 and 2 in turn, slice 2 row 0 twice, slice 9 has none and takes rows 0 and 1.
    assert matched_rows(external, internal).tolist() == [1, 0, 2, 1, 0, 1, 0]


def test_paired_gains_compare_the_two_networks_on_the_partner() -> None:
    pair, rows, _ = world()
    with torch.no_grad():
        vanilla = pair.vanilla.head.row_loss(pair.vanilla(rows.vanilla_inputs).hidden, rows.label)
        gain = pair.gain.head.row_loss(pair.gain(rows.gain_inputs).hidden, rows.label)
    found = PairedGain().estimate(pair, rows, None, one_rank)
    # External rows 3.. are of slices 0, 2, 0, 1, 2; internal rows 0, 1, 2 of slices 0, 1, 2.
    torch.testing.assert_close(found.gain[3:], (vanilla - gain)[[0, 2, 0, 1, 2]])
    only_external = replace(rows, is_external=torch.ones(8, dtype=torch.bool))
    assert not PairedGain().estimate(pair, only_external, None, one_rank).evidence.any()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_looking_changes_nothing(estimator) -> None:
    """Neither parameters, nor gradients, nor the mode; and dropout does not reach a gain."""
    pair, rows, probe = world(dropout=0.5)
    pair.gain.head.towers[0].eval()
    modes = [module.training for module in pair.modules()]
    before = {name: value.clone() for name, value in parameters_of(pair).items()}
    judges = [GainJudge(GainSection(estimator=estimator, min_rows=0), 3) for _ in range(2)]
    weights = [judge.weigh(pair, rows, probe, one_rank) for judge in judges]
    assert torch.equal(*weights)
    assert all(torch.equal(judges[0].state_dict()[name], value) or value.isnan().any() for name, value in judges[1].state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in parameters_of(pair).items())
    assert all(parameter.grad is None for parameter in pair.parameters())
    assert [module.training for module in pair.modules()] == modes
    assert torch.equal(weights[0][:3], torch.ones(3, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ["none", "grad"])
def test_where_rows_are_judged_one_by_one_the_report_says_what_was_let_in(estimator) -> None:
    pair, rows, probe = world()
    judge = GainJudge(GainSection(estimator=estimator, tau=0.0), 3)
    weights = judge.weigh(pair, rows, probe, one_rank)[3:]
    expected = [weights[SLICES[3:] == number].mean() for number in range(3)]
    torch.testing.assert_close(judge.report().weight, torch.stack(expected).double())
    if estimator == "none":
        assert judge.report().weight.tolist() == [1.0, 1.0, 1.0], "a mixture lets everything in"


def test_the_mode_comes_back_after_an_error() -> None:
    layer = torch.nn.Dropout()
    with pytest.raises(TypeError), evaluating(layer):
        layer("no tensor")
    assert layer.training


def test_a_probe_is_asked_for_at_the_start_and_then_every_few_steps() -> None:
    pair, rows, probe = world()
    section = GainSection(probe="held_out", refresh_steps=4, min_rows=0)
    judge = GainJudge(section, 3)
    assert judge.wants_probe(3)
    judge.weigh(pair, rows, probe, one_rank)
    assert [judge.wants_probe(step) for step in range(1, 9)] == [False, False, False, True] * 2
    # Between refreshes the direction stays, also across a restart.
    again = GainJudge(section, 3)
    again.load_state_dict(judge.state_dict())
    assert not again.wants_probe(5)
    assert torch.equal(again.weigh(pair, rows, None, one_rank), judge.weigh(pair, rows, None, one_rank))
    assert GainJudge(GainSection(estimator="siamese"), 3).wants_probe(5)
    assert not GainJudge(GainSection(estimator="paired"), 3).wants_probe(0)
    assert GainJudge(GainSection(), 3).wants_probe(0)
    assert not GainJudge(GainSection(reference="zero"), 3).wants_probe(0)


def test_gains_are_compared_with_those_of_held_out_internal_rows() -> None:
    pair, rows, probe = world()
    found = build_estimator(GainSection(), 3).estimate(pair, rows, probe, one_rank)
    same = build_estimator(GainSection(), 3).estimate(pair, replace(rows, tower_inputs=rows.tower_inputs), None, one_rank)
    assert torch.equal(found.gain, same.gain)
    assert same.probe_gain is None
    inside = ~rows.is_external
    direction = row_gradients(pair.gain.head, rows.tower_inputs[inside], rows.label[inside]).mean(0)
    of_probe = row_gradients(pair.gain.head, probe.tower_inputs, probe.label) @ (direction / direction.norm())
    torch.testing.assert_close(found.probe_gain, of_probe)


def test_grad_judges_each_row_by_its_own_gain() -> None:
    pair, rows, probe = world()
    judge = GainJudge(GainSection(estimator="grad", tau=0.0), 3)
    accepted = judge.weigh(pair, rows, probe, one_rank)
    gain = build_estimator(GainSection(), 3).estimate(pair, rows, probe, one_rank).gain
    assert torch.equal(accepted[3:], (gain[3:] >= 0).double())
    assert 0 < accepted[3:].sum() < 5
    report = judge.report()
    assert report.volume.tolist() == [2, 1, 2]
    assert report.accepted.sum() == accepted[3:].sum()


def test_none_mixes_everything_in() -> None:
    pair, rows, _ = world()
    judge = GainJudge(GainSection(estimator="none", tau=1.0), 3)
    assert judge.weigh(pair, rows, None, one_rank).tolist() == [1.0] * 8
    assert judge.report().accepted.tolist() == [2, 1, 2]
    assert judge.purity() is None


def test_a_network_of_another_kind_of_layer_can_fall_back_to_reverse_mode() -> None:
    """Attention lacks forward mode on CPU; both ways agree where both exist."""
    pair, rows, _ = world("ziln")
    direction = {name: torch.randn_like(value) for name, value in parameters_of(pair.gain.head).items()}
    both = [directional_derivatives(pair.gain.head, rows.tower_inputs, rows.label, direction, way) for way in ("jvp", "double_vjp")]
    for found, expected in zip(*both, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both[0][0], pair.gain.head(rows.tower_inputs, rows.label).detach(), rtol=1e-12, atol=1e-12)


def test_a_row_is_always_of_the_same_half() -> None:
    batch = batch_of([1] * 2000)
    batch = replace(batch, time=torch.arange(2000))
    fold = fold_of(batch)
    assert 0.4 < fold.double().mean() < 0.6
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    shuffled = replace(batch, time=batch.time[order], ids={name: ids[order] for name, ids in batch.ids.items()})
    assert torch.equal(fold_of(shuffled), fold[order])
