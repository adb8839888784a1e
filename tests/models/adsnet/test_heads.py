"""Thresholds, ordinal classes, amounts and the four heads: by hand, as probabilities, and against finite differences."""

from math import exp, log, log1p, pi, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.func import functional_call

from raytrain.adsnet_config import BackboneSection, HeadSection
from raytrain.errors import DataError
from raytrain.models.adsnet.amount import AmountTower, amount_loss
from raytrain.models.adsnet.heads import build_head
from raytrain.models.adsnet.label_stats import LabelStats, class_edges, label_stats, ordinal_edges
from raytrain.models.adsnet.ordinal import ContinuationRatio, Coral, class_masses
from tests.models.adsnet.worlds import STATS

KINDS = ("ordinal", "ziln", "mse", "click")
SMALL = BackboneSection(expert_units=(4,), tower_units=(3,))


def head_of(kind: str, **section):
    torch.manual_seed(0)
    return build_head(SMALL, HeadSection(kind=kind, **section), 4, STATS).double()


def logit(probability: float) -> float:
    return log(probability / (1 - probability))


def test_statistics_by_hand() -> None:
    found = label_stats(np.array([0, 0, 3, 1, 1, 2]), 2)
    # The median payer pays 1; midway to the next tier is 1.5. Two labels lie above it, by 0.5 and 1.5.
    assert found.thresholds == (0.0, 1.5)
    assert found.tail_excess == 1.0
    assert found.pay_share == pytest.approx(4 / 6)
    assert found.mean_paid == 7 / 4


@pytest.mark.parametrize(("num_thresholds", "places"), [(1, [0]), (2, [0, 1]), (4, [0, 1, 2, 3]), (5, [0, 2, 4]), (12, [0, 3, 6, 9])])
def test_gains_are_compared_in_five_classes_of_labels_at_most(num_thresholds, places) -> None:
    thresholds = tuple(10.0 * number for number in range(num_thresholds))
    assert class_edges(LabelStats(thresholds, 1.0, 0.5, 1.0)) == tuple(thresholds[place] for place in places)
    assert class_edges(None) == (0.0,)


def test_price_tiers_make_one_class_each_and_ties_are_merged() -> None:
    tiers = np.repeat([0.0, 6.0, 30.0, 98.0], [50, 80, 10, 10])
    assert ordinal_edges(tiers, 12) == (0.0, 18.0, 64.0)
    assert ordinal_edges(tiers[tiers <= 6], 12) == (0.0,)


@given(st.lists(st.one_of(st.just(0.0), st.floats(0.01, 1e6)), min_size=1, max_size=60), st.integers(1, 16))
def test_no_class_is_empty(labels, num_buckets) -> None:
    values = np.array(labels)
    if not (values > 0).any():
        return
    edges = ordinal_edges(values, num_buckets)
    assert len(edges) <= num_buckets
    assert list(edges) == sorted(set(edges))
    classes = (values[:, None] > np.array(edges)).sum(1)
    assert set(range(1, len(edges) + 1)) <= set(classes.tolist())
    assert label_stats(values, num_buckets).tail_excess > 0


def test_classes_hold_equal_counts_where_nothing_ties() -> None:
    values = np.random.default_rng(0).lognormal(size=1200)
    classes = (values[:, None] > np.array(ordinal_edges(values, 12))).sum(1)
    assert np.bincount(classes).tolist() == [0] + [100] * 12


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1.0, -0.5], "-0.5"), ([1.0, float("nan")], "nan"), ([1.0, float("inf")], "inf"), ([0.0, 0.0], "2 labels, all 0")],
    ids=["negative", "nan", "infinite", "nobody pays"],
)
def test_labels_that_are_no_amounts_are_refused(labels, message) -> None:
    with pytest.raises(DataError, match=message):
        label_stats(np.array(labels), 4)


