"""Plain models on rows whose answer is known: what they learn, what they must not see, and that they come back from disk."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.config import AMOUNT_MODELS, JobConfig
from raytrain.data.asof.features import Features
from raytrain.data.contract import Contract
from raytrain.errors import ContractError, DataError, ResourceError
from raytrain.metrics.auc import auc
from raytrain.model_config import ItemMeanModel
from raytrain.models.baselines.item_mean import fit_item_mean, load_item_mean
from raytrain.models.baselines.tabular import TABULAR_MODELS
from raytrain.training.tabular import score_tabular, train_tabular
from tests.data.build import START, DomainRows, Events, build_dataset, samples, write_dataset

NUM_USERS, NUM_ITEMS, NUM_TASTES = 60, 40, 4
WITH_PAST = ("logistic", "lightgbm")
CLICK_MODELS = [name for name in TABULAR_MODELS if name not in AMOUNT_MODELS]


def job(path: Path, name: str, **model: float) -> JobConfig:
    small = {"min_data_in_leaf": 20, "max_rounds": 40} if name == "lightgbm" else {}
    return JobConfig.parse({"data": {"path": str(path)}, "model": {"name": name, "prior_rows": 5.0} | small | model}, "test")


def write_tastes(path: Path, seed: int = 0) -> Contract:
    """Every user likes the items of one tag in four, in both domains, and the item alone says nothing."""
    draw = np.random.default_rng(seed)
    taste = draw.integers(NUM_TASTES, size=NUM_USERS)
    domains = {}
    for role, first, num_rows in (("target", 1, 2000), ("source", 1 + NUM_ITEMS, 3000)):
        user, item = draw.integers(NUM_USERS, size=num_rows), draw.integers(first, first + NUM_ITEMS, size=num_rows)
        time = np.sort(START + 3600 * draw.integers(2000, size=num_rows))
        label = (draw.random(num_rows) < np.where(item % NUM_TASTES == taste[user], 0.9, 0.1)).astype(np.int64)
        rows = samples(user + 1, item, time, label)
        tags = pa.array([[1 + tag] for tag in (item % NUM_TASTES).tolist()], type=pa.list_(pa.int32()))
        rows = rows.set_column(rows.column_names.index("tags"), "tags", tags)
        valid, test = int(0.7 * num_rows), int(0.85 * num_rows)
        splits = {"train": rows.slice(0, valid), "valid": rows.slice(valid, test - valid), "test": rows.slice(test)}
        domains[role] = DomainRows(splits, Events(user + 1, item, time, 1 + 4 * label), role)
    return write_dataset(path, domains)


@pytest.mark.parametrize("name", WITH_PAST)
def test_a_users_taste_is_learnt_from_the_past(name: str, tmp_path: Path):
    contract = write_tastes(tmp_path)
    run = train_tabular(job(tmp_path, name), contract)
    metrics, _ = score_tabular(job(tmp_path, name), contract, run.fitted, "test", "target")
    assert run.valid["auc"] > 0.8
    assert metrics["auc"] > 0.8
    assert metrics["gauc"] > 0.8
    assert run.num_rows == {"target": 1400}
    assert run.fit_s > 0


def test_the_item_alone_does_not_know_it(tmp_path: Path):
    contract = write_tastes(tmp_path)
    assert train_tabular(job(tmp_path, "item_mean"), contract).valid["auc"] < 0.65


def rows_of(item: list[int], label: list[float]) -> Features:
    return Features(np.array(item, np.int32), np.array(label, np.float32), (), np.empty((len(item), 0), np.float32))


def test_item_means_equal_numbers_computed_by_hand():
    train = rows_of([1, 1, 1, 3], [1, 1, 0, 0])
    fitted = fit_item_mean(ItemMeanModel(prior_rows=2.0), train, train, 0)
    # Mean of all rows 0.5: item 1 (2 + 1) / 5, item 3 (0 + 1) / 3, item 2 without rows and item 9 past the table 0.5.
    expected = [0.6, 1 / 3, 0.5, 0.5]
    asked = rows_of([1, 3, 2, 9], [0, 0, 0, 0])
    np.testing.assert_allclose(fitted.predict(asked)["click"], expected, rtol=1e-6)
    np.testing.assert_array_equal(load_item_mean(fitted.save()).predict(asked)["click"], fitted.predict(asked)["click"])


@pytest.mark.parametrize("name", CLICK_MODELS)
def test_a_saved_model_predicts_the_same_without_pickle(name: str, tmp_path: Path):
    contract = build_dataset(tmp_path)
    fitted = train_tabular(job(tmp_path, name), contract).fitted
    files = fitted.save()
    _, before = score_tabular(job(tmp_path, name), contract, fitted, "test", "target")
    _, after = score_tabular(job(tmp_path, name), contract, TABULAR_MODELS[name].load(files), "test", "target")
    assert after.equals(before)
    for file, content in files.items():
        if file.endswith(".npz"):
            with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                assert all(arrays[key].dtype != object for key in arrays)
        else:
            content.decode("utf-8")


@pytest.mark.parametrize("name", CLICK_MODELS)
def test_the_same_seed_gives_the_same_model(name: str, tmp_path: Path):
    contract = build_dataset(tmp_path)
    first, second = (train_tabular(job(tmp_path, name), contract).fitted.save() for _ in range(2))
    assert first == second


def test_trees_do_not_depend_on_the_number_of_threads(tmp_path: Path):
    contract = write_tastes(tmp_path)
    tables = []
    for num_threads in (1, 2):
        chosen = job(tmp_path, "lightgbm", num_threads=num_threads, max_rounds=3)
        tables.append(score_tabular(chosen, contract, train_tabular(chosen, contract).fitted, "test", "target")[1])
    assert tables[0].equals(tables[1])


@pytest.mark.parametrize("name", CLICK_MODELS)
def test_test_labels_change_nothing_that_is_fitted(name: str, tmp_path: Path):
    contract = build_dataset(tmp_path)
    before = train_tabular(job(tmp_path, name), contract).fitted.save()
    for file in (tmp_path / "samples/target/test").glob("bucket-*"):
        rows = pq.read_table(file)
        flipped = pa.array(1 - rows.column("label").to_numpy())
        pq.write_table(rows.set_column(rows.column_names.index("label"), "label", flipped), file, row_group_size=64)
    # Not even through the past of a validation row: the splits may share an hour, but a past is strictly earlier.
    assert train_tabular(job(tmp_path, name), contract).fitted.save() == before


def test_predictions_carry_provenance_and_score_what_is_reported(tmp_path: Path):
    contract = build_dataset(tmp_path)
    run = train_tabular(job(tmp_path, "logistic"), contract)
    metrics, table = score_tabular(job(tmp_path, "logistic"), contract, run.fitted, "valid", "source")
    types = {"fragment": pa.int32(), "row": pa.int32(), "group": pa.int64(), "time": pa.int64()}
    assert table.schema == pa.schema(types | {"label": pa.float32(), "prediction": pa.float32()})
    assert table.num_rows == metrics["num_rows"] == contract.domains["source"].splits["valid"].num_rows
    assert len(set(zip(table["fragment"].to_pylist(), table["row"].to_pylist(), strict=True))) == table.num_rows
    assert metrics["auc"] == pytest.approx(auc(table["prediction"].to_numpy(), table["label"].to_numpy()))


def test_one_domain_without_histories_is_enough(tmp_path: Path):
    contract = write_tastes(tmp_path)
    target = contract.domains["target"].model_copy(update={"history": None})
    alone = contract.model_copy(update={"domains": {"target": target}})
    assert train_tabular(job(tmp_path, "logistic"), alone).valid["auc"] > 0.7


def break_rows(path: Path, num_bad: int) -> None:
    file = path / "samples/target/train/bucket-00000.parquet"
    rows = pq.read_table(file)
    label = rows.column("label").to_numpy().copy()
    label[:num_bad] = np.nan
    pq.write_table(rows.set_column(rows.column_names.index("label"), "label", pa.array(label)), file, row_group_size=64)


def test_bad_rows_are_counted_up_to_the_allowed_share(tmp_path: Path):
    contract = build_dataset(tmp_path)
    num_rows = contract.domains["target"].splits["train"].num_rows
    break_rows(tmp_path, 3)
    run = train_tabular(job(tmp_path, "item_mean"), contract)
    assert (run.num_rows, run.num_quarantined) == ({"target": num_rows - 3}, {"target": 3})
    break_rows(tmp_path, 20)
    with pytest.raises(DataError, match=f"20 bad rows in split train, a share of {20 / num_rows:.4f}"):
        train_tabular(job(tmp_path, "item_mean"), contract)


def test_more_memory_than_allowed_is_refused_before_a_row_is_read(tmp_path: Path):
    contract = build_dataset(tmp_path)
    for file in (tmp_path / "histories").rglob("bucket-*"):
        file.unlink()
    with pytest.raises(ResourceError, match=r"4,320 samples and history events x [\d,]+ bytes = .* model\.max_memory_mib=1\."):
        train_tabular(job(tmp_path, "logistic", max_memory_mib=1), contract)


def test_an_unknown_split_or_domain_is_named(tmp_path: Path):
    contract = build_dataset(tmp_path)
    fitted = train_tabular(job(tmp_path, "item_mean"), contract).fitted
    for split, domain, name in (("tset", "target", "tset"), ("test", "targett", "targett")):
        with pytest.raises(ContractError, match=name):
            score_tabular(job(tmp_path, "item_mean"), contract, fitted, split, domain)


def test_columns_in_another_order_are_the_same_model(tmp_path: Path):
    draw = np.random.default_rng(0)
    values = draw.normal(size=(400, 3)).astype(np.float32)
    names = ("user/all/residual", "user/all/log_count", "price")
    label = (values[:, 0] + draw.normal(size=400) > 0).astype(np.float32)
    rows = Features(np.zeros(400, np.int32), label, names, values)
    fitted = TABULAR_MODELS["logistic"].fit(job(tmp_path, "logistic").model, rows, rows, 0)
    turned = replace(rows, names=names[::-1], values=values[:, ::-1])
    np.testing.assert_array_equal(fitted.predict(turned)["click"], fitted.predict(rows)["click"])
    assert auc(fitted.predict(rows)["click"], label) > 0.7
