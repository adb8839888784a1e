"""Plain baselines of amounts: numbers by hand, whose rows they are fitted on, and the labels they refuse."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.data.contract import Amount, Contract, load_contract
from raytrain.data.frame import Frame
from raytrain.data.planted_ltv import PlantedLtvSpec, generate_planted_ltv
from raytrain.data.stored_columns import StoredColumns
from raytrain.errors import ContractError, DataError, ResourceError
from raytrain.ltv_config import LightGbmLtvModel, SpendModel
from raytrain.metrics.gini import norm_gini
from raytrain.models.baselines.ltv_trees import fit_ltv_trees, load_ltv_trees
from raytrain.models.baselines.spend import fit_spend, load_spend
from raytrain.models.baselines.tabular import TABULAR_MODELS
from raytrain.run import evaluate, train
from raytrain.training.probe import probe_memory
from raytrain.training.tabular import score_tabular, train_tabular
from tests.data.build import build_dataset
from tests.messages import assert_three_parts

SPEC = PlantedLtvSpec(num_rows=1500, volume=2.0, num_eval_rows=1500, num_slices=4, harmful_share=0.5, neutral_share=0.0, num_ids=5, seed=2)
TREES: dict[str, Any] = {"name": "lightgbm_ltv", "learning_rate": 0.1, "max_rounds": 40}
OBJECTIVES = ("tweedie", "two_stage")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "data"
    generate_planted_ltv(SPEC, str(path), lambda line: None, num_buckets=2, row_group_rows=512)
    return path


def job(path: Path, model: dict[str, Any], **sections: Any) -> JobConfig:
    return JobConfig.parse({"data": {"path": str(path)}, "model": model, **sections}, "test")


def columns(label: list[float], is_source: list[bool] | None = None, **values: list[float]) -> StoredColumns:
    sources = np.array(is_source or [False] * len(label))
    return StoredColumns(np.array(label, np.float32), sources, tuple(values), (), np.stack([*values.values()], axis=1).astype(np.float64))


@pytest.mark.parametrize(
    ("transform", "expected"), [("none", [0.75, 0.0, 2.0]), ("log1p", [0.25 * (np.e**3 - 1), 0.0, 0.25 * (np.e**8 - 1)])]
)
def test_spend_goes_on(transform: str, expected: list[float]) -> None:
    rows = columns([0, 1, 2], other=[9, 9, 9], spend=[3, -1, 8])
    fitted = fit_spend(SpendModel(feature="spend", factor=0.25, transform=transform), rows, rows, 0)
    assert fitted.predict(rows).keys() == {"ltv"}
    np.testing.assert_allclose(fitted.predict(rows)["ltv"], expected, rtol=1e-6)
    assert load_spend(fitted.save()) == fitted


@pytest.mark.parametrize("name", ["spent", "item"], ids=["unknown", "an id"])
def test_spend_has_to_be_a_number_of_the_data_set(name: str) -> None:
    rows = replace(columns([0, 1], spend=[3, 1], item=[1, 2]), categorical=("item",))
    with pytest.raises(ContractError, match=f"dense feature of the data set. Received: {name}") as found:
        fit_spend(SpendModel(feature=name), rows, rows, 0)
    assert_three_parts(found.value)


def drawn(num_rows: int, seed: int, is_source: bool = False) -> StoredColumns:
    """Half of the rows pay, those with x > 0, e^(2 + kind) in logarithmic noise; external ones ten times as much."""
    draw = np.random.default_rng(seed)
    x, kind = draw.normal(size=num_rows), draw.integers(2, size=num_rows)
    paid = np.exp(2 + kind + 0.5 * draw.normal(size=num_rows)) * (10 if is_source else 1)
    rows = columns(list(np.where(x > 0, paid, 0)), [is_source] * num_rows, x=list(x), kind=list(kind))
    return replace(rows, categorical=("kind",))


def both(one: StoredColumns, other: StoredColumns) -> StoredColumns:
    parts = {name: np.concatenate([getattr(one, name), getattr(other, name)]) for name in ("label", "is_source", "values")}
    return replace(one, **parts)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_trees_learn_the_mean_of_what_is_paid(objective: str) -> None:
    model, valid = LightGbmLtvModel(objective=objective, learning_rate=0.1), drawn(1000, seed=1)
    fitted = fit_ltv_trees(model, drawn(4000, seed=0), valid, 0)
    asked = replace(columns([0] * 4, x=[-1, 1, -1, 1], kind=[0, 0, 1, 1]), categorical=("kind",))
    found = fitted.predict(asked)
    # E exp(0.5 N) = exp(0.125): a fit of logarithms alone would be 12 % short of it.
    np.testing.assert_allclose(found["ltv"][[1, 3]], np.exp([2.125, 3.125]), rtol=0.1)
    assert (found["ltv"][[0, 2]] < 0.5).all()
    assert ("pay" in found) == (objective == "two_stage")
    if objective == "two_stage":
        np.testing.assert_allclose(found["pay"], [0, 1, 0, 1], atol=0.05)
        assert fitted.smearing == pytest.approx(np.exp(0.125), rel=0.05)
    again = load_ltv_trees(fitted.save())
    assert again == fitted
    np.testing.assert_array_equal(again.predict(valid)["ltv"], fitted.predict(valid)["ltv"])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_rows_of_training_are_those_asked_for(objective: str) -> None:
    internal, external, valid = drawn(1000, 0), drawn(1000, 1, is_source=True), drawn(500, 2)
    model = LightGbmLtvModel(objective=objective, learning_rate=0.1, max_rounds=60)
    levels = {}
    for rows in ("internal", "mixed", "pretrained", "external"):
        fitted = fit_ltv_trees(model.model_copy(update={"rows": rows}), both(internal, external), valid, 0)
        levels[rows] = fitted.predict(valid)["ltv"].sum() / valid.label.sum()
        if rows in ("internal", "external"):
            alone = internal if rows == "internal" else external
            only = fit_ltv_trees(model.model_copy(update={"rows": rows}), alone, valid, 0)
            assert fitted == only
    assert levels["internal"] == pytest.approx(1, abs=0.1)
    assert levels["pretrained"] == pytest.approx(1, abs=0.15)
    # Validation rows are internal and stop what is fitted on dearer ones early.
    assert levels["external"] > 1.5
    assert levels["external"] > levels["mixed"] > levels["pretrained"]


def test_the_pretrained_ensemble_keeps_its_first_trees() -> None:
    model = LightGbmLtvModel(rows="pretrained", max_rounds=3, learning_rate=0.01)
    fitted = fit_ltv_trees(model, both(drawn(500, 0), drawn(500, 1, is_source=True)), drawn(200, 2), 0)
    assert 1 < fitted.amount.count("Tree=") <= 6


@pytest.mark.parametrize(
    ("skipped", "match"), [(["kidn"], r"Received: kidn\. Did you mean kind"), (["x", "kind"], "has to have a feature left")]
)
def test_features_to_skip_have_to_be_there_and_leave_one(skipped: list[str], match: str) -> None:
    with pytest.raises(ContractError, match=match) as found:
        fit_ltv_trees(LightGbmLtvModel(skip_features=tuple(skipped)), drawn(50, 0), drawn(50, 1), 0)
    assert_three_parts(found.value)


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="none for y, columns x") as found:
        columns([1], x=[1]).columns(("x", "y"))
    assert_three_parts(found.value)


def test_multi_valued_features_are_their_first_id() -> None:
    rows = pa.table({"tags": pa.array([[3, 1], [], [2]], pa.list_(pa.int32())), "item": pa.array([4, 0, 9], pa.int32())})
    assert Frame(rows, 0).first_ids("tags").tolist() == [3, 0, 2]
    assert Frame(rows, 0).first_ids("item").tolist() == [4, 0, 9]
    assert Frame(rows.slice(1, 1), 0).first_ids("tags").tolist() == [0]


def test_a_run_says_what_it_was_fitted_on_and_how_well(dataset: Path, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    model = {**TREES, "objective": "two_stage", "rows": "mixed"}
    run = {"name": "trees", "storage_path": str(tmp_path), "save_predictions": True}
    result = train(job(dataset, model, run=run), console)
    assert result["rows_trained"] == result["rows_expected"] == {"internal": 1500, "external": 3000}
    metrics = result["test"]["internal"]
    assert metrics["norm_gini"] > 0.1
    assert {"norm_gini_slice_100_to_999", "spearman", "pay_auc", "total_ratio"} <= metrics.keys()
    [file] = (tmp_path / "trees/predictions/test").glob("*.parquet")
    table = pq.read_table(file)
    assert table.column_names == ["fragment", "row", "group", "time", "label", "ltv", "pay"]
    assert norm_gini(table["ltv"].to_numpy(), table["label"].to_numpy()) == pytest.approx(metrics["norm_gini"])
    assert evaluate(str(tmp_path / "trees"), "test", None, (), console)["internal"] == pytest.approx(metrics, rel=0, nan_ok=True)
    assert np.isfinite(evaluate(str(tmp_path / "trees"), "valid", "external", (), console)["external"]["norm_gini"])


@pytest.mark.parametrize("rows", ["internal", "pretrained", "external"])
def test_external_rows_are_read_where_asked_for(dataset: Path, rows: str) -> None:
    run = train_tabular(job(dataset, {**TREES, "max_rounds": 5, "rows": rows}), load_contract(str(dataset)))
    expected = {"internal": {"internal": 1500}, "external": {"external": 3000}, "pretrained": {"internal": 1500, "external": 3000}}
    assert run.num_rows == expected[rows]


def test_the_same_seed_gives_the_same_trees_at_any_number_of_threads(dataset: Path) -> None:
    contract = load_contract(str(dataset))
    saved = []
    for num_threads in (1, 1, 2):
        asked = job(dataset, {**TREES, "max_rounds": 3, "objective": "two_stage", "num_threads": num_threads})
        fitted = train_tabular(asked, contract).fitted
        saved.append(score_tabular(asked, contract, fitted, "test", "internal")[1])
    assert saved[0].equals(saved[1])
    assert saved[0].equals(saved[2])


def without_sources(contract: Contract) -> Contract:
    return contract.model_copy(update={"domains": {"internal": contract.domains["internal"]}})


def test_external_rows_that_are_not_there_are_missed(dataset: Path) -> None:
    contract = without_sources(load_contract(str(dataset)))
    assert train_tabular(job(dataset, {**TREES, "max_rounds": 2}), contract).num_rows == {"internal": 1500}
    with pytest.raises(ContractError, match="a source domain with training rows") as found:
        train_tabular(job(dataset, {**TREES, "rows": "mixed"}), contract)
    assert_three_parts(found.value)


def test_memory_counts_the_rows_that_are_read(dataset: Path) -> None:
    contract = load_contract(str(dataset))
    num_rows = [probe_memory(job(dataset, {**TREES, "rows": rows}), contract)["num_rows"] for rows in ("internal", "mixed")]
    assert num_rows == [1500 + SPEC.num_eval_rows, 1500 + SPEC.num_eval_rows + 3000]
    internal = contract.domains["internal"]
    splits = {name: split.model_copy(update={"num_rows": 10**6}) for name, split in internal.splits.items()}
    large = internal.model_copy(update={"splits": splits})
    with pytest.raises(ResourceError, match=r"model\.max_memory_mib=1\."):
        probe_memory(job(dataset, {**TREES, "max_memory_mib": 1}), contract.model_copy(update={"domains": {"internal": large}}))


@pytest.mark.parametrize("name", TABULAR_MODELS)
def test_models_of_clicks_refuse_amounts_and_the_other_way_round(tmp_path: Path, name: str) -> None:
    contract = build_dataset(tmp_path / "data", num_users=20, num_items=10)
    model = {"name": name, **({"feature": "price"} if name == "spend" else {})}
    is_ltv = name in ("spend", "lightgbm_ltv")
    if not is_ltv:
        contract = contract.model_copy(update={"amount": Amount(currency="GBP", horizon_days=90)})
    asked = job(tmp_path / "data", model, run={"name": "refused", "storage_path": str(tmp_path)})
    match = "predicts amounts.*Received: clicks" if is_ltv else "predicts clicks.*Received: amounts in GBP.*spend, lightgbm_ltv"
    with pytest.raises(ContractError, match=match) as found:
        train_tabular(asked, contract)
    assert_three_parts(found.value)
    if is_ltv:
        with pytest.raises(ContractError, match=match):
            train(asked, Console(file=io.StringIO()))
        assert not (tmp_path / "refused").exists()