def test_continuation_ratio_by_hand() -> None:
    ordinal = ContinuationRatio(1, 3)
    logits = torch.tensor([[logit(0.5), logit(0.4), logit(0.25)]]).expand(4, 3)
    torch.testing.assert_close(ordinal.survival(logits)[0], torch.tensor([0.5, 0.2, 0.05]))
    masses = class_masses(ordinal.survival(logits))
    torch.testing.assert_close(masses[0], torch.tensor([0.5, 0.3, 0.15, 0.05]))
    # Labels of each class in turn: the loss is minus the log of its mass.
    exceeds = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    torch.testing.assert_close(ordinal.row_loss(logits, exceeds), -masses.diagonal().log())


def test_coral_by_hand() -> None:
    ordinal = Coral(1, 3)
    with torch.no_grad():
        ordinal.gap.fill_(log(exp(1.0) - 1))  # softplus is 1
        ordinal.output.weight.fill_(2.0)
        ordinal.output.bias.fill_(0.0)
    logits = ordinal(torch.tensor([[0.5]]))
    torch.testing.assert_close(logits, torch.tensor([[1.0, 0.0, -1.0]]))
    loss = ordinal.row_loss(logits, torch.tensor([[True, False, False]]))
    assert loss.item() == pytest.approx(log(1 + exp(-1)) + log(2) + log(1 + exp(-1)))


@pytest.mark.parametrize("form", [ContinuationRatio, Coral])
def test_masses_are_probabilities_even_far_out(form) -> None:
    torch.manual_seed(0)
    ordinal = form(3, 8)
    survival = ordinal.survival(ordinal(50 * torch.randn(500, 3)))
    masses = class_masses(survival)
    assert (survival.diff(dim=1) <= 0).all()
    assert (masses >= 0).all()
    torch.testing.assert_close(masses.sum(1), torch.ones(500))


def test_amounts_lie_in_their_classes_and_the_last_is_open() -> None:
    tower = AmountTower(1, torch.tensor([0.0, 2.0, 5.0]), tail_excess=3.0)
    with torch.no_grad():
        tower.output.weight.fill_(1.0)
        tower.output.bias.zero_()
    torch.testing.assert_close(tower(torch.zeros(1, 1)), torch.tensor([[1.0, 3.5, 5 + 3 * log(2)]]))
    low, high = tower(torch.tensor([[-60.0], [60.0]]))
    torch.testing.assert_close(low, torch.tensor([0.0, 2.0, 5.0]))
    torch.testing.assert_close(high, torch.tensor([2.0, 5.0, 185.0]))


def test_the_amount_loss_is_of_the_true_class_and_of_payers() -> None:
    amounts = torch.tensor([[1.0, 3.0, 6.0]]).expand(3, 3)
    label = torch.tensor([0.0, 2.5, 100.0])
    exceeds = label[:, None] > torch.tensor([0.0, 2.0, 5.0])
    far = log1p(100) - log1p(6)
    expected = [0.0, 0.5 * (log1p(3) - log1p(2.5)) ** 2, far - 0.5]
    assert amount_loss(amounts, label, exceeds).tolist() == pytest.approx(expected)


