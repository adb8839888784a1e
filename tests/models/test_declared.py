"""Every model of the config stands in one registry, and its torch-free half beside its network."""

from dataclasses import replace
from typing import get_args

import pytest

from raytrain.config import JobConfig
from raytrain.data.contract import Amount
from raytrain.errors import ContractError
from raytrain.model_config import ModelSection
from raytrain.models.baselines.tabular import TABULAR_MODELS
from raytrain.models.declared import DECLARED, declared_histories
from raytrain.models.registry import NETWORKS, NEURAL_MODELS
from raytrain.training.specs import scoring_spec, training_specs
from tests.data.build import build_dataset
from tests.messages import assert_three_parts


def test_every_model_of_the_config_is_known_once():
    sections = get_args(get_args(ModelSection)[0])
    assert sorted([*NEURAL_MODELS, *TABULAR_MODELS]) == sorted(section.model_fields["name"].default for section in sections)


def test_every_network_has_a_declaration():
    assert set(NETWORKS) == set(DECLARED) == set(NEURAL_MODELS)


def job_of(path, model: str = "dnn") -> JobConfig:
    values = {"data": {"path": str(path)}, "model": {"name": model}, "run": {"name": "test", "storage_path": str(path)}}
    return JobConfig.parse(values, "test")


def test_amounts_are_refused_by_a_model_of_clicks(tmp_path, monkeypatch):
    contract = build_dataset(tmp_path).model_copy(update={"amount": Amount(currency="GBP", horizon_days=90)})
    with pytest.raises(ContractError, match=r"Model dnn predicts clicks.*Received: amounts in GBP") as err:
        declared_histories(job_of(tmp_path), contract)
    assert_three_parts(str(err.value))
    monkeypatch.setitem(DECLARED, "dnn", replace(DECLARED["dnn"], amounts=True))
    assert declared_histories(job_of(tmp_path), contract) == ()
    with pytest.raises(ContractError, match="Use one of: adsnet, dnn"):
        declared_histories(job_of(tmp_path, "din"), contract)


def test_slices_are_streamed_to_the_model_that_asks_for_them(tmp_path, monkeypatch):
    contract, job = build_dataset(tmp_path), job_of(tmp_path)
    assert not training_specs(job, contract, (), str(tmp_path))[0].slices
    monkeypatch.setitem(DECLARED, "dnn", replace(DECLARED["dnn"], slices=True))
    [target] = training_specs(job, contract, (), str(tmp_path))
    assert target.slices
    assert scoring_spec(job, contract, "target", "test", ()).slices
    with pytest.raises(ContractError, match=r"has to name a slice column\. Received: slice=null") as err:
        training_specs(job, contract.model_copy(update={"slice": None}), (), str(tmp_path))
    assert_three_parts(str(err.value))
