"""The view of a data set that is kept by day: spans of days as splits, any domain as the target."""

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from raytrain.config import DataSection
from raytrain.data.contract import load_contract, save_contract
from raytrain.data.days import contract_of
from raytrain.data.manifest import read_manifest
from raytrain.errors import ConfigError, ContractError
from tests.data.build import FIRST_DAY, build_dataset

NUM_DAYS = 6


def day(number: int) -> date:
    return FIRST_DAY + timedelta(days=number)


def data(path: Path, **values: Any) -> DataSection:
    return DataSection.parse({"path": str(path), **values}, "test")


def span(start: int, stop: int) -> dict[str, date]:
    return {"start": day(start), "stop": day(stop)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("days") / "data"
    build_dataset(path, num_days=NUM_DAYS, by_day=True)
    return path


def test_a_span_of_days_is_a_split(dataset: Path) -> None:
    contract = contract_of(data(dataset, days={"train": span(1, 4), "test": span(4, 5)}, source_batch_size=8))
    days = load_contract(str(dataset)).domains
    for name in ("target", "source"):
        expected = sum(days[name].days[day(number).isoformat()].num_rows for number in (1, 2, 3))
        assert contract.domains[name].splits["train"].num_rows == expected
        assert read_manifest(contract, str(dataset), name, "train").num_rows.sum() == expected
    files = read_manifest(contract, str(dataset), "target", "test").files
    assert {file.split("/")[-2] for file in files} == {day(4).isoformat()}
    times = [time for file in files for time in pq.read_table(dataset / file)["time"].to_pylist()]
    assert {date(1970, 1, 1) + timedelta(days=time // 86_400) for time in times} == {day(4)}


def test_another_domain_can_be_the_target(dataset: Path) -> None:
    contract = contract_of(data(dataset, domain="source", days={"train": span(0, 2)}))
    assert contract.target == "source"
    assert contract.sources == ("target",)
    assert list(contract.domains["source"].splits) == ["train"]
    assert not contract.domains["target"].splits


@pytest.fixture
def gap(tmp_path: Path) -> Path:
    """A data set whose target has no rows on day 2."""
    contract = build_dataset(tmp_path / "gap", num_days=NUM_DAYS, by_day=True)
    target = contract.domains["target"]
    days = {name: split for name, split in target.days.items() if name != day(2).isoformat()}
    domains = {**contract.domains, "target": target.model_copy(update={"days": days})}
    save_contract(contract.model_copy(update={"domains": domains}), str(tmp_path / "gap"))
    return tmp_path / "gap"


def test_a_day_that_is_missing_is_named(gap: Path) -> None:
    with pytest.raises(ContractError, match=rf"without 1 of 3 days: {day(2)}\. Prepare them"):
        contract_of(data(gap, days={"train": span(1, 4)}))


def test_a_missing_day_may_be_skipped(gap: Path) -> None:
    contract = contract_of(data(gap, days={"train": span(1, 4), "skip_missing": True}))
    assert [folder[-10:] for folder in contract.domains["target"].splits["train"].folders] == [day(1).isoformat(), day(3).isoformat()]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({}, ConfigError, "data.days=null"),
        ({"days": {"train": span(0, 9)}}, ContractError, "without 3 of 9 days"),
        ({"days": {"train": span(-9, -3), "skip_missing": True}}, ContractError, "with none from"),
        ({"domain": "sauce", "days": {"train": span(0, 1)}}, ContractError, "Received: sauce. Did you mean source"),
        ({"days": {"train": span(2, 2)}}, ConfigError, "start has to be before stop"),
        ({"days": {"train": span(0, 3), "test": span(2, 3)}}, ConfigError, "A test day has to lie after training"),
    ],
    ids=["no days", "too late", "none there", "no such domain", "no day", "test inside training"],
)
def test_what_cannot_be_read_is_refused(dataset: Path, values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        contract_of(data(dataset, **values))


def test_days_of_a_data_set_kept_by_split_are_refused(tmp_path: Path) -> None:
    build_dataset(tmp_path / "data")
    with pytest.raises(ConfigError, match="kept by split"):
        contract_of(data(tmp_path / "data", days={"train": span(0, 1)}))
