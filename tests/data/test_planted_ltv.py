"""Planted lifetime values: every harm does what it says to the rows it says, and nothing but the truth tells which those are."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from raytrain.data.contract import load_contract
from raytrain.data.manifest import check_labels
from raytrain.data.micro_batches import local_micro_batches
from raytrain.data.planted_ltv import TRUTH_FILE, PlantedLtvSpec, generate_planted_ltv
from raytrain.data.planted_ltv.rows import DAY_S, DENSE_SHIFT, DOMAINS, HORIZON_DAYS, draw_split, slice_roles
from raytrain.data.planted_ltv.rule import PRICES, Rule, draw_labels, expected_amount, pay_probability
from raytrain.errors import ConfigError, DataError
from raytrain.metrics.auc import auc
from raytrain.metrics.spearman import spearman
from tests.data.served import stream_spec
from tests.messages import assert_three_parts

SPEC = PlantedLtvSpec(num_rows=900, volume=4.0, num_probe_rows=200, num_eval_rows=300, num_items=12, num_ids=7, seed=3)
LAYOUT = {"num_buckets": 3, "row_group_rows": 128}


def quietly(line: str) -> None:
    pass


def spec_with(**changes) -> PlantedLtvSpec:
    return PlantedLtvSpec.parse(SPEC.model_dump() | changes, "test")


def drawn(spec: PlantedLtvSpec, domain: str = "external", split: str = "train") -> pd.DataFrame:
    """A split's rows beside their truth."""
    rows = draw_split(spec, Rule.of(spec), domain, split, 1)
    return pd.DataFrame(rows.samples | rows.truth)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("planted_ltv") / "data"
    generate_planted_ltv(SPEC, str(path), quietly, **LAYOUT)
    return path


def digests(path: Path) -> dict[str, str]:
    """Of everything that was generated; reading leaves _manifest.parquet beside it."""
    written = [file for file in sorted(path.rglob("*.*")) if not file.name.startswith("_")]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in written}


def test_the_files_keep_the_contract(dataset):
    contract = load_contract(str(dataset))
    sizes = {name: {split: part.num_rows for split, part in domain.splits.items()} for name, domain in contract.domains.items()}
    assert sizes["internal"] == {"train": 900, "valid": 300, "test": 300, "probe": 200}
    assert sizes["external"] == {"train": 3_600, "valid": 300, "test": 300}
    assert (contract.target, contract.sources, contract.num_slices) == ("internal", ("external",), 21)
    for domain, splits in sizes.items():
        for split, num_rows in splits.items():
            check_labels(contract, str(dataset), domain, split)
            batches = list(local_micro_batches(stream_spec(contract, str(dataset), 64, (), domain=domain, split=split)))
            # Quarantine would find a null, an id outside its table, or an amount that is none.
            assert sum(int(batch.weight.sum()) for batch in batches) == num_rows
            num_positives = sum(int((batch.label > 0).sum()) for batch in batches)
            assert num_positives == contract.domains[domain].splits[split].num_positives


def test_no_label_of_a_split_reaches_into_a_later_one():
    times = {split: drawn(SPEC, "internal", split)["time"] for split in ("train", "probe", "valid", "test")}
    for earlier, later in (("train", "valid"), ("probe", "valid"), ("valid", "test")):
        assert times[earlier].max() + HORIZON_DAYS * DAY_S <= times[later].min()


def test_domains_and_splits_share_no_user():
    users = [set(drawn(SPEC, domain, split)["user"]) for domain in DOMAINS for split in SPEC.splits_of(domain)]
    assert len(set.union(*users)) == sum(map(len, users))


def test_a_users_rows_pay_together():
    # With two rows a user about half of the rows have a mate.
    rows = drawn(spec_with(num_rows=40_000, rows_per_user=2), "internal")
    surprise = (rows["label"] > 0) - rows["pay"]
    together = surprise.groupby(rows["user"]).agg(["sum", "count"])
    variance = together["sum"].var() / together["count"].mean()
    assert variance > 1.03 * (rows["pay"] * (1 - rows["pay"])).mean()


