"""Every model of the config stands in one registry, and its torch-free half beside its network."""

from typing import get_args

from raytrain.model_config import ModelSection
from raytrain.models.baselines.tabular import TABULAR_MODELS
from raytrain.models.declared import DECLARED
from raytrain.models.registry import NETWORKS, NEURAL_MODELS


def test_every_model_of_the_config_is_known_once():
    sections = get_args(get_args(ModelSection)[0])
    assert sorted([*NEURAL_MODELS, *TABULAR_MODELS]) == sorted(section.model_fields["name"].default for section in sections)


def test_every_network_has_a_declaration():
    assert set(NETWORKS) == set(DECLARED) == set(NEURAL_MODELS)
