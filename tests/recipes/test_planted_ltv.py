"""What planted lifetime values are for: good external rows help a plain learner, and mixing all of them hurts it, for every harm."""

import json

import pytest

from pipelines.prepare import load_prepare_config, prepare
from pipelines.recipes.planted_ltv import PlantedLtvRecipe
from pipelines.recipes.planted_ltv_figures import measure
from raytrain.data.contract import load_contract
from raytrain.errors import ConfigError

CONFIG = "pipelines/configs/prepare_planted_ltv.yaml"


def test_the_committed_config_is_the_default():
    assert load_prepare_config(CONFIG).recipe == PlantedLtvRecipe()


@pytest.mark.parametrize("harm", ["label_flip", "covariate_shift", "scale_shift"])
def test_good_rows_help_and_mixing_all_hurts(tmp_path, harm):
    said: list[str] = []
    contract = prepare(load_prepare_config(CONFIG, [f"output={tmp_path}", f"recipe.harm={harm}", "num_buckets=2"]), said.append)
    assert contract == load_contract(str(tmp_path))
    figures = measure(str(tmp_path))
    learnt = figures.ridge_norm_gini
    assert learnt["all"] + 0.04 < learnt["internal"] < learnt["internal_and_good"] - 0.04 < figures.bayes_norm_gini - 0.08
    assert [len(figures.slices[role]) for role in ("good", "neutral", "harmful")] == [8, 2, 10]
    assert json.loads((tmp_path / "planted.json").read_text()) == figures.to_json()
    assert said[-3:] == figures.lines()


def test_options_that_only_events_have_are_refused():
    for option in ("as_of={}", "probe_share=0.1"):
        with pytest.raises(ConfigError, match=option.partition("=")[0]):
            load_prepare_config(CONFIG, [option])