def test_the_ordinal_loss_adds_its_three_parts() -> None:
    head = head_of("ordinal")
    hidden, label = torch.rand(1, 2, 3, dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    exceeds = torch.tensor([[True, True, False]])
    logits, amounts = head.ordinal(hidden[:, 0]), head.amount(hidden[:, 1])
    survival = logits.sigmoid().cumprod(1)[0]
    value = (survival[0] - survival[1]) * amounts[0, 0] + (survival[1] - survival[2]) * amounts[0, 1] + survival[2] * amounts[0, 2]
    blend = torch.nn.functional.huber_loss(torch.log1p(value), torch.log1p(label[0]))
    expected = -(survival[1] - survival[2]).log() + amount_loss(amounts, label, exceeds)[0] / STATS.pay_share + 0.5 * blend
    torch.testing.assert_close(head.row_loss(hidden, label)[0], expected)
    predicted = head.predict(hidden)
    torch.testing.assert_close(predicted["ltv"][0], value)
    torch.testing.assert_close(predicted["pay"][0], survival[0])


def test_masses_can_be_kept_from_the_blended_loss() -> None:
    hidden, label = torch.rand(4, 2, 3, dtype=torch.float64), torch.tensor([0.0, 1.0, 3.0, 9.0], dtype=torch.float64)
    gradients = []
    for options in ({"detach_masses": True}, {"blend_weight": 0.0}):
        head = head_of("ordinal", **options)
        head.row_loss(hidden, label).sum().backward()
        gradients.append(head.ordinal.output.weight.grad)
    torch.testing.assert_close(*gradients)


def test_ziln_by_hand() -> None:
    head = head_of("ziln")
    with torch.no_grad():
        for layer in (head.pay, head.amount):
            layer.weight.zero_()
        head.pay.bias.fill_(logit(0.2))
        head.amount.bias.copy_(torch.tensor([1.0, log(exp(0.5) - 1)]))  # mu 1, sigma 0.5
    hidden, label = torch.zeros(2, 2, 3, dtype=torch.float64), torch.tensor([0.0, 4.0], dtype=torch.float64)
    density = exp(-0.5 * ((log(4) - 1) / 0.5) ** 2) / (4 * 0.5 * sqrt(2 * pi))
    assert head.row_loss(hidden, label).tolist() == pytest.approx([-log(0.8), -log(0.2) - log(density)])
    predicted = head.predict(hidden)
    assert predicted["ltv"].tolist() == pytest.approx([0.2 * exp(1 + 0.125)] * 2)
    assert predicted["pay"].tolist() == pytest.approx([0.2] * 2)


def test_ziln_stays_finite_where_its_tower_runs_away() -> None:
    head = head_of("ziln")
    with torch.no_grad():
        head.amount.bias.copy_(torch.tensor([500.0, 500.0]))
    hidden, label = torch.zeros(2, 2, 3, dtype=torch.float64), torch.tensor([0.0, 4.0], dtype=torch.float64)
    assert head.row_loss(hidden, label).isfinite().all()
    assert head.predict(hidden)["ltv"].isfinite().all()


@pytest.mark.parametrize("target", ["log1p", "raw"])
def test_regression_predicts_in_units_of_the_label(target) -> None:
    head = head_of("mse", target=target)
    with torch.no_grad():
        head.output.weight.zero_()
        head.output.bias.fill_(log1p(8.0) if target == "log1p" else 8.0 / STATS.mean_paid)
    hidden, label = torch.zeros(1, 1, 3, dtype=torch.float64), torch.tensor([3.0], dtype=torch.float64)
    assert head.predict(hidden)["ltv"].item() == pytest.approx(8.0)
    off = log1p(8) - log1p(3) if target == "log1p" else 5 / STATS.mean_paid
    assert head.row_loss(hidden, label).item() == pytest.approx(off**2)


@pytest.mark.parametrize(
    ("kind", "options"),
    [*((kind, {}) for kind in KINDS), ("ordinal", {"ordinal": "coral"}), ("mse", {"target": "raw"})],
    ids=[*KINDS, "coral", "raw mse"],
)
def test_head_gradients(kind, options) -> None:
    # A stopped gradient is none of the function's.
    head = head_of(kind, detach_masses=False, **options)
    tower_inputs = torch.randn(5, head.num_tasks, 4, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0.0, 1.0, 3.0, 9.0, 0.0], dtype=torch.float64)
    label = (label > 0).double() if kind == "click" else label
    names, parameters = zip(*head.named_parameters(), strict=True)

    def row_loss(inputs, *values):
        return functional_call(head, dict(zip(names, values, strict=True)), (inputs, label))

    assert gradcheck(row_loss, (tower_inputs, *parameters))


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_learns_what_pays(kind) -> None:
    torch.manual_seed(0)
    head = head_of(kind)
    tower_inputs = torch.randn(400, head.num_tasks, 4, dtype=torch.float64)
    signal = tower_inputs[:, 0, 0]
    label = torch.where(signal > 0, (2 * signal).exp(), 0.0)
    label = (label > 0).double() if kind == "click" else label
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(150):
        loss = head(tower_inputs, label).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    predicted = head.predict(head.hidden(tower_inputs))
    score = predicted["click" if kind == "click" else "ltv"]
    assert score[signal > 0.5].min() > score[signal < -0.5].max()
