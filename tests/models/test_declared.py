"""Every model of the config stands in one registry, and its torch-free half beside its network."""

import io
from dataclasses import replace
from typing import get_args

import pytest
from rich.console import Console

from raytrain.config import AMOUNT_MODELS, JobConfig
from raytrain.data.contract import Amount
from raytrain.errors import ContractError
from raytrain.model_config import ModelSection
from raytrain.models.baselines.tabular import TABULAR_MODELS
from raytrain.models.declared import DECLARED, declared_histories, declared_warning
from raytrain.models.registry import NETWORKS, NEURAL_MODELS
from raytrain.run import train
from raytrain.training.specs import scoring_spec, training_specs
from tests.data.build import build_dataset
from tests.messages import assert_three_parts


def test_every_model_of_the_config_is_known_once():
    sections = get_args(get_args(ModelSection)[0])
    assert sorted([*NEURAL_MODELS, *TABULAR_MODELS]) == sorted(section.model_fields["name"].default for section in sections)
    assert {name for name, declaration in DECLARED.items() if declaration.amounts} == set(AMOUNT_MODELS) - set(TABULAR_MODELS)


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
    with pytest.raises(ContractError, match="Use one of: adsnet, ltv, cdaf, dnn"):
        declared_histories(job_of(tmp_path, "din"), contract)


@pytest.mark.parametrize(
    ("model", "has_source", "warned"),
    [
        ({"name": "lcn"}, True, None),
        ({"name": "lcn"}, False, "Prepare the data set with a source domain, or set model.contrast.weight=0"),
        ({"name": "lcn", "histories": ["target"]}, True, "Name a source domain in model.histories, or set model.contrast.weight=0"),
        ({"name": "lcn", "histories": ["source"]}, True, None),
        ({"name": "lcn", "contrast": {"weight": 0}}, False, None),
        ({"name": "din"}, False, None),
        ({"name": "item_mean"}, False, None),
    ],
    ids=["both domains", "target alone", "source not read", "source alone", "no contrast", "another network", "a plain baseline"],
)
def test_a_contrast_with_nothing_to_align_is_told(tmp_path, model, has_source, warned):
    contract, job = build_dataset(tmp_path), job_of(tmp_path)
    if not has_source:
        contract = contract.model_copy(update={"domains": {"target": contract.domains["target"]}})
    job = JobConfig.parse({**job.model_dump(mode="json"), "model": model}, "test")
    found = declared_warning(job, contract)
    if warned is None:
        assert found is None
    else:
        assert warned in found
        assert_three_parts(found)


class _BegunError(Exception):
    pass


@pytest.mark.parametrize("histories", [["target"], ["target", "source"]], ids=["nothing to align", "something to align"])
def test_the_driver_says_once_that_there_is_nothing_to_align(tmp_path, monkeypatch, histories):
    def begin(*_):
        raise _BegunError

    # The run is created between these two, which start Ray.
    monkeypatch.setattr("raytrain.training.neural.plan_neural", lambda *_: None)
    monkeypatch.setattr("raytrain.training.neural.train_neural", begin)
    build_dataset(tmp_path / "data")
    values = {"data": {"path": str(tmp_path / "data")}, "run": {"name": "run", "storage_path": str(tmp_path)}}
    job = JobConfig.parse({**values, "model": {"name": "lcn", "histories": histories}}, "test")
    printed = io.StringIO()
    with pytest.raises(_BegunError):
        train(job, Console(file=printed, width=500))
    assert printed.getvalue().count("warning: LCN's contrastive loss") == (len(histories) == 1)


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
