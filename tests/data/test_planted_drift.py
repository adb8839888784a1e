"""Planted drift: clicks follow the rule, domains lie at the angle asked for, users come and go, and a day is a function of the seed."""

from datetime import UTC, date, datetime

import numpy as np
import pyarrow.parquet as pq
import pytest

from raytrain.data.planted_drift import DOMAINS, TRUTH_FILE, PlantedDriftSpec, Rule, draw_day, write_truth
from raytrain.data.planted_drift.rule import CATEGORY_SHARE, KEPT, month_of
from raytrain.errors import ConfigError
from tests.messages import assert_three_parts

SPEC = PlantedDriftSpec(num_days=70, natural_rows_per_day=400, ad_rows_per_day=100, num_users=200, num_items=40, num_categories=5, seed=3)


def spec_with(**changes) -> PlantedDriftSpec:
    return PlantedDriftSpec.parse(SPEC.model_dump() | changes, "test")


def many_pairs(rule: Rule, domain: str, count: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.integers(1, rule.spec.num_users + 1, count), draw.choice(rule.items[domain], count)


def correlation(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.corrcoef(left.reshape(-1), right.reshape(-1))[0, 1])


@pytest.fixture(scope="module")
def rule() -> Rule:
    return Rule.of(SPEC)


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_day_depends_on_the_seed_and_on_nothing_else(rule, domain):
    shorter, other = Rule.of(spec_with(num_days=41)), Rule.of(spec_with(seed=4))
    for day in (0, 40):
        rows = draw_day(rule, domain, day)
        # Drawn again, after other days, and of a shorter span.
        for again in (draw_day(rule, domain, day), draw_day(shorter, domain, day)):
            assert {name: values.tolist() for name, values in again.items()} == {name: values.tolist() for name, values in rows.items()}
        assert draw_day(other, domain, day)["user"].tolist() != rows["user"].tolist()
    assert draw_day(rule, domain, 1)["user"].tolist() != draw_day(rule, domain, 0)["user"].tolist()


def test_a_day_has_its_rows_in_its_own_hours_and_order(rule):
    rows = draw_day(rule, "natural", 33)
    assert len(rows["user"]) == 400
    times = [datetime.fromtimestamp(time, UTC) for time in rows["time"].tolist()]
    assert {time.date() for time in times} == {date(2017, 2, 3)}
    assert [time.hour + 1 for time in times] == rows["hour"].tolist()
    assert set(rows["weekday"]) == {date(2017, 2, 3).isoweekday()}
    assert np.lexsort((rows["item"], rows["user"], rows["time"])).tolist() == list(range(400))
    assert set(rows["label"]) == {0, 1}
    assert rows["category"].tolist() == rule.categories[rows["item"] - 1].tolist()


def test_months_are_those_of_the_calendar():
    spec = spec_with(start=date(2017, 1, 30))
    assert month_of(spec, np.array([0, 1, 2, 29, 30])).tolist() == [0, 0, 1, 1, 2]


@pytest.mark.parametrize("overlap", [pytest.param(0.0, id="no item shared"), pytest.param(0.25, id="a quarter shared")])
def test_domains_show_items_of_their_own(overlap):
    rule = Rule.of(spec_with(overlap=overlap))
    shown = {domain: set(rule.items[domain].tolist()) for domain in DOMAINS}
    assert [len(items) for items in shown.values()] == [40, 40]
    assert len(shown["natural"] & shown["ads"]) == overlap * 40
    assert shown["natural"] | shown["ads"] == set(range(1, rule.spec.num_all_items + 1))
    drawn = {domain: set(np.concatenate([draw_day(rule, domain, day)["item"] for day in range(5)]).tolist()) for domain in DOMAINS}
    assert drawn == shown
    # Users and categories are the same in both.
    assert [set(rule.categories[np.array(sorted(items)) - 1]) for items in shown.values()] == [set(range(1, 6))] * 2


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        pytest.param({}, {"natural": 0.2, "ads": 0.1}, id="a tenth of ads"),
        pytest.param({"ad_positive_rate": 0.01}, {"natural": 0.2, "ads": 0.01}, id="a hundredth of ads"),
        pytest.param({"ad_positive_rate": 0.001}, {"natural": 0.2, "ads": 0.001}, id="a thousandth of ads"),
    ],
)
def test_rates_of_clicks_are_those_asked_for(rates, expected):
    rule = Rule.of(spec_with(num_users=2_000, num_items=400, **rates))
    # A low rate hangs on the few pairs that match best, which are others two months later.
    tolerances = (0.05, 0.1) if rates.get("ad_positive_rate", 1) > 0.001 else (0.2, 0.3)
    for domain, rate in expected.items():
        for day, tolerance in zip((0, 60), tolerances, strict=True):
            assert rule.probability(domain, *many_pairs(rule, domain), day).mean() == pytest.approx(rate, rel=tolerance)


def test_labels_follow_the_probability():
    rule = Rule.of(spec_with(natural_rows_per_day=40_000))
    rows = draw_day(rule, "natural", 12)
    truth = rule.probability("natural", rows["user"], rows["item"], 12)
    tenth = np.argsort(np.argsort(truth)) // 4_000
    for number in range(10):
        own = tenth == number
        assert rows["label"][own].mean() == pytest.approx(truth[own].mean(), abs=0.025)


