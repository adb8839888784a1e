"""A finished run opened on other data: what that data has to carry, and how its numbers are scaled."""

import json
from pathlib import Path

import pytest
import yaml

from raytrain.config import JobConfig
from raytrain.data.contract import Contract, Feature, save_contract
from raytrain.errors import RunError
from raytrain.run import open_run
from tests.data.build import build_dataset


def as_of(mean: float) -> Feature:
    return Feature(name="asof_item_all_mean", kind="dense", mean=mean, std=2.0, as_of=True)


def with_feature(contract: Contract, feature: Feature) -> Contract:
    return contract.model_copy(update={"features": (*contract.features, feature)})


@pytest.fixture
def plain(tmp_path: Path) -> Contract:
    return build_dataset(tmp_path / "data", num_users=20)


def finished(path: Path, model: str, trained: Contract) -> str:
    """A run directory as ``train`` leaves it, as far as opening it goes."""
    path.mkdir()
    job = JobConfig.parse({"data": {"path": str(path.parent / "data")}, "model": {"name": model}}, "test")
    (path / "config.yaml").write_text(yaml.safe_dump(job.model_dump(mode="json")))
    (path / "result.json").write_text(json.dumps({}))
    save_contract(trained, str(path))
    return str(path)


def test_a_network_needs_the_as_of_features_it_was_trained_on(plain: Contract, tmp_path: Path):
    run = finished(tmp_path / "run", "din", with_feature(plain, as_of(1.0)))
    with pytest.raises(RunError, match=r"without 1 of them, asof_item_all_mean for one\. Prepare these rows with as_of"):
        open_run(run)


def test_a_plain_baseline_builds_its_own(plain: Contract, tmp_path: Path):
    assert open_run(finished(tmp_path / "run", "logistic", with_feature(plain, as_of(1.0)))).job.model.name == "logistic"


def test_as_of_features_of_the_data_that_a_run_was_trained_without_are_left_out(plain: Contract, tmp_path: Path):
    save_contract(with_feature(plain, as_of(3.0)), str(tmp_path / "data"))
    assert open_run(finished(tmp_path / "run", "din", plain)).contract == plain


def test_numbers_are_scaled_as_they_were_in_training(plain: Contract, tmp_path: Path):
    trained = with_feature(plain, as_of(1.0))
    save_contract(with_feature(plain, as_of(3.0)), str(tmp_path / "data"))
    assert open_run(finished(tmp_path / "run", "din", trained)).contract == trained
