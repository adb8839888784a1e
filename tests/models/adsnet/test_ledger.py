"""The ledger: its arithmetic by hand, R ranks as one, its decisions, its test of purity, and a toy world in which transfer can hurt."""

import math

import pytest
import torch

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.gain.judge import GainJudge
from raytrain.models.adsnet.gain.ledger import GainLedger
from raytrain.models.adsnet.gain.purity import purity_of
from raytrain.models.adsnet.gain.reference import Reference
from raytrain.models.adsnet.gain.rows import RowGains
from tests.models.adsnet.ledger_rows import look, put, rows_of
from tests.models.adsnet.several_ranks import part, weigh_together
from tests.models.adsnet.toy import LogisticHead, auc, judged, train_toy

DECIDES_AT_ONCE = GainSection(decay=0.5, min_rows=0, tau=0.0, tau_steps=0, max_surprise=None)


def test_means_decay_with_a_slices_own_visits() -> None:
    ledger = GainLedger(DECIDES_AT_ONCE, 3, is_scaled=False)
    put(ledger, rows_of([0, 0, 1]), [1.0, 3.0, 5.0])
    assert ledger.gains().tolist()[:2] == [2.0, 5.0]
    assert ledger.gains()[2].isnan()
    put(ledger, rows_of([0]), [-4.0])
    # Slice 0: (4 / 2 - 4) / (2 / 2 + 1); slice 1 was not visited.
    assert ledger.gains().tolist()[:2] == [-1.0, 5.0]
    assert ledger.report().volume.tolist() == [3.0, 1.0, 0.0]
    assert ledger.weights().tolist() == [0.0, 1.0, 0.0]


def test_padding_and_rows_without_evidence_do_not_count() -> None:
    ledger = GainLedger(DECIDES_AT_ONCE, 2, is_scaled=False)
    rows = rows_of([0, 0, 1], weight=[1.0, 0.0, 1.0])
    gain = RowGains(torch.tensor([2.0, float("nan"), float("inf")]), torch.tensor([1.0, 0.0, 0.0]))
    ledger.update(ledger.sums(gain, rows))
    assert ledger.gains()[0] == 2.0
    assert ledger.gains()[1].isnan()
    assert ledger.report().volume.tolist() == [1.0, 1.0]


def test_gains_are_shares_of_what_internal_rows_move() -> None:
    ledger = GainLedger(DECIDES_AT_ONCE, 1, is_scaled=True)
    look(ledger, [0.0])
    put(ledger, rows_of([0, 0], num_internal=3), [4.0, -4.0, 1.0, 6.0, 3.0])
    assert ledger.scale() == 3.0
    assert ledger.gains().item() == pytest.approx(1.5)
    assert GainLedger(DECIDES_AT_ONCE, 1, is_scaled=False).scale() == 1.0


def test_the_threshold_falls_from_its_first_value() -> None:
    section = GainSection(tau=-0.1, first_tau=0.3, tau_steps=4)
    assert [section.threshold_at(step) for step in (0, 1, 4, 9)] == pytest.approx([0.3, 0.2, -0.1, -0.1])
    assert GainSection(tau=-0.1, first_tau=0.3, tau_steps=0).threshold_at(0) == pytest.approx(-0.1)
    assert GainSection(tau=0.05).threshold_at(0) == pytest.approx(0.2)
    assert GainSection(estimator="siamese", tau=-0.1).threshold_at(0) == -0.1


def test_slices_are_also_compared_with_those_let_in() -> None:
    """Gains that all lie above the held-out rows' by luck: the lower slice is left out once the higher one is in."""
    section = GainSection(decay=0.5, min_rows=0, tau=-0.1, first_tau=0.5, tau_steps=2, max_surprise=None)
    ledger = GainLedger(section, 3, is_scaled=False)
    ledger._compares = True
    look(ledger, [0.0])
    put(ledger, rows_of([0, 1, 2]), [0.6, 0.05, -0.4])
    assert ledger.weights().tolist() == [1.0, 0.0, 0.0]
    put(ledger, rows_of([0, 1, 2]), [0.6, 0.05, -0.4])
    assert ledger.thresholds().tolist() == pytest.approx([0.5, 0.525, 0.5])
    assert ledger.weights().tolist() == [1.0, 0.0, 0.0]
    # What is let in falls, and tau counts from there.
    for _ in range(20):
        put(ledger, rows_of([0, 1, 2]), [-0.05, -0.11, -0.4])
    assert ledger.weights().tolist() == [1.0, 1.0, 0.0]