def test_the_files_are_a_function_of_the_seed_and_of_nothing_else(dataset, tmp_path):
    again = generate_planted_ltv(SPEC, str(tmp_path / "again"), quietly, **LAYOUT)
    other = generate_planted_ltv(spec_with(seed=4), str(tmp_path / "other"), quietly, **LAYOUT)
    assert digests(tmp_path / "again") == digests(dataset)
    assert again == load_contract(str(dataset))
    assert other.content_hash != again.content_hash


def test_the_truth_stands_beside_the_rows_and_in_no_feature(dataset):
    contract, truth = load_contract(str(dataset)), pq.read_table(dataset / TRUTH_FILE).to_pandas()
    features = {feature.name for feature in contract.features}
    assert len(truth) == sum(split.num_rows for domain in contract.domains.values() for split in domain.splits.values())
    assert not features & {contract.slice, *truth.columns}
    for (domain, split, bucket), own in truth.groupby(["domain", "split", "bucket"]):
        rows = pq.read_table(dataset / f"samples/{domain}/{split}/bucket-{bucket:05d}.parquet").to_pandas()
        assert own["row"].tolist() == list(range(len(rows)))
        assert own["slice"].tolist() == rows["slice"].tolist()
        assert set(rows) == features | {"user", "time", "label", "slice"}
        assert rows["time"].is_monotonic_increasing
        assert set((rows["user"] - 1) % 3) == {bucket}


def test_slices_have_the_roles_asked_for():
    spec = spec_with(harmful_share=0.25, neutral_share=0.2)
    roles = slice_roles(spec)
    assert {role: int((roles == role).sum()) for role in np.unique(roles)} == {"good": 11, "harmful": 5, "neutral": 4}
    rows = drawn(spec)
    assert (rows.groupby("slice")["slice_role"].first().to_numpy() == roles).all()
    assert set(rows["slice"].value_counts()) == {180}
    # With pure slices the role of a row is its slice's; internal rows are good whatever their slice.
    assert (rows["role"] == rows["slice_role"]).all()
    internal = drawn(spec, "internal")
    assert set(internal["role"]) == {"internal"}
    assert internal["slice"].value_counts().max() > 10 * internal["slice"].value_counts().min()


def test_purity_mixes_good_and_harmful_slices_and_leaves_neutral_ones():
    rows = drawn(spec_with(purity=0.65, num_rows=10_000))
    shares = rows.groupby("slice_role")["role"].value_counts(normalize=True)
    assert shares["harmful"].to_dict() == pytest.approx({"harmful": 0.65, "good": 0.35}, abs=0.02)
    assert shares["good"].to_dict() == pytest.approx({"harmful": 0.35, "good": 0.65}, abs=0.02)
    assert shares["neutral"].to_dict() == {"neutral": 1}


def test_volume_is_external_rows_for_each_internal_one():
    assert spec_with(volume=2.5).splits_of("external")["train"] == 2_250


def test_good_rows_follow_the_internal_rule():
    for rows in (drawn(spec_with(num_rows=20_000), "internal"), drawn(spec_with(num_rows=10_000)).query("role == 'good'")):
        assert rows["expected"].mean() == pytest.approx(rows["label"].mean(), rel=0.05)
        assert rows["pay"].mean() == pytest.approx((rows["label"] > 0).mean(), abs=0.01)
        tenth = pd.qcut(rows["expected"], 10, labels=False)
        means = rows.groupby(tenth)[["expected", "label"]].mean()
        np.testing.assert_allclose(means["label"], means["expected"], rtol=0.3)


def test_amounts_pile_up_at_zero_and_at_prices():
    label = drawn(spec_with(num_rows=20_000), "internal")["label"]
    assert 0.6 < (label == 0).mean() < 0.8
    paid = label[label > 0]
    assert np.isin(paid, PRICES).mean() > 0.7
    assert (paid.to_numpy()[:, None] % PRICES == 0).any(axis=1).all()


