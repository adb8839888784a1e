"""Planted data: as many rows as asked for, in the promised layout, the same for a seed, learnable, in flat memory."""

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from raytrain.config import JobConfig
from raytrain.data.contract import SPLITS, load_contract
from raytrain.data.manifest import check_history_files, check_labels, read_manifest
from raytrain.data.micro_batches import local_micro_batches
from raytrain.data.synthetic import SyntheticSpec, files, generate, job, writing
from raytrain.errors import ConfigError, DataError
from raytrain.training.loop import build_learner, train_step
from raytrain.training.parallel import World
from tests.data.served import stream_spec
from tests.messages import assert_three_parts

SPEC = SyntheticSpec(
    num_rows=5_000,
    num_source_rows=7_001,
    num_eval_rows=300,
    num_id_features=5,
    table_rows=60,
    num_users=101,
    num_dense=2,
    events_per_user=20,
    row_ids=True,
    seed=3,
)
LAYOUT = {"num_buckets": 4, "row_group_rows": 256, "row_group_events": 200}


def quietly(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "data"
    generate(SPEC, str(path), quietly, **LAYOUT)
    return path


def digests(path: Path) -> dict[str, str]:
    """Of everything that was generated; reading leaves _manifest.parquet beside it."""
    written = [file for file in sorted(path.rglob("*.*")) if not file.name.startswith("_")]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in written}


def samples(path: Path, domain: str = "target", split: str = "train") -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted((path / f"samples/{domain}/{split}").glob("bucket-*")))


def test_it_holds_what_was_asked_for(dataset):
    contract = load_contract(str(dataset))
    rows = {name: {split: part.num_rows for split, part in domain.splits.items()} for name, domain in contract.domains.items()}
    assert rows == {"target": {"train": 5_000, "valid": 300, "test": 300}, "source": {"train": 7_001, "valid": 300, "test": 300}}
    assert {name: table.num_rows for name, table in contract.tables.items()} == {
        "user": 102, "item": 60, "f02": 60, "f03": 60, "f04": 60, "row_id": 13_202,
    }  # fmt: skip
    assert [feature.name for feature in contract.features] == ["user", "item", "f02", "f03", "f04", "row_id", "d00", "d01"]
    for domain in ("target", "source"):
        history = contract.domains[domain].history
        assert (history.num_users, history.num_events, history.max_events) == (101, 2_020, 20)
        for split in SPLITS:
            table, declared = samples(dataset, domain, split), contract.domains[domain].splits[split]
            assert (table.num_rows, sum(table["label"].to_pylist())) == (declared.num_rows, declared.num_positives)
            assert (min(table["time"].to_pylist()), max(table["time"].to_pylist())) == (declared.min_time, declared.max_time)
            manifest = read_manifest(contract, str(dataset), domain, split)
            check_history_files(contract, str(dataset), ("target", "source"), manifest)
            check_labels(contract, str(dataset), domain, split)
        times = [(part.min_time, part.max_time) for part in contract.domains[domain].splits.values()]
        assert times[0][1] < times[1][0] <= times[1][1] < times[2][0]


def test_row_groups_are_full_but_the_last(dataset):
    for file in (dataset / "samples/source/train").glob("bucket-*"):
        metadata = pq.read_metadata(file)
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        assert set(counts[:-1]) == {256}
        assert sum(counts) in (1_750, 1_751)
    for file in (dataset / "histories/source").glob("bucket-*"):
        metadata = pq.read_metadata(file)
        assert [metadata.row_group(group).num_rows for group in range(2)] == [10, 10]


def test_the_files_are_a_function_of_the_seed_and_of_nothing_else(dataset, tmp_path):
    again = generate(SPEC, str(tmp_path / "again"), quietly, **LAYOUT, num_threads=1)
    other = generate(SPEC.model_copy(update={"seed": 4}), str(tmp_path / "other"), quietly, **LAYOUT)
    assert digests(tmp_path / "again") == digests(dataset)
    assert again == load_contract(str(dataset))
    assert other.content_hash != again.content_hash
    for name, digest in digests(tmp_path / "other").items():
        assert digest != digests(dataset)[name]


def test_no_two_files_or_runs_hold_the_same_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RUN_ROWS", 50)
    spec = SyntheticSpec(num_rows=200, num_source_rows=200, num_eval_rows=100, num_id_features=3, skew=0)
    generate(spec, str(tmp_path), quietly, num_buckets=2, row_group_rows=50)
    runs = [
        samples(tmp_path, domain, split)["f02"].to_numpy()[first : first + 50].tobytes()
        for domain in ("target", "source")
        for split, count in (("train", 200), ("valid", 100), ("test", 100))
        for first in range(0, count, 50)
    ]
    assert len(set(runs)) == 16