def test_harm_that_is_let_in_cannot_ask_for_more_and_more() -> None:
    section = GainSection(decay=0.0, min_rows=0, tau=-0.1, tau_steps=0, entry_margin=0.0, max_surprise=None)
    ledger = GainLedger(section, 2, is_scaled=True)
    look(ledger, [0.0])
    decided = []
    for gain in ((-0.05, -0.12), (-0.05, -0.12), (-0.18, -0.19), (-0.25, -0.19)):
        put(ledger, rows_of([0, 1], num_internal=1), [1.0, *gain])
        decided.append((round(ledger.report().threshold, 6), ledger.weights().tolist()))
    # Nothing let in; the mean of what is let in, -0.05; and twice -0.1, which is as far as it counts.
    assert decided == [(-0.1, [1.0, 0.0]), (-0.15, [1.0, 1.0]), (-0.2, [1.0, 1.0]), (-0.2, [0.0, 1.0])]


@pytest.mark.parametrize("tau", [-0.01, 0.0, 0.1])
def test_a_tau_that_asks_for_much_leaves_room_below_the_mean_of_what_is_let_in(tau) -> None:
    section = GainSection(decay=0.0, min_rows=0, tau=tau, first_tau=tau, tau_steps=0, entry_margin=0.0, max_surprise=None)
    ledger = GainLedger(section, 4, is_scaled=True)
    look(ledger, [0.0])
    for _ in range(5):
        put(ledger, rows_of([0, 1, 2, 3], num_internal=1), [1.0, 0.18, 0.2, 0.25, 0.05])
    # Three lie together, their mean 0.21; the fourth further below it than luck.
    assert ledger.weights().tolist() == [1.0, 1.0, 1.0, 0.0]
    assert ledger.report().threshold == pytest.approx(max(tau, 0.21 - 0.075))