def test_flipped_labels_turn_round_who_pays_and_how_much():
    rows = drawn(spec_with(num_rows=10_000, harm="label_flip")).query("role == 'harmful'")
    assert auc(rows["pay"], rows["label"]) < 0.35
    paid = rows[rows["label"] > 0]
    assert spearman(paid["expected"] / paid["pay"], paid["label"]) < -0.4


def test_shifted_covariates_hide_the_rule_and_keep_the_labels():
    spec = spec_with(num_rows=10_000, harm="covariate_shift", num_items=60, num_ids=30)
    rows = drawn(spec).query("role == 'harmful'")
    unharmed = drawn(spec_with(**spec.model_dump() | {"harmful_share": 0.0}))
    assert abs(spearman(rows["expected"], rows["label"])) < 0.2
    assert rows["label"].mean() == pytest.approx(unharmed["label"].mean(), rel=0.1)
    assert rows["dense_1"].mean() == pytest.approx(DENSE_SHIFT, abs=0.05)
    assert set(rows["item"]) == set(range(1, 61))


def test_a_scale_shift_keeps_who_pays_and_turns_amounts_round():
    rows = drawn(spec_with(num_rows=10_000, harm="scale_shift")).query("role == 'harmful'")
    assert auc(rows["pay"], rows["label"]) > 0.65
    paid = rows[rows["label"] > 0]
    assert spearman(paid["expected"] / paid["pay"], paid["label"]) < -0.4
    assert (np.isin(np.round(paid["label"] / 20, 3), PRICES) | np.isin(np.round(paid["label"] * 20, 3), PRICES)).mean() > 0.7


def test_neutral_rows_share_nothing_that_could_be_learnt_from():
    neutral, internal = drawn(SPEC).query("role == 'neutral'"), drawn(SPEC, "internal")
    assert len(neutral) == 2 * 180
    for name, size in SPEC.id_sizes.items():
        assert internal[name].between(1, size).all()
        assert neutral[name].between(size + 1, size + max(1, size // 5)).all()
    assert (neutral[list(SPEC.dense_features)] == 0).all(axis=None)
    assert neutral["expected"].isna().all()
    assert (neutral["label"] > 0).mean() == pytest.approx((internal["label"] > 0).mean(), abs=0.07)


def test_the_mean_amount_of_a_score_is_known():
    scores = np.repeat([[-1.0, 0.5, 2.0], [1.5, 0.0, -1.0]], 30_000, axis=1)
    draw = np.random.default_rng(0)
    label = draw_labels(scores, draw.standard_normal(scores.shape[1]), draw).reshape(3, -1)
    np.testing.assert_allclose(expected_amount(scores)[::30_000], label.mean(axis=1), rtol=0.04)
    np.testing.assert_allclose(pay_probability(scores)[::30_000], (label > 0).mean(axis=1), atol=0.01)


def test_a_directory_that_holds_something_is_refused(dataset):
    with pytest.raises(DataError) as error:
        generate_planted_ltv(SPEC, str(dataset), quietly)
    assert_three_parts(error.value, "new or empty directory", str(dataset), "contract.yaml")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"harmful_share": 0.7, "neutral_share": 0.6}, "harmful_share=0.7", id="more slices than there are"),
        pytest.param({"volume": 0.001}, "volume=0.001", id="slices without a row"),
        pytest.param({"num_items": 2**30}, "num_items=1073741824", id="more items than 32 bits"),
        pytest.param({"harm": "noise"}, "harm", id="an unknown harm"),
        pytest.param({"purity": 1.5}, "purity", id="purer than pure"),
        pytest.param({"num_slice": 5}, "Did you mean num_slices?", id="an unknown key"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(values, expected):
    with pytest.raises(ConfigError) as error:
        spec_with(**values)
    assert_three_parts(error.value, expected)
