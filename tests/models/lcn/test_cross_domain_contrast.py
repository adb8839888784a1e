"""The contrastive loss of a batch against loops over its definition: who is paired, what is a negative, how often each is drawn."""

from dataclasses import replace
from math import exp, log

import pytest
import torch

from raytrain.data.batch import Batch, Sequence
from raytrain.model_config import ContrastSection, LcnModel
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.sequence_network import HistoryShape
from raytrain.models.lcn.cross_domain_contrast import CrossDomainContrast, TargetEvents
from raytrain.models.lcn.network import LcnInterest

T = 0.5
SECTION = ContrastSection(
    temperature=T, num_pairs=1, partner_events=1, random_pairs=False, hard_negative_weight=3.0, frequency_steps=1_000_000
)
USERS = [1, 2, 2, 9]
"""Row 3 is padding."""
CANDIDATES = [30, 31, 32, 33]
TAKEN = [True, True, False, False]
EVENTS, AGES = [[10, 11], [12, 10], [12, 10], [13, 13]], [[90, 50], [80, 40], [80, 40], [9, 9]]
EARLIER, EARLIER_AGES = [40, 30, 30, 41], [60, 70, 70, 5]
"""An event of each target history, which the user took."""
PASSED_OVER = [31, 44, 31, 0]


def vector(item: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.tensor([item % 7 - 3.0, item % 5 - 1.5, item % 3 - 0.5]), dim=0)


def batch() -> Batch:
    zeros = torch.zeros(4)
    group = torch.tensor(USERS)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.0])
    return Batch({"item": torch.tensor(CANDIDATES)}, {}, {}, torch.tensor(TAKEN).float(), weight, group, group, domain=zeros)


def targets() -> TargetEvents:
    items = torch.tensor([CANDIDATES, EARLIER]).t()
    present = torch.tensor([[True, True]] * 3 + [[False, False]])
    taken = torch.tensor([TAKEN, [True, True, True, False]]).t()
    passed = torch.stack([vector(item) * (item > 0) for item in PASSED_OVER])
    ages = torch.tensor([[0] * 4, EARLIER_AGES]).t()
    return TargetEvents(
        torch.stack([torch.stack([vector(int(i)) for i in row]) for row in items]),
        items,
        ages,
        taken,
        present,
        passed,
        torch.tensor(PASSED_OVER),
    )


def source() -> tuple[torch.Tensor, HistoryView]:
    rows = torch.stack([vector(item) for item in range(14)])
    items = torch.tensor(EVENTS)
    return rows, HistoryView(rows, items, Sequence(items, torch.full((4,), 2), age_s=torch.tensor(AGES)))


def expected(shares_ids: bool = False) -> list[float]:
    """Loops over rows, events and candidates; counts of what is offered as a negative give the logQ weights."""
    offered, pairs = [], []
    for row in range(3):
        events = ((CANDIDATES[row], 0, TAKEN[row]), (EARLIER[row], EARLIER_AGES[row], True))
        for item, age, taken in events:
            offered.append((item, USERS[row], taken))
            before = [event for event, old in zip(EVENTS[row], AGES[row], strict=True) if old > age]
            if taken and before:
                pairs.append((row, before[-1], item))
    sources = [(event, USERS[row], True) for row, event, _ in pairs]

    def share(item: int, among: list) -> float:
        return sum(one == item for one, _, _ in among) / len(among)

    def loss(anchor: int, positive: int, user: int, among: list, hard: float, own: tuple[int, float] | None) -> float:
        def score(item: int) -> float:
            return float(vector(anchor) @ vector(item)) / T

        of_positive = exp(score(positive)) / share(positive, among)
        total = of_positive
        for item, whose, taken in among:
            if item == positive or (whose == user and taken) or (shares_ids and item == anchor):
                continue
            total += exp(score(item)) / share(item, among) * (hard if whose == user else 1.0)
        if own is not None:
            total += exp(score(own[0])) / own[1] * hard
        return -log(of_positive / total)

    by_row = [[], [], [], []]
    for row, event, item in pairs:
        passed = PASSED_OVER[row]
        own = None if not passed or passed == item else (passed, max(share(passed, offered), 0.5 / len(offered)))
        both = loss(event, item, USERS[row], offered, 3.0, own), loss(item, event, USERS[row], sources, 1.0, None)
        by_row[row].append(sum(both) / 2)
    return [sum(losses) / max(1, len(losses)) for losses in by_row]


@pytest.mark.parametrize("shares_ids", [False, True])
def test_the_loss_of_a_batch_is_its_definition(shares_ids: bool) -> None:
    rows, view = source()
    found = CrossDomainContrast(SECTION, shares_ids)(targets(), rows, view, batch())
    assert found.tolist() == pytest.approx(expected(shares_ids), rel=1e-4)
    assert all(value > 0 for value in found[:3].tolist())


def test_an_anchor_met_in_the_other_domain_is_no_negative() -> None:
    """Target item 10 is a candidate here, and the source event of two pairs."""
    shared = replace(targets(), item=targets().item.masked_fill(targets().item == 40, 10))
    rows, view = source()
    apart, same = (CrossDomainContrast(SECTION, shares_ids)(shared, rows, view, batch()) for shares_ids in (False, True))
    assert same[1] < apart[1]


def test_target_events_keep_their_ages_and_what_was_passed_over_needs_a_row() -> None:
    model = LcnModel(contrast={"pair_side": {"rating": [2]}, "passed_over_side": {"rating": [1]}, "random_pairs": False})
    shapes = {name: HistoryShape(name, 3, {"rating": 3}) for name in ("target", "source")}
    interest = LcnInterest(model, shapes, "target", "item")
    items = torch.tensor([[5, 6, 7], [5, 6, 0], [5, 0, 0], [0, 0, 0]])
    rating = torch.tensor([[2, 1, 2], [1, 2, 0], [2, 0, 0], [0, 0, 0]])
    ages = torch.tensor([[30, 20, 10], [25, 15, 0], [8, 0, 0], [0, 0, 0]])
    rows = torch.stack([vector(item) for item in range(8)])
    view = HistoryView(rows, items, Sequence(items, torch.tensor([3, 2, 1, 0]), {"rating": rating}, ages))
    found = interest._target_events(torch.ones(4, 3), {"target": view}, {"target": rows}, batch())
    assert found.item.tolist() == [[30, 7], [31, 6], [32, 5], [33, 0]]
    assert found.age_s[:3].tolist() == [[0, 10], [0, 15], [0, 8]]
    assert found.is_positive.tolist() == [[True, True], [True, True], [False, True], [False, False]]
    assert found.is_present.tolist() == [[True, True]] * 3 + [[False, False]]
    # Rows 2 and 3 passed nothing over: zeros, not the row of whatever stands first.
    assert found.passed_over.any(1).tolist() == [True, True, False, False]
    assert found.passed_over_item[:2].tolist() == [6, 5]