def test_a_slice_that_is_out_has_to_be_better_than_one_that_stays() -> None:
    section = GainSection(estimator="siamese", decay=0.0, min_rows=0, tau=-0.1, entry_margin=0.06)
    ledger = GainLedger(section, 2, is_scaled=False)
    decided = []
    for gain in ([-0.08, -0.03], [-0.08, -0.08], [-0.03, -0.12], [-0.09, -0.08], [-0.11, -0.03]):
        put(ledger, rows_of([0, 1]), gain)
        decided.append(ledger.weights().tolist())
    assert decided == [[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    assert (ledger.report().threshold, ledger.report().entry_threshold) == pytest.approx((-0.1, -0.04))


def test_a_slice_that_counts_in_part_has_come_in_part_of_the_way() -> None:
    section = GainSection(estimator="siamese", decay=0.0, min_rows=0, tau=-0.1, entry_margin=0.1, weights="soft")
    ledger = GainLedger(section, 1, is_scaled=False)
    for _ in range(60):
        put(ledger, rows_of([0]), [-0.06])
    weight = ledger.weights().item()
    # Its threshold lies between 0, to be let in, and -0.1, to stay.
    assert weight == pytest.approx(1 / (1 + math.exp(-(-0.06 + 0.1 * weight) / 0.1)))


def test_a_held_out_rows_gain_is_zero() -> None:
    ledger = GainLedger(DECIDES_AT_ONCE, 2, is_scaled=True)
    rows = rows_of([0, 1], num_internal=2)
    put(ledger, rows, [2.0, -2.0, 5.0, -1.0])
    assert ledger.gains().isnan().all(), "compared with nothing, a gain says nothing"
    look(ledger, [6.0, 0.0])
    put(ledger, rows, [2.0, -2.0, 5.0, -1.0])
    # Held-out rows gain 3 on average, internal ones move by 2: (5 - 3) / 2 and (-1 - 3) / 2.
    assert ledger.reference() == 3.0
    assert ledger.gains().tolist() == [1.0, -2.0]
    # Between looks at them their last mean stays.
    put(ledger, rows, [2.0, -2.0, 5.0, -1.0])
    assert ledger.gains().tolist() == [1.0, -2.0]


def test_a_row_is_compared_with_held_out_rows_of_its_class_of_label() -> None:
    """Held-out rows gain 1 where nobody pays and 4 where somebody does, as many of each."""
    ledger = GainLedger(DECIDES_AT_ONCE, 3, is_scaled=True)
    look(ledger, [1.0, 4.0], label=[0.0, 7.0])
    rows = rows_of([0, 0, 1, 1, 2, 2], num_internal=1, label=[0.0, 0.0, 9.0, 0.0, 9.0, 9.0, 9.0])
    put(ledger, rows, [1.0, 1.0, 4.0, 0.5, 3.5, 4.0, 4.0])
    # Slice 2 holds payers alone, which two rows do by luck: with the mean of all it would look better by 1.5.
    assert ledger.gains().tolist() == [0.0, -0.5, 0.0]


def test_a_mix_of_labels_counts_where_it_is_more_than_luck() -> None:
    section = GainSection(decay=0.999999, min_rows=0)
    for num_rows, expected in ((8, 0.0), (81, 1.5 - 0.25 / 1.5), (8100, 1.5 - 0.0025 / 1.5)):
        ledger = GainLedger(section, 1, is_scaled=True)
        look(ledger, [1.0, 4.0], label=[0.0, 7.0])
        put(ledger, rows_of([0] * num_rows, num_internal=1, label=[0.0] + [9.0] * num_rows), [1.0] + [4.0] * num_rows)
        # The mean of a row's class varies by 1.5 squared; nine times that, divided by the rows, is luck.
        assert ledger.gains().item() == pytest.approx(expected, abs=1e-4)


def test_a_held_out_row_without_weight_may_cost_anything() -> None:
    reference = Reference((0.0,), decay=0.5)
    label, weight = torch.zeros(2), torch.tensor([1.0, 0.0])
    for _ in range(2):
        reference.add(reference.sums_of(torch.tensor([2.0, float("inf")]), label, weight))
    assert (reference.mean(), reference.spread()) == (2.0, 0.0)


def test_a_class_without_held_out_rows_is_compared_with_all_of_them() -> None:
    reference = Reference((0.0, 5.0), decay=0.5)
    assert not reference.is_known()
    assert (reference.mean(), reference.variance()) == (0.0, 0.0)
    label, weight = torch.tensor([0.0, 0.0, 5.0]), torch.tensor([1.0, 1.0, 2.0])
    reference.add(reference.sums_of(torch.tensor([1.0, 3.0, 6.0]), label, weight))
    assert reference.expected(torch.tensor([0.0, 0.1, 5.0, 5.1])).tolist() == [2.0, 6.0, 6.0, 4.0]
    assert (reference.mean(), reference.variance()) == (4.0, 4.0)
    reference.add(torch.zeros_like(reference.sums))
    assert reference.sums[1].tolist() == [2.0, 2.0, 0.0, 0.0], "a step without a look forgets nothing"
    assert reference.spread().isnan()
    reference.add(reference.sums_of(torch.tensor([5.0]), torch.tensor([0.0]), torch.tensor([1.0])))
    assert reference.sums.tolist() == [[2.0 + 5.0, 6.0, 0.0, 3.0], [2.0, 1.0, 0.0, 1.0]]
    assert reference.spread() == 3.0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"tau": 0.0}, [0.0, 1.0, 1.0, 0.0]),
        ({"tau": -0.1}, [1.0, 1.0, 1.0, 0.0]),
        ({"tau": 0.0, "min_rows": 2}, [0.0, 0.0, 1.0, 0.0]),
        ({"tau": 0.05, "weights": "soft", "temperature": 0.1}, [1 / (1 + 2.718281828), 0.3775406688, 0.6224593312, 0.0]),
    ],
    ids=["zero", "below zero", "too few rows", "soft"],
)
def test_what_is_let_in(options, expected) -> None:
    ledger = GainLedger(GainSection(**{"decay": 0.5, "min_rows": 0, "tau_steps": 0, "entry_margin": 0.0, **options}), 4, is_scaled=False)
    put(ledger, rows_of([0, 1, 2, 2]), [-0.05, 0.0, 0.1, 0.1])
    assert ledger.weights().tolist() == pytest.approx(expected)


def test_the_threshold_follows_the_estimator_unless_it_is_given() -> None:
    sections = GainSection(), GainSection(reference="zero"), GainSection(estimator="siamese"), GainSection(estimator="grad")
    assert [section.threshold for section in sections] == [-0.075, -0.3, 0.0, -0.1]
    assert [section.margin for section in sections] == [0.025, 0.0, 0.0, 0.0]
    assert GainSection(estimator="siamese", tau=-0.001).threshold == -0.001


