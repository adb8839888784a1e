"""What planted drift is for: natural rows help or harm ads by the angle, and who was away is remembered by a long memory alone."""

import json
from functools import cache

import pytest

from pipelines.prepare import load_prepare_config
from pipelines.recipes.planted_drift import PlantedDriftRecipe
from pipelines.recipes.planted_drift_figures import PlantedDriftFigures, measure
from raytrain.data.contract import load_contract
from tests.data.prepare.cases import prepare_here

CONFIG = "pipelines/configs/prepare_planted_drift.yaml"
SMALL = {
    "num_days": 45,
    "natural_rows_per_day": 900,
    "ad_rows_per_day": 300,
    "num_users": 100,
    "num_items": 60,
    "num_categories": 6,
    "drift": 0.1,
    "active_days": 4,
    "dormant_days": 16,
    "dormant_share": 0.5,
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    @cache
    def of(degrees: int) -> PlantedDriftFigures:
        recipe, path = PlantedDriftRecipe(**SMALL, shift_degrees=degrees), tmp_path_factory.mktemp("drift") / "data"
        prepare_here(recipe.stage, path, num_buckets=1)
        return measure(recipe, str(path))

    return of


def test_the_committed_config_is_the_default():
    assert load_prepare_config(CONFIG).recipe == PlantedDriftRecipe()


def test_it_is_kept_by_day_with_the_ids_of_the_truth(tmp_path):
    recipe = PlantedDriftRecipe(**SMALL | {"num_days": 33, "ad_rows_per_day": 20, "natural_rows_per_day": 50})
    contract, scan = prepare_here(recipe.stage, tmp_path, num_buckets=2)
    assert contract == load_contract(str(tmp_path))
    assert (contract.target, contract.sources) == ("ads", ("natural",))
    assert {name: table.num_rows for name, table in contract.tables.items()} == {
        "user": 101,
        "item": 121,
        "category": 7,
        "hour": 25,
        "weekday": 8,
    }
    for name, num_rows in (("ads", 20), ("natural", 50)):
        domain = contract.domains[name]
        assert (len(domain.days), min(domain.days), max(domain.days)) == (33, "2017-01-01", "2017-02-02")
        assert {day.num_rows for day in domain.days.values()} == {num_rows}
        assert not scan.dropped[name]
        # What was clicked is history, what was shown is not.
        assert domain.history.num_events == sum(day.num_positives for day in domain.days.values())


def test_natural_rows_help_where_preferences_are_the_same_and_harm_where_they_are_opposite(figures):
    same, opposite = figures(0).learnt, figures(180).learnt
    for span in ("month", "all"):
        assert same[f"both, {span}"].gauc > same[f"ads, {span}"].gauc + 0.03
        assert same[f"natural, {span}"].gauc > 0.7
        assert opposite[f"both, {span}"].gauc < opposite[f"ads, {span}"].gauc - 0.2
        assert opposite[f"natural, {span}"].gauc < 0.3


def test_who_was_away_is_forgotten_by_a_short_memory(figures):
    for degrees in (0, 180):
        week, longest = (figures(degrees).learnt[f"ads, {span}"] for span in ("week", "all"))
        assert longest.auc_returned > week.auc_returned + 0.06


def test_the_truth_predicts_and_neither_items_nor_users_do(figures):
    found = figures(0)
    assert found.measured_days == 9
    for domain in ("natural", "ads"):
        assert found.truth[domain].auc > 0.85
        assert found.truth[domain].gauc > 0.85
        assert 0.55 < found.item_mean[domain].auc < 0.67
        assert 0.55 < found.user_mean[domain].auc < 0.67
        assert found.user_mean[domain].gauc == 0.5
    assert max(scores.auc for scores in found.learnt.values()) < found.truth["ads"].auc - 0.05


def test_the_figures_are_said_and_kept(figures):
    found = figures(0)
    assert found.num_rows == {"ads": 13_500, "natural": 40_500}
    assert json.loads(json.dumps(found.to_json()))["truth"]["ads"]["auc"] == found.truth["ads"].auc
    assert found.lines()[0].startswith("natural 40,500 rows, ")
    assert [line.partition(":")[0] for line in found.lines()[2:]] == [
        "truth",
        "item mean",
        "user mean",
        *(f"learnt from {name}" for name in found.learnt),
    ]
    assert list(found.learnt) == ["ads, week", *(f"{domain}, {span}" for span in ("month", "all") for domain in ("ads", "natural", "both"))]


def test_days_without_a_click_leave_nothing_to_learn_from_and_nothing_to_score(tmp_path):
    # The only ad that anybody clicks is shown on the second of 20 days.
    rare = {"ad_positive_rate": 0.001, "ad_rows_per_day": 30, "natural_rows_per_day": 100, "num_days": 20, "seed": 8}
    recipe = PlantedDriftRecipe(**SMALL | rare)
    prepare_here(recipe.stage, tmp_path, num_buckets=1)
    found = measure(recipe, str(tmp_path))
    assert found.num_positives["ads"] == 1
    assert list(found.learnt) == [f"{domain}, {span}" for span in ("month", "all") for domain in ("ads", "natural", "both")]
    assert {scores.auc for scores in found.learnt.values()} == {None}
    assert found.truth["natural"].auc > 0.8
    json.dumps(found.to_json(), allow_nan=False)
    assert "truth: none none, none none" in found.lines()
