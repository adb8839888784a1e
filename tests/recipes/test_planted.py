"""The figures of a planted data set: the truth predicts, and neither ids, popularity, recency nor means come near it."""

import json

import pytest

from pipelines.prepare import load_prepare_config, prepare
from pipelines.recipes.planted_figures import measure

CONFIG = "pipelines/configs/prepare_planted.yaml"
SMALL = {
    "num_users": 400,
    "events_per_user": 300,
    "items_per_domain": 300,
    "num_topics": 60,
    "topics_per_user": 30,
    "num_rows": 20_000,
    "num_eval_rows": 2_000,
}


def overrides(path, **changes) -> list[str]:
    return [f"output={path}", *(f"recipe.{name}={value}" for name, value in (SMALL | changes).items())]


@pytest.fixture(scope="module", params=[pytest.param(0, id="single events"), pytest.param(5, id="sessions")])
def prepared(request, tmp_path_factory):
    path, said = tmp_path_factory.mktemp("planted"), []
    prepare(load_prepare_config(CONFIG, overrides(path, session_events=request.param)), said.append)
    return path, said, measure(str(path)), request.param


def test_the_truth_predicts_and_means_do_not(prepared):
    figures = prepared[2]
    assert figures.bayes_auc > 0.8
    assert figures.item_mean_auc < 0.6
    assert figures.user_mean_auc < 0.6


def test_nothing_trivial_finds_the_relevant_events(prepared):
    figures = prepared[2]
    assert abs(figures.topic_of_id) < 0.15
    for name, domain in figures.domains.items():
        # Samples see four fifths of 300 events or more, a thirtieth of them on the candidate's topic.
        assert 240 < domain.num_events < 300
        assert domain.num_relevant == pytest.approx(domain.num_events / 30, rel=0.05)
        assert domain.pair_lift == pytest.approx(2, rel=0.05)
        assert domain.same_item == pytest.approx({"target": 1 / 5, "source": 0}[name], abs=0.02)
        assert set(domain.recall) == {"recency", "popularity", "nearest id", "random"}
        for way, recall in domain.recall.items():
            for size, share in recall.items():
                assert share == pytest.approx(domain.chance[size], abs=0.03), way


def test_items_that_a_user_sees_at_one_time_share_their_topic_in_sessions_alone(prepared):
    # Of two events at the same place of a session the source's comes first half the time; else it is the one before.
    expected = {0: 1 / 30, 5: 1 / 2 + 1 / 2 * 4 / 5}[prepared[3]]
    assert prepared[2].paired_in_time == pytest.approx(expected, abs=0.01)


def test_prepare_writes_and_says_the_figures(prepared):
    path, said, figures, _ = prepared
    assert json.loads((path / "planted.json").read_text()) == json.loads(json.dumps(figures.to_json()))
    lines = figures.lines()
    assert said[-len(lines) :] == lines
    assert f"truth {figures.bayes_auc:.3f}" in lines[0]
    assert "target: recall at 20 by recency" in lines[3]


def test_labels_without_a_rule_cannot_be_predicted(tmp_path):
    prepare(load_prepare_config(CONFIG, overrides(tmp_path, strength=1e-6)), lambda line: None)
    assert measure(str(tmp_path)).bayes_auc == pytest.approx(0.5, abs=0.05)