def test_three_ranks_keep_the_ledger_of_one() -> None:
    """Through the judge: probe gradients, sums and decisions, with ranks that hold other numbers of rows, one of them none internal."""
    torch.manual_seed(0)
    head = LogisticHead().double()
    with torch.no_grad():
        head.weight.normal_()
    world = type("World", (), {"gain": type("Gain", (), {"head": head})})
    sections = [
        GainSection(min_rows=0),
        GainSection(min_rows=0, weights="soft"),
        GainSection(min_rows=0, probe="held_out"),
        GainSection(estimator="grad"),
    ]
    for section in sections:
        draw = torch.Generator().manual_seed(1)
        one, ranks = GainJudge(section, 4), [GainJudge(section, 4) for _ in range(3)]
        for _ in range(3):
            features, label = torch.randn(60, 20, generator=draw).double(), torch.randint(0, 2, (60,), generator=draw).double()
            rows = judged(features, label, torch.randint(0, 4, (40,), generator=draw), torch.arange(40) % 2)
            probe = judged(torch.randn(9, 20, generator=draw).double(), torch.ones(9).double())
            whole = one.weigh(world, rows, probe, lambda value: value)
            cuts = ((0, 15), (15, 50), (50, 60)), ((0, 2), (2, 9), (9, 9))
            parts = [[part(source, *cut) for cut in where] for source, where in zip((rows, probe), cuts, strict=True)]
            accepted = torch.cat(weigh_together(world, ranks, *parts))
            assert torch.equal(accepted, whole) or section.weights == "soft"
            torch.testing.assert_close(accepted, whole, rtol=1e-12, atol=1e-12)
        for rank in ranks:
            for name, value in one.state_dict().items():
                torch.testing.assert_close(rank.state_dict()[name], value, rtol=1e-10, atol=1e-12)


def test_state_is_carried_over() -> None:
    section = GainSection(decay=0.5, min_rows=0, tau=0.0, tau_steps=0)
    first, second = (GainLedger(section, 2, is_scaled=True) for _ in range(2))
    for loss in (2.0, 3.0):
        look(first, [1.0], loss=[loss])
    put(first, rows_of([0, 1], num_internal=1), [1.0, 2.0, -3.0], loss=[1.0, 4.0, 3.0])
    assert (first.surprise() > 0).all()
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for ledger in (first, second):
        look(ledger, [0.5], loss=[1.5])
        put(ledger, rows_of([1, 1], num_internal=1), [2.0, 1.0, 4.0], loss=[1.0, 2.0, 3.0])
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


def slices_of(harm: list[float], rows_per_fold: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.full((2, len(harm)), float(rows_per_fold), dtype=torch.float64)
    return -torch.tensor([harm, harm], dtype=torch.float64) * rows, rows


@pytest.mark.parametrize(
    ("harm", "residual", "is_impure"),
    [
        ([0.0, 0.0, 1.0, 1.0], 0.0, False),
        ([0.2, 0.2, 0.8, 0.8], 0.4, False),
        ([0.35, 0.35, 0.65, 0.65], 0.7, True),
        ([0.5, 0.5, 0.5, 0.5], 1.0, True),
        ([0.0, 0.0, 0.0, 0.1], 0.0, False),
        ([-0.2, 0.0, 0.0, 0.1], 0.0, False),
    ],
    ids=["pure", "four fifths", "two thirds", "mixed", "hardly any harm", "no harm"],
)
def test_purity_by_hand(harm, residual, is_impure) -> None:
    found = purity_of(*slices_of(harm))
    assert found.harm == pytest.approx(sum(harm) / 4)
    assert found.residual_harm == pytest.approx(residual)
    assert found.is_impure == is_impure


def test_luck_of_one_half_of_the_rows_does_not_look_pure() -> None:
    draw = torch.Generator().manual_seed(0)
    gain, rows = slices_of([0.2] * 400, rows_per_fold=10)
    gain = gain + 10 * torch.randn(2, 400, generator=draw, dtype=torch.float64)
    found = purity_of(gain, rows)
    assert found.residual_harm > 0.7
    assert abs(found.agreement) < 0.15


def test_slices_that_never_came_are_no_evidence() -> None:
    gain, rows = slices_of([0.0, 1.0, 9.0])
    rows[:, 2] = 0.0
    assert purity_of(gain, rows).harm == pytest.approx(0.5)
    assert purity_of(gain[:, :1], rows[:, :1]).residual_harm == 0.0


def test_on_the_toy_the_ledger_finds_the_harmful_slices() -> None:
    ledger, mixed = train_toy(0, GainSection()), train_toy(0, GainSection(estimator="none"))
    assert auc(ledger.judge.report().gain, ~ledger.is_harmful) >= 0.95
    assert ledger.harmful_share < 0.05 < 0.45 < mixed.harmful_share
    assert ledger.test_auc > mixed.test_auc
    assert not ledger.judge.purity().is_impure


def test_on_the_toy_slices_of_mixed_rows_are_called_impure() -> None:
    assert train_toy(0, GainSection(), purity=0.65).judge.purity().is_impure