def test_a_bucket_holds_the_samples_and_the_histories_of_the_same_users(dataset):
    for bucket in range(4):
        name, users = f"bucket-{bucket:05d}.parquet", set(range(1 + bucket, 102, 4))
        for domain in ("target", "source"):
            assert set(pq.read_table(dataset / f"histories/{domain}/{name}")["user"].to_pylist()) == users
            for split in SPLITS:
                file = dataset / f"samples/{domain}/{split}/{name}"
                assert not file.exists() or set(pq.read_table(file)["user"].to_pylist()) <= users


def test_rows_and_events_come_in_order(dataset):
    for file in (dataset / "samples").rglob("bucket-*"):
        table = pq.read_table(file)
        keys = list(zip(*(table[name].to_pylist() for name in ("time", "user", "item")), strict=True))
        assert keys == sorted(keys)
    for file in (dataset / "histories").rglob("bucket-*"):
        table = pq.read_table(file)
        assert table["user"].to_pylist() == sorted(set(table["user"].to_pylist()))
        assert all(times == sorted(times) for times in table["time"].to_pylist())


def test_rows_of_one_second_are_ordered_by_user_and_item(tmp_path):
    # 86,400 rows of 2 users and 5 items in a split of 86,400 seconds: hundreds of them share time and user.
    generate(SyntheticSpec(num_rows=1, num_eval_rows=86_400, num_id_features=2, num_users=2, num_items=5), str(tmp_path), quietly, 1)
    table = samples(tmp_path, split="valid")
    keys = np.stack([table[name].to_numpy() for name in ("time", "user", "item")], axis=1)
    assert (keys == keys[np.lexsort(keys.T[::-1])]).all()
    assert (keys[1:, :2] == keys[:-1, :2]).all(axis=1).sum() > 1_000


def test_row_ids_number_every_row_once(dataset):
    found = [
        value for domain in ("target", "source") for split in SPLITS for value in samples(dataset, domain, split)["row_id"].to_pylist()
    ]
    assert sorted(found) == list(range(1, 13_202))


@settings(max_examples=15)
@given(
    st.builds(
        SyntheticSpec,
        num_rows=st.integers(1, 300),
        num_source_rows=st.integers(0, 300),
        num_eval_rows=st.integers(1, 40),
        num_id_features=st.integers(2, 4),
        table_rows=st.integers(6, 40),
        skew=st.sampled_from([0.0, 0.5, 0.9]),
        events_per_user=st.integers(0, 5),
        row_ids=st.booleans(),
    ),
    st.integers(1, 5),
    st.integers(1, 100),
)
def test_any_size_keeps_its_contract(tmp_path_factory, spec, num_buckets, group_rows):
    path = str(tmp_path_factory.mktemp("any"))
    contract = generate(spec, path, quietly, num_buckets, group_rows, group_rows)
    histories = spec.domains if spec.events_per_user else ()
    for domain in spec.domains:
        for split in SPLITS:
            served = stream_spec(contract, path, 64, histories, domain=domain, split=split)
            check_history_files(contract, path, histories, served.manifest)
            batches = list(local_micro_batches(served))
            # Quarantine would find a null, an id outside its table, or a label that is none.
            assert sum(int(batch.weight.sum()) for batch in batches) == spec.rows_of(domain, split)


def test_ids_are_as_skewed_as_asked(tmp_path):
    shares = {}
    for skew in (0.0, 0.5, 0.8):
        generate(SyntheticSpec(num_rows=20_000, num_id_features=3, table_rows=10_001, skew=skew), str(tmp_path / str(skew)), quietly)
        shares[skew] = (samples(tmp_path / str(skew))["f02"].to_numpy() <= 100).mean()
    # The hundredth part of the ids makes 0.01 ** (1 - skew) of the rows.
    assert shares == pytest.approx({0.0: 0.01, 0.5: 0.1, 0.8: 0.398}, abs=0.01)


def test_the_planted_features_predict_the_label(tmp_path):
    generate(SyntheticSpec(num_rows=20_000, num_eval_rows=5_000, num_id_features=4, table_rows=50, num_dense=1), str(tmp_path), quietly)

    def inputs(split: str):
        rows = samples(tmp_path, split=split)
        one_hot = [np.eye(50)[rows[name].to_numpy()] for name in ("item", "f02", "f03")]
        return np.concatenate([*one_hot, rows["d00"].to_numpy()[:, None]], axis=1), rows["label"].to_numpy()

    model = LogisticRegression(max_iter=200).fit(*inputs("train"))
    features, labels = inputs("test")
    assert roc_auc_score(labels, model.predict_proba(features)[:, 1]) > 0.75


def test_the_history_predicts_the_label(tmp_path):
    spec = SyntheticSpec(num_rows=10_000, num_id_features=2, table_rows=500, num_items=20, events_per_user=100)
    contract = generate(spec, str(tmp_path), quietly)
    batch = next(local_micro_batches(stream_spec(contract, tmp_path, 10_000, ("target",))))
    history = batch.histories["target"]
    # How the user rated the candidate item before: 4 and 5 tell that its genre is to the user's taste.
    same = (history.items == batch.ids["item"][:, None]) & history.mask
    known = same.any(1)
    rated_high = ((history.side["rating"] >= 4) & same).sum(1)[known] * 2 > same.sum(1)[known]
    labels = batch.label[known]
    assert labels[rated_high].mean() > labels[~rated_high].mean() + 0.25


