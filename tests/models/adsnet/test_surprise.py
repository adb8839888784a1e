"""Surprise: its arithmetic by hand, and what it keeps out."""

import pytest

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.gain.ledger import GainLedger
from tests.models.adsnet.ledger_rows import look, put, rows_of


def test_surprise_is_what_rows_cost_beyond_held_out_rows_of_their_class_of_label() -> None:
    """Held-out rows cost 1 where nobody pays and 3 where somebody does, give or take a half."""
    ledger = GainLedger(GainSection(decay=0.5, min_rows=0, first_tau=9.0, tau_steps=99), 4, is_scaled=True)
    rows = rows_of([0, 1, 1, 2], num_internal=1, label=[0.0, 9.0, 0.0, 9.0, 0.0])
    losses = [float("inf"), 3.0, 1.5, 3.5, 0.8]
    look(ledger, [0.0, 0.0], label=[0.0, 7.0], loss=[1.0, 3.0])
    put(ledger, rows, [1.0, 0.0, 0.0, 0.0, 0.0], loss=losses)
    assert ledger.surprise().isnan().all(), "how far held-out rows lie from each other is known from the second look on"
    look(ledger, [0.0] * 4, label=[0.0, 0.0, 7.0, 7.0], loss=[0.5, 1.5, 2.5, 3.5])
    put(ledger, rows, [1.0, 0.0, 0.0, 0.0, 0.0], loss=losses)
    assert ledger.surprise().tolist()[:3] == pytest.approx([0.0, 1.0, -0.4])
    assert ledger.surprise()[3].isnan()
    put(ledger, rows_of([1], num_internal=1), [1.0, 0.0], loss=[5.0, 1.0])
    # As gain, it decays with a slice's own visits: (2 / 2 + 0) / (2 / 2 + 1).
    assert ledger.surprise().tolist()[:3] == pytest.approx([0.0, 0.5, -0.4])


def surprised(section: GainSection, num_slices: int) -> GainLedger:
    """Held-out rows cost 2, give or take 1."""
    ledger = GainLedger(section, num_slices, is_scaled=True)
    look(ledger, [0.0], loss=[2.0])
    look(ledger, [0.0, 0.0], loss=[1.0, 3.0])
    return ledger


@pytest.mark.parametrize("weights", ["hard", "soft"])
@pytest.mark.parametrize("limit", [0.25, 0.75, None])
def test_a_slice_that_surprises_is_not_let_in_whatever_its_gain(limit, weights) -> None:
    section = GainSection(decay=0.0, min_rows=0, tau=-0.1, tau_steps=0, max_surprise=limit, weights=weights, temperature=0.01)
    ledger = surprised(section, 2)
    put(ledger, rows_of([0] * 100 + [1] * 100, num_internal=1), [1.0] + [0.1] * 100 + [0.5] * 100, loss=[2.0] + [2.1] * 100 + [2.5] * 100)
    report = ledger.report()
    assert report.barred.tolist() == [False, limit == 0.25]
    assert report.weight.tolist() == pytest.approx([1.0, 1.0 - (limit == 0.25)], abs=1e-3)
    assert (report.weight[1] == 0.0) == (limit == 0.25)
    assert report.gain.tolist() == pytest.approx([0.1, 0.5])


def test_rows_that_are_trained_on_say_nothing_of_their_slices_surprise() -> None:
    """However cheap they become: one that is dropped for its gain is judged by what it cost before it came in, and costs since."""
    ledger = surprised(GainSection(decay=0.995, min_rows=0, tau=-0.1, tau_steps=0), 1)
    rows = rows_of([0] * 10, num_internal=1)
    for _ in range(200):
        put(ledger, rows, [1.0] + [0.1] * 10, loss=[2.0] + [2.1] * 10)
    assert ledger.weights().item() == 1.0
    while ledger.weights().item():
        put(ledger, rows, [1.0] + [-0.5] * 10, loss=[2.0] + [0.5] * 10)
    assert ledger.surprise().item() == pytest.approx(0.1), "of before it came in"
    for _ in range(300):
        put(ledger, rows, [1.0] + [0.9] * 10, loss=[2.0] + [2.5] * 10)
        assert ledger.weights().item() == 0.0
    assert ledger.report().barred.item()
    assert ledger.gains().item() > 0.5


@pytest.mark.parametrize("options", [{"estimator": "grad"}, {"reference": "zero"}, {"max_surprise": None}, {}], ids=str)
def test_surprise_bars_nothing_where_slices_are_not_judged_by_it(options) -> None:
    ledger = surprised(GainSection(**options), 1)
    put(ledger, rows_of([0] * 100, num_internal=1), [1.0] + [0.1] * 100, loss=[2.0] + [5.5] * 100)
    judged = not options
    assert ledger.report().barred.item() == judged
    assert ledger.surprise().isnan().item() != judged


def test_a_slice_that_counts_nearly_whole_keeps_what_was_known_of_it() -> None:
    section = GainSection(decay=0.9, min_rows=5, tau=-0.1, tau_steps=0, weights="soft", temperature=0.01)
    ledger, rows = surprised(section, 1), rows_of([0] * 10, num_internal=1)
    for _ in range(200):
        put(ledger, rows, [1.0] + [0.2] * 10, loss=[2.0] + [2.0] * 10)
        assert ledger.weights().item() > 0.99


def test_a_few_rows_surprise_by_luck() -> None:
    """Four rows' mean lies up to 1 above the limit, a hundred's up to 0.2."""
    for num_rows, surprise, barred in ((4, 1.2, False), (4, 1.3, True), (100, 0.4, False), (100, 0.5, True)):
        ledger = surprised(GainSection(min_rows=0), 1)
        put(ledger, rows_of([0] * num_rows, num_internal=1), [1.0] + [0.0] * num_rows, loss=[2.0] + [2.0 + surprise] * num_rows)
        assert ledger.report().barred.item() == barred


def test_nothing_is_let_in_before_it_is_known_whether_it_surprises() -> None:
    section = GainSection(decay=0.0, min_rows=0, tau=-0.1, tau_steps=0)
    ledger, rows = GainLedger(section, 1, is_scaled=True), rows_of([0], num_internal=1)
    look(ledger, [0.0], loss=[2.0])
    put(ledger, rows, [1.0, 0.5], loss=[2.0, 2.0])
    assert ledger.weights().item() == 0.0
    look(ledger, [0.0, 0.0], loss=[1.0, 3.0])
    put(ledger, rows, [1.0, 0.5], loss=[2.0, 2.0])
    assert ledger.weights().item() == 1.0
