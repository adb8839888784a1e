"""What the preflight's torch process measures, called in this one."""

import json
from pathlib import Path

import pytest

from raytrain.config import JobConfig
from raytrain.data.contract import Contract, load_contract
from raytrain.data.stream import StreamSpec
from raytrain.errors import ResourceError
from raytrain.settings import with_overrides
from raytrain.training import probe
from tests.data.build import START, DomainRows, Events, build_dataset, numbered_samples, samples, write_dataset


def job_for(path: str, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 32, "history_length": 8},
        "model": {"name": "dnn", "hidden_units": [8]},
        "tables": {"dim": 8},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("probe") / "data")
    build_dataset(path, num_users=60, num_items=40)
    return path


def streams_of(job: JobConfig, contract: Contract) -> dict[str, StreamSpec]:
    found: list[StreamSpec] = []
    probe.probe_streams(job, contract, found)
    return {spec.name: spec for spec in found}


def test_parameters_of_the_network_are_counted(dataset: str) -> None:
    # Inputs: user, item, country, tags of 8 floats and the price: 33 x 8 + 8, then 8 + 1.
    assert probe.probe_network(job_for(dataset), load_contract(dataset)) == {"num_dense": 33 * 8 + 8 + 9}


def test_steps_are_those_of_the_plan(dataset: str) -> None:
    # 720 target rows: 504 train, 108 valid, 108 test; 1,440 source rows: 1,008 train.
    job = job_for(dataset, "data.source_batch_size=16", "training.epochs=2")
    steps = probe.probe_streams(job, load_contract(dataset), [])["steps"]
    assert steps == {"train/target": [16, 32], "train/source": [63, 32], "valid/target": [4, 4], "test/target": [4, 4]}


def test_a_batch_is_described_in_numbers(tmp_path: Path) -> None:
    # Users 1 and 2 take turns; user 1 has three events before the first sample, user 2 none; item 0 is unknown.
    index = [0, 1, 2, 3]
    rows = samples([1, 2, 1, 2], [0, 5, 0, 5], [START + row for row in index], [1, 0, 0, 0])
    events = Events(*map(__import__("numpy").array, ([1, 1, 1], [3, 4, 5], [START - 9, START - 8, START - 7], [1, 1, 1])))
    both = numbered_samples(8)
    contract = write_dataset(tmp_path, {"target": DomainRows({"train": rows, "valid": both, "test": both}, events)})
    job = job_for(str(tmp_path), "model={name: din}")
    figures = probe.probe_batch(streams_of(job, contract)["train/target"])
    assert (figures["num_rows"], figures["num_bad"], figures["label_rate"]) == (4, 0, 0.25)
    assert figures["ids"]["item"] == {"shape": [32], "unknown_share": 0.5}
    assert figures["ids"]["user"]["unknown_share"] == 0.0
    assert figures["histories"]["target"] == {"shape": [32, 3], "lengths": [0, 3, 3]}
    assert figures["dense"] == {"price": [32]}
    assert [sorted(row) for row in figures["rows"]] == [["country", "item", "label", "tags", "user"]] * 3


def test_a_baselines_memory_is_held_against_its_limit(dataset: str) -> None:
    contract = load_contract(dataset)
    # item_mean keeps train and valid of the target; logistic every split and every event of both domains.
    assert probe.probe_memory(job_for(dataset, "model={name: item_mean}"), contract)["num_rows"] == 612
    assert probe.probe_memory(job_for(dataset, "model={name: logistic}"), contract)["num_rows"] == 2 * (720 + 1440)
    with pytest.raises(ResourceError, match=r"model\.max_memory_mib=1"):
        probe.probe_memory(job_for(dataset, "model={name: logistic, max_memory_mib: 1}"), contract)


def test_a_stage_that_fails_leaves_the_others_their_turn(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("no such kernel")

    monkeypatch.setattr(probe, "probe_fbgemm", broken)
    job = job_for(dataset, "model={name: logistic, max_memory_mib: 1}")
    (tmp_path / "job.json").write_text(json.dumps(job.model_dump(mode="json")))
    probe.main(str(tmp_path / "output"), str(tmp_path / "job.json"))
    records = [json.loads(line) for line in (tmp_path / "output").read_text().splitlines()]
    done = {record["stage"]: record for record in records if "stage" in record}
    assert list(done) == ["torch", "fbgemm", "memory", "streams", "train/target", "valid/target", "test/target"]
    assert done["fbgemm"]["error"] == "KeyError: 'no such kernel'"
    assert "model.max_memory_mib=1" in done["memory"]["error"]
    assert done["test/target"]["num_rows"] == 32