def test_a_model_trains_on_it(dataset):
    contract = load_contract(str(dataset))
    values = {
        "data": {"path": str(dataset), "batch_size": 256, "history_length": 10},
        "model": {"name": "din", "skip_features": ["row_id"]},
        "tables": {"backend": "local"},
    }
    job_config = JobConfig.parse(values, "test")
    learner = build_learner(job_config, contract, World())
    batch = next(local_micro_batches(stream_spec(contract, dataset, 256, ("target", "source"), history_length=10)))
    losses = [float(train_step(job_config, learner, batch, step, 20)) for step in range(20)]
    assert losses[-1] < losses[0]


def test_memory_does_not_follow_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RUN_ROWS", 4_096)
    peaks = []
    for number, num_rows in enumerate((20_000, 20_000, 200_000)):
        spec = SyntheticSpec(num_rows=num_rows, num_eval_rows=100, num_id_features=8, table_rows=num_rows // 20, events_per_user=20)
        pool = pa.proxy_memory_pool(pa.default_memory_pool())
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            generate(spec, str(tmp_path / str(number)), quietly, 1, 512, 2_048, num_threads=1)
            peaks.append(tracemalloc.get_traced_memory()[1] + pool.max_memory())
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(before)
    # The first run also pays for what is built once; footers grow by a few bytes a row group.
    assert peaks[2] < 1.5 * peaks[1]


def test_it_writes_to_an_object_store(dataset, s3_bucket):
    contract = generate(SPEC, f"{s3_bucket}/synthetic", quietly, **LAYOUT)
    assert contract == load_contract(f"{s3_bucket}/synthetic") == load_contract(str(dataset))
    read_manifest(contract, f"{s3_bucket}/synthetic", "source", "train")


def test_a_split_of_few_rows_fills_few_files(tmp_path):
    generate(SyntheticSpec(num_rows=10_000, num_eval_rows=600, num_id_features=2), str(tmp_path), quietly, 20, 500)
    counts = {split: len(list((tmp_path / f"samples/target/{split}").iterdir())) for split in SPLITS}
    assert counts == {"train": 20, "valid": 2, "test": 2}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({}, 8, id="eight at least"),
        pytest.param({"num_rows": 2_001}, 21, id="by target rows"),
        pytest.param({"num_source_rows": 2_500}, 25, id="by source rows"),
        pytest.param({"num_users": 100, "events_per_user": 30}, 30, id="by history events"),
        pytest.param({"num_users": 3}, 3, id="no more than users"),
    ],
)
def test_the_number_of_buckets_follows_the_size(tmp_path, monkeypatch, values, expected):
    monkeypatch.setattr(job, "BUCKET_ROWS", 100)
    spec = SyntheticSpec(**{"num_rows": 100, "num_eval_rows": 1, "num_id_features": 2, "table_rows": 50, **values})
    assert generate(spec, str(tmp_path), quietly).num_buckets == expected


def test_it_says_how_much_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "SAY_EVERY_S", 0.0)
    said = []
    generate(SyntheticSpec(num_rows=1_000, num_eval_rows=50, num_id_features=2), str(tmp_path), said.append, 1, num_threads=1)
    assert "1,000 of 1,100 rows and events" in said[0]
    assert all("a second, left 0:0" in line for line in said[:-1])
    assert "1,100 of 1,100 rows and events" in said[-1]
    assert f"{tmp_path}, 3 files" in said[-1]


def test_a_directory_that_holds_something_is_refused(dataset, tmp_path):
    before = digests(dataset)
    with pytest.raises(DataError) as error:
        generate(SPEC, str(dataset), quietly)
    assert_three_parts(error.value, "new or empty directory", str(dataset), "contract.yaml")
    assert digests(dataset) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError) as error:
        generate(SPEC, str(tmp_path / "file"), quietly)
    assert_three_parts(error.value, "can be written", "file")


def test_more_buckets_than_users_are_refused(tmp_path):
    with pytest.raises(DataError) as error:
        generate(SPEC, str(tmp_path), quietly, num_buckets=102)
    assert_three_parts(error.value, "Received: num_buckets=102, 101 users.")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"row_ids": True, "num_rows": 2**31}, "row_ids", id="more row ids than 32 bits"),
        pytest.param({"num_users": 2**31}, "num_users", id="more users than 32 bits"),
        pytest.param({"skew": 1.0}, "skew", id="a skew of one"),
        pytest.param({"num_row": 5}, "Did you mean num_rows?", id="an unknown key"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(values, expected):
    with pytest.raises(ConfigError) as error:
        SyntheticSpec.parse(values, "spec")
    assert_three_parts(error.value, expected)