def test_the_log_odds_are_those_of_the_formula(rule):
    user, item, day = np.array([7]), rule.items["ads"][:1], 35
    preference = rule.lasting["ads"][6] + rule.drifting["ads"][1, 6]
    expected = 2.5 * preference @ rule.item_vectors[item[0] - 1] / np.sqrt(6) + rule.item_effects[item[0] - 1] + rule.user_effects["ads"][6]
    zero = Rule.of(spec_with(strength=0))
    assert rule.log_odds("ads", user, item, day)[0] - rule._base["ads"] == pytest.approx(expected)
    assert zero.log_odds("ads", user, item, day)[0] - zero._base["ads"] == pytest.approx(
        zero.item_effects[item[0] - 1] + zero.user_effects["ads"][6]
    )


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [
        pytest.param(0, 1, id="the same"),
        pytest.param(60, 0.5, id="half"),
        pytest.param(90, 0, id="unrelated"),
        pytest.param(180, -1, id="opposite"),
    ],
)
def test_preferences_of_the_domains_lie_at_the_angle_asked_for(degrees, expected):
    rule = Rule.of(spec_with(shift_degrees=degrees, num_users=3_000))
    for part in (rule.lasting, rule.drifting):
        assert correlation(part["natural"], part["ads"]) == pytest.approx(expected, abs=0.04)
        assert part["ads"].std() == pytest.approx(part["natural"].std(), rel=0.03)
    natural, ads = (rule.user_effects[domain] for domain in DOMAINS)
    assert abs(correlation(natural, ads)) < 0.05


def test_the_drifting_part_drifts_and_the_lasting_part_stays():
    rule = Rule.of(spec_with(drift=0.4, num_users=3_000, num_days=150))
    drifting = rule.drifting["natural"]
    assert len(drifting) == 5
    assert rule.lasting["natural"].var() == pytest.approx(0.6, rel=0.05)
    for month in range(4):
        assert drifting[month + 1].var() == pytest.approx(0.4, rel=0.05)
        assert correlation(drifting[month], drifting[month + 1]) == pytest.approx(KEPT, abs=0.03)
    assert correlation(drifting[0], drifting[2]) == pytest.approx(KEPT**2, abs=0.04)
    still = Rule.of(spec_with(drift=0))
    assert not still.drifting["natural"].any()


def test_items_of_a_category_are_alike():
    rule = Rule.of(spec_with(num_items=400))
    apart = [rule.item_vectors[rule.categories == category].var(axis=0).mean() for category in range(1, 6)]
    assert apart == pytest.approx([1 - CATEGORY_SHARE] * 5, rel=0.2)
    assert abs(correlation(np.arange(len(rule.item_effects)), rule.item_effects)) < 0.15


def test_users_who_come_in_bursts_are_away_between_them():
    rule = Rule.of(spec_with(active_days=3, dormant_days=7, natural_rows_per_day=2_000))
    seen = [set(draw_day(rule, "natural", day)["user"].tolist()) for day in range(30)]
    assert rule.dormant.sum() == 60
    for user in np.flatnonzero(rule.dormant) + 1:
        bursts = [(day + rule.phase[user - 1]) % 10 for day in range(30)]
        assert all(burst < 3 for day, burst in enumerate(bursts) if user in seen[day])
        assert rule.day_of_burst(np.array([user]), 4)[0] == bursts[4]
        # 33 rows are expected of each on a day that they are there.
        assert all(user in seen[day] for day, burst in enumerate(bursts) if burst < 3)
    always = np.flatnonzero(~rule.dormant) + 1
    assert rule.day_of_burst(always, 4).tolist() == [0] * 140
    # Users are away at different times, and have as many rows in all as the others.
    assert len(set(rule.phase[rule.dormant].tolist())) == 10
    presence = np.mean([rule.presence(day) for day in range(10)], axis=0)
    assert presence[rule.dormant].mean() == pytest.approx(presence[~rule.dormant].mean(), rel=0.1)


def test_the_truth_stands_in_a_table(rule, tmp_path):
    for _ in range(2):
        write_truth(rule, str(tmp_path))
    truth = pq.read_table(tmp_path / TRUTH_FILE).to_pandas()
    users, items = truth[truth["entity"] == "user"], truth[truth["entity"] == "item"]
    assert (users["id"].tolist(), items["id"].tolist()) == (list(range(1, 201)), list(range(1, 81)))
    assert users["dormant"].tolist() == rule.dormant.tolist()
    assert users["phase"].tolist() == rule.phase.tolist()
    assert items["category"].tolist() == rule.categories.tolist()
    assert items.loc[items["ads"].astype(bool), "id"].tolist() == sorted(rule.items["ads"].tolist())
    np.testing.assert_allclose(np.stack(users["ad_vector"]), rule.lasting["ads"], rtol=1e-6)
    np.testing.assert_allclose(np.stack(items["vector"]), rule.item_vectors, rtol=1e-6)
    assert items["dormant"].isna().all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"num_items": 2**30}, "num_items=1073741824", id="more items than 32 bits"),
        pytest.param({"dormant_share": 1.0}, "dormant_share=1.0", id="nobody there every day"),
        pytest.param({"shift_degrees": 270}, "shift_degrees", id="more than opposite"),
        pytest.param({"ad_positive_rate": 0}, "ad_positive_rate", id="no clicks"),
        pytest.param({"num_day": 5}, "Did you mean num_days?", id="an unknown key"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(values, expected):
    with pytest.raises(ConfigError) as error:
        spec_with(**values)
    assert_three_parts(error.value, expected)
