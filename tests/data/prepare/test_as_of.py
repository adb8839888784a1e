"""As-of columns in the sample files: values by hand and by equality, nothing of the present, and files otherwise as they were."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from raytrain.config import AMOUNT_MODELS, JobConfig
from raytrain.data.asof.contrasts import contrasts
from raytrain.data.contract import Contract, load_contract, save_contract
from raytrain.data.frame import read_frame
from raytrain.data.manifest import read_manifest
from raytrain.data.prepare.as_of import AsOfOptions, add_as_of, as_of_features, check_as_of, feature_name
from raytrain.errors import DataError, ResourceError
from raytrain.models.baselines.tabular import TABULAR_MODELS
from raytrain.storage import Storage
from raytrain.training.tabular import score_tabular, train_tabular
from tests.data.asof.cases import change_from, columns_of
from tests.data.build import START, DomainRows, build_dataset, samples, write_dataset
from tests.data.prepare.cases import spec

OPTIONS = AsOfOptions(prior_rows=2.0)


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def added(contract: Contract, path: Path) -> Contract:
    """With the as-of features of the data set at ``path``, which is written again."""
    found = add_as_of(contract, Storage(str(path)), OPTIONS)
    save_contract(found, str(path))
    return load_contract(str(path))


def as_of_values(contract: Contract, path: Path, domain: str, split: str) -> dict[str, np.ndarray]:
    rows = read_frame(contract, str(path), read_manifest(contract, str(path), domain, split))
    return {feature.name: rows.column(feature.name) for feature in contract.features if feature.as_of}


@pytest.fixture
def by_hand(tmp_path: Path) -> Contract:
    """Rows A, B, C, D of the training split and E of the test split; B ties with C, D with E."""
    train = samples(ints(1, 2, 1, 1), ints(1, 1, 1, 2), START + ints(10, 20, 20, 30), ints(1, 0, 1, 0))
    test = samples(ints(1), ints(1), START + ints(30), ints(1))
    return added(write_dataset(tmp_path, {"target": DomainRows({"train": train, "test": test})}), tmp_path)


# The mean of everything: 1/2 at +10, (1 + 1) / 3 at +20, (2 + 1) / 5 at +30.
USER_MEAN = [1 / 2, 2 / 3, (1 + 4 / 3) / 3, (2 + 1.2) / 4, (2 + 1.2) / 4]
ITEM_MEAN = [1 / 2, (1 + 4 / 3) / 3, (1 + 4 / 3) / 3, 0.6, (2 + 1.2) / 5]
# A was half better than expected of its item, C 1 - 7/9.
USER_RESIDUAL = [0, 0, (1 / 2) / 3, (1 / 2 + 2 / 9) / 4, (1 / 2 + 2 / 9) / 4]
# A was half better than expected of its user, B 0 - 2/3, C 1 - 7/9.
ITEM_RESIDUAL = [0, (1 / 2) / 3, (1 / 2) / 3, 0, (1 / 2 - 2 / 3 + 2 / 9) / 5]
BY_HAND = {
    "asof_user_all_residual": USER_RESIDUAL,
    "asof_item_all_residual": ITEM_RESIDUAL,
    "asof_user_all_expected": np.subtract(USER_MEAN, USER_RESIDUAL),
    "asof_item_all_expected": np.subtract(ITEM_MEAN, ITEM_RESIDUAL),
    "asof_user_all_log_count": [0, 0, np.log(2), np.log(3), np.log(3)],
    "asof_user_all_log_age": [np.log1p(1e9), np.log1p(1e9), np.log1p(10), np.log1p(10), np.log1p(10)],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_values_equal_numbers_computed_by_hand(name: str, by_hand: Contract, tmp_path: Path):
    found = {}
    for file in (tmp_path / "samples/target").rglob("bucket-*"):
        for row in pq.read_table(file).to_pylist():
            found[file.parent.name, row["user"], row["time"] - START] = row[name]
    rows = [("train", 1, 10), ("train", 2, 20), ("train", 1, 20), ("train", 1, 30), ("test", 1, 30)]
    assert [found[row] for row in rows] == pytest.approx(BY_HAND[name], rel=1e-6)
    feature = next(feature for feature in by_hand.features if feature.name == name)
    assert (feature.kind, feature.as_of) == ("dense", True)
    assert feature.mean == pytest.approx(np.mean(BY_HAND[name][:4]), rel=1e-6)
    assert feature.std == pytest.approx(np.std(BY_HAND[name][:4]), rel=1e-6)


def test_every_split_of_every_domain_has_the_columns_of_the_plain_baselines(tmp_path: Path):
    contract = added(build_dataset(tmp_path, num_users=20), tmp_path)
    for domain, described in contract.domains.items():
        for split in described.splits:
            _, expected = columns_of(contract.without_as_of(), str(tmp_path), split, OPTIONS.prior_rows, domain)
            past = tuple(name for name in expected.names if "/" in name)
            names, values = contrasts(past, expected.columns(past))
            columns = {feature_name(name): values[:, index] for index, name in enumerate(names)}
            found = as_of_values(contract, tmp_path, domain, split)
            assert set(found) == set(columns)
            for name, values in found.items():
                np.testing.assert_allclose(values, columns[name], rtol=1e-5, atol=1e-6, err_msg=f"{domain} {split} {name}")


def test_numbers_come_to_a_network_with_mean_0_and_std_1_over_the_targets_training_rows(tmp_path: Path):
    contract = added(build_dataset(tmp_path), tmp_path)
    values = as_of_values(contract, tmp_path, "target", "train")
    scaled = np.stack([(values[feature.name] - feature.mean) / feature.std for feature in contract.features if feature.as_of])
    np.testing.assert_allclose(scaled.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=1), 1, atol=1e-4)


def test_rows_order_row_groups_and_histories_stay(tmp_path: Path):
    contract = build_dataset(tmp_path, num_users=20, row_group_rows=16, num_buckets=3)
    # A bucket without rows keeps its file.
    empty = tmp_path / "samples/source/valid/bucket-00001.parquet"
    pq.write_table(pq.read_table(empty).slice(0, 0), empty)
    files = sorted(file for folder in ("samples", "histories") for file in (tmp_path / folder).rglob("*.parquet"))
    before = {file: (pq.read_table(file), group_rows(file), file.read_bytes()) for file in files}
    contract = added(contract, tmp_path)
    names = [feature.name for feature in contract.features if feature.as_of]
    assert len(names) == len(set(names)) > 20
    assert sorted(file for folder in ("samples", "histories") for file in (tmp_path / folder).rglob("*.parquet")) == files
    for file, (table, groups, content) in before.items():
        if "histories" in file.parts:
            assert file.read_bytes() == content
        else:
            now = pq.read_table(file)
            assert now.column_names == [*table.column_names, *names]
            assert now.drop_columns(names).equals(table)
            assert group_rows(file) == groups


def group_rows(file: Path) -> list[int]:
    metadata = pq.ParquetFile(file).metadata
    lengths = (metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    return [length for length in lengths if length]


def test_labels_at_or_after_a_row_do_not_reach_its_values(tmp_path: Path):
    paths = tmp_path / "before", tmp_path / "after"
    contracts = [build_dataset(path, num_users=30, seed=5) for path in paths]
    rows = read_frame(contracts[0], str(paths[0]), read_manifest(contracts[0], str(paths[0]), "target", "valid"))
    time = rows.column("time")
    cut = int(np.sort(time)[rows.num_rows // 2])
    assert (time == cut).sum() > 0
    for file in [*(paths[1] / "samples").rglob("bucket-*"), *(paths[1] / "histories").rglob("bucket-*")]:
        change_from(file, cut)
    contracts = [added(contract, path) for contract, path in zip(contracts, paths, strict=True)]
    before, after = (as_of_values(contract, path, "target", "valid") for contract, path in zip(contracts, paths, strict=True))
    for name, values in before.items():
        np.testing.assert_array_equal(values[time <= cut], after[name][time <= cut], err_msg=name)
    assert any((values != after[name])[time > cut].any() for name, values in before.items())
    assert contracts[0].content_hash != contracts[1].content_hash


def test_the_content_hash_covers_the_values(tmp_path: Path):
    plain = [build_dataset(tmp_path / name, num_users=20) for name in "abc"]
    options = [OPTIONS, OPTIONS, AsOfOptions(prior_rows=3.0)]
    found = [add_as_of(plain[n], Storage(str(tmp_path / "abc"[n])), options[n]) for n in range(3)]
    assert found[0] == found[1]
    assert len({plain[0].content_hash, found[0].content_hash, found[2].content_hash}) == 3


@pytest.mark.parametrize("name", [name for name in TABULAR_MODELS if name not in AMOUNT_MODELS])
def test_plain_baselines_are_the_same_with_and_without(name: str, tmp_path: Path):
    contract = build_dataset(tmp_path)
    small = {"min_data_in_leaf": 20, "max_rounds": 20} if name == "lightgbm" else {}
    job = JobConfig.parse({"data": {"path": str(tmp_path)}, "model": {"name": name} | small}, "test")
    without = train_tabular(job, contract)
    scored = score_tabular(job, contract, without.fitted, "test", "target")
    contract = added(contract, tmp_path)
    beside = train_tabular(job, contract)
    assert beside.fitted.save() == without.fitted.save()
    assert beside.valid == without.valid
    assert score_tabular(job, contract, beside.fitted, "test", "target") == scored


def test_more_memory_than_allowed_is_refused_with_the_arithmetic():
    check_as_of(spec(), 1000, AsOfOptions(max_memory_mib=2))
    arithmetic = r"2,000 samples and history events x 784 bytes = 1\.5 MiB, as_of\.max_memory_mib=1\. .* set as_of=null"
    with pytest.raises(ResourceError, match=arithmetic):
        check_as_of(spec(), 1000, AsOfOptions(max_memory_mib=1))


def test_a_feature_may_not_take_the_name_of_an_as_of_feature():
    with pytest.raises(DataError, match="Received: asof_clicks"):
        check_as_of(spec(features=["country", {"name": "asof_clicks", "kind": "dense"}]), 10, AsOfOptions())


@pytest.mark.parametrize(
    ("column", "name"),
    [
        pytest.param("item/all/label", "asof_item_all_mean", id="a mean of labels"),
        pytest.param("user+genres/target/log_count", "asof_user_genres_target_log_count", id="a cross"),
        pytest.param("user/feed.v-2/rating", "asof_user_feed_v_2_rating", id="a domain with marks"),
    ],
)
def test_columns_become_names_that_a_contract_takes(column: str, name: str):
    assert feature_name(column) == name


def test_columns_that_do_not_vary_are_left_out_and_the_names_of_others_differ():
    names = ("user/a.b/label", "item/all/label", "user/a-b/label")
    found = as_of_features(names, np.array([[1, 5, 0.5], [2, 5, 0.5 + 1e-7]], np.float32))
    assert {index: feature.name for index, feature in found.items()} == {0: "asof_user_a_b_mean"}
    with pytest.raises(DataError, match=r"Received: user/a\.b/label and user/a-b/label, both asof_user_a_b_mean"):
        as_of_features(names, np.array([[1, 5, 3], [2, 5, 4]], np.float32))
