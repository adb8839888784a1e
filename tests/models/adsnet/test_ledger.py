"""The ledger: its arithmetic by hand, R ranks as one, its decisions, its test of purity, and a toy world in which transfer can hurt."""

import pytest
import torch

from raytrain.adsnet_config import GainSection
from raytrain.models.adsnet.backbone import BackboneInputs
from raytrain.models.adsnet.gain.judge import GainJudge
from raytrain.models.adsnet.gain.ledger import GainLedger
from raytrain.models.adsnet.gain.purity import purity_of
from raytrain.models.adsnet.gain.rows import JudgedRows, RowGains
from tests.models.adsnet.several_ranks import part, weigh_together
from tests.models.adsnet.toy import LogisticHead, auc, judged, train_toy

DECIDES_AT_ONCE = GainSection(decay=0.5, min_rows=0, tau=0.0, tau_steps=0)


def rows_of(slices: list[int], num_internal: int = 0, weight: list[float] | None = None) -> JudgedRows:
    """Internal rows first, then one external row for each slice named."""
    num_rows = num_internal + len(slices)
    unused = BackboneInputs(torch.empty(num_rows, 0, 0), torch.empty(num_rows, 0))
    return JudgedRows(
        label=torch.zeros(num_rows),
        weight=torch.ones(num_rows) if weight is None else torch.tensor(weight),
        is_external=torch.arange(num_rows) >= num_internal,
        slice=torch.tensor([0] * num_internal + slices),
        fold=torch.arange(num_rows) % 2,
        vanilla_inputs=unused,
        gain_inputs=unused,
        tower_inputs=torch.empty(num_rows, 0, 0),
    )


def put(ledger: GainLedger, rows: JudgedRows, gain: list[float]) -> None:
    ledger.update(ledger.sums(RowGains(torch.tensor(gain), rows.weight), rows))


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
    section = GainSection(decay=0.5, min_rows=0, tau=-0.1, first_tau=0.5, tau_steps=1)
    ledger = GainLedger(section, 3, is_scaled=False)
    ledger._compares = True
    put(ledger, rows_of([0, 1, 2]), [0.6, 0.05, -0.4])
    assert ledger.weights().tolist() == [1.0, 0.0, 0.0]
    put(ledger, rows_of([0, 1, 2]), [0.6, 0.05, -0.4])
    assert ledger.threshold().item() == pytest.approx(0.5)
    assert ledger.weights().tolist() == [1.0, 0.0, 0.0]
    # What is let in falls below fresh rows: tau counts from these again.
    for _ in range(20):
        put(ledger, rows_of([0, 1, 2]), [-0.05, 0.05, -0.4])
    assert ledger.weights().tolist() == [1.0, 1.0, 0.0]


def test_a_held_out_rows_gain_is_zero() -> None:
    ledger = GainLedger(DECIDES_AT_ONCE, 2, is_scaled=True)
    rows = rows_of([0, 1], num_internal=2)
    gain, seen = torch.tensor([2.0, -2.0, 5.0, -1.0]), torch.tensor([6.0, 2.0])
    ledger.update(ledger.sums(RowGains(gain, rows.weight, reference=seen), rows))
    # Held-out rows gain 3 on average, internal ones move by 2: (5 - 3) / 2 and (-1 - 3) / 2.
    assert ledger.reference() == 3.0
    assert ledger.gains().tolist() == [1.0, -2.0]
    # Between looks at them their last mean stays.
    ledger.update(ledger.sums(RowGains(gain, rows.weight), rows))
    assert ledger.reference() == 3.0
    assert GainLedger(DECIDES_AT_ONCE, 2, is_scaled=True).reference() == 0.0


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
    ledger = GainLedger(GainSection(**{"decay": 0.5, "min_rows": 0, "tau_steps": 0, **options}), 4, is_scaled=False)
    put(ledger, rows_of([0, 1, 2, 2]), [-0.05, 0.0, 0.1, 0.1])
    assert ledger.weights().tolist() == pytest.approx(expected)


def test_the_threshold_follows_the_estimator_unless_it_is_given() -> None:
    found = [GainSection().threshold, GainSection(reference="zero").threshold, GainSection(estimator="siamese").threshold]
    assert found == [-0.1, -0.3, 0.0]
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
    first, second = (GainLedger(DECIDES_AT_ONCE, 2, is_scaled=True) for _ in range(2))
    put(first, rows_of([0, 1], num_internal=1), [1.0, 2.0, -3.0])
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for ledger in (first, second):
        put(ledger, rows_of([1, 1], num_internal=1), [2.0, 1.0, 4.0])
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
