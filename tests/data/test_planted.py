"""Planted truth: the label follows the relevant events of both domains before a sample, and nothing but the truth tells which those are."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raytrain.data.contract import SPLITS, load_contract
from raytrain.data.manifest import check_history_files, check_labels, read_manifest
from raytrain.data.micro_batches import local_micro_batches
from raytrain.data.planted import TRUTH_FILE, PlantedSpec, generate_planted, job
from raytrain.data.planted.rows import Truth, draw_bucket
from raytrain.errors import ConfigError, ContractError, DataError
from tests.data.served import stream_spec
from tests.messages import assert_three_parts

SPEC = PlantedSpec(
    num_users=50,
    events_per_user=120,
    items_per_domain=80,
    num_topics=20,
    topics_per_user=8,
    num_rows=1_500,
    num_eval_rows=300,
    seed=3,
)
LAYOUT = {"num_buckets": 3, "row_group_rows": 128, "row_group_events": 500}
DOMAINS = ("target", "source")


def quietly(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("planted") / "data"
    generate_planted(SPEC, str(path), quietly, **LAYOUT)
    return path


def digests(path: Path) -> dict[str, str]:
    """Of everything that was generated; reading leaves _manifest.parquet beside it."""
    written = [file for file in sorted(path.rglob("*.*")) if not file.name.startswith("_")]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in written}


def read(path: Path, folder: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted((path / folder).glob("bucket-*")))


def topics(path: Path) -> np.ndarray:
    """Topic by item id; -1 for id 0."""
    return np.append(-1, pq.read_table(path / TRUTH_FILE)["topic"].to_numpy())


def events_of(path: Path) -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """domain -> user -> column -> [E]"""
    return {
        domain: {
            row["user"]: {name: np.array(row[name]) for name in ("item", "time", "feedback")}
            for row in read(path, f"histories/{domain}").to_pylist()
        }
        for domain in DOMAINS
    }


def test_it_holds_what_was_asked_for(dataset):
    contract = load_contract(str(dataset))
    assert {name: table.num_rows for name, table in contract.tables.items()} == {"user": 51, "item": 161}
    assert {split: part.num_rows for split, part in contract.domains["target"].splits.items()} == {
        "train": 1_500, "valid": 300, "test": 300,
    }  # fmt: skip
    for domain in DOMAINS:
        history = contract.domains[domain].history
        assert (history.num_users, history.num_events, history.max_events) == (50, 6_000, 120)
        assert read(dataset, f"histories/{domain}")["user"].to_pylist() == sorted(range(1, 51), key=lambda user: ((user - 1) % 3, user))
    for split in SPLITS:
        table, declared = read(dataset, f"samples/target/{split}"), contract.domains["target"].splits[split]
        assert (table.num_rows, sum(table["label"].to_pylist())) == (declared.num_rows, declared.num_positives)
        assert (min(table["time"].to_pylist()), max(table["time"].to_pylist())) == (declared.min_time, declared.max_time)
        check_history_files(contract, str(dataset), DOMAINS, read_manifest(contract, str(dataset), "target", split))
        check_labels(contract, str(dataset), "target", split)
    times = [(part.min_time, part.max_time) for part in contract.domains["target"].splits.values()]
    assert times[0][1] < times[1][0] <= times[1][1] < times[2][0]
    with pytest.raises(ContractError) as error:
        read_manifest(contract, str(dataset), "source", "train")
    assert_three_parts(error.value, "Received: source, which has a history alone.")


def test_the_files_are_a_function_of_the_seed_and_of_nothing_else(dataset, tmp_path):
    again = generate_planted(SPEC, str(tmp_path / "again"), quietly, **LAYOUT, num_threads=1)
    other = generate_planted(SPEC.model_copy(update={"seed": 4}), str(tmp_path / "other"), quietly, **LAYOUT)
    assert digests(tmp_path / "again") == digests(dataset)
    assert again == load_contract(str(dataset))
    assert other.content_hash != again.content_hash
    for name, digest in digests(tmp_path / "other").items():
        assert digest != digests(dataset)[name]


def test_rows_and_events_come_in_order(dataset):
    for file in (dataset / "samples").rglob("bucket-*"):
        table = pq.read_table(file)
        keys = list(zip(*(table[name].to_pylist() for name in ("time", "user", "item")), strict=True))
        assert keys == sorted(keys)
    for domain in DOMAINS:
        assert all(times == sorted(times) for times in read(dataset, f"histories/{domain}")["time"].to_pylist())


def test_the_truth_gives_every_item_one_topic_and_every_topic_equally_many(dataset):
    truth = pq.read_table(dataset / TRUTH_FILE)
    assert truth.column_names == ["table", "id", "topic", "target", "source"]
    assert truth["id"].to_pylist() == list(range(1, 161))
    for domain in DOMAINS:
        of_domain = truth.filter(truth[domain])
        assert np.bincount(of_domain["topic"].to_numpy()).tolist() == [4] * 20
        seen = {item for items in read(dataset, f"histories/{domain}")["item"].to_pylist() for item in items}
        assert seen <= set(of_domain["id"].to_pylist())
    assert not set(truth.filter(truth["target"])["id"].to_pylist()) & set(truth.filter(truth["source"])["id"].to_pylist())


def test_a_user_visits_the_same_topics_in_both_domains(dataset):
    topic, events = topics(dataset), events_of(dataset)
    candidates = read(dataset, "samples/target/train")
    for user in range(1, 51):
        visited = {domain: set(topic[events[domain][user]["item"]]) for domain in DOMAINS}
        assert visited["target"] == visited["source"]
        assert len(visited["target"]) == 8
        mine = candidates.filter(pa.array(candidates["user"].to_numpy() == user))
        assert set(topic[mine["item"].to_numpy()]) <= visited["target"]


@pytest.mark.parametrize("share", [pytest.param(0.25, id="a quarter"), pytest.param(1.0, id="all")])
def test_domains_can_share_items(share):
    spec = PlantedSpec.parse(SPEC.model_dump() | {"overlap": share}, "test")
    columns = Truth.of(spec).columns()
    assert len(columns["id"]) == spec.num_items == 160 - round(80 * share)
    assert (columns["target"] & columns["source"]).sum() == round(80 * share)
    for domain in DOMAINS:
        assert np.bincount(columns["topic"][columns[domain]]).tolist() == [4] * 20


def test_sessions_put_both_domains_on_one_topic_at_a_time():
    spec = PlantedSpec.parse(SPEC.model_dump() | {"session_events": 10}, "test")
    truth = Truth.of(spec)
    columns, bucket = truth.columns(), draw_bucket(spec, truth, 1, 0)
    topic = {domain: columns["topic"][bucket.events[domain]["item"] - 1].reshape(-1, 12, 10) for domain in DOMAINS}
    # 12 sessions are dealt to 8 topics.
    assert {tuple(sorted(np.unique(row, return_counts=True)[1])) for row in topic["target"][:, :, 0]} == {(1,) * 4 + (2,) * 4}
    assert (topic["target"] == topic["target"][:, :, :1]).all()
    assert (topic["target"] == topic["source"]).all()
    times = {domain: bucket.events[domain]["time"].reshape(-1, 12, 10) for domain in DOMAINS}
    assert (times["target"][:, :-1].max(2) <= times["source"][:, 1:].min(2)).all()


@pytest.mark.parametrize("faithful", [0.0, 0.6])
def test_labels_follow_the_relevant_events_before_them_and_no_others(tmp_path, faithful):
    # So strong a rule without noise leaves no chance: the sign of the mean decides.
    spec = PlantedSpec.parse(SPEC.model_dump() | {"strength": 1e6, "noise": 0.0, "faithful": faithful}, "test")
    generate_planted(spec, str(tmp_path), quietly, **LAYOUT)
    topic, events = topics(tmp_path), events_of(tmp_path)
    num_decided = num_later = 0
    for row in read(tmp_path, "samples/target/test").to_pylist():
        means = []
        for strictly_before in (True, False):
            found = []
            for domain in DOMAINS:
                mine = events[domain][row["user"]]
                relevant = topic[mine["item"]] == topic[row["item"]]
                found += mine["feedback"][relevant & ((mine["time"] < row["time"]) | (not strictly_before))].tolist()
            means.append(np.mean(found) - 2 if found else 0.0)
        if means[0]:
            assert row["label"] == (means[0] > 0)
            num_decided += 1
            num_later += (means[0] > 0) != (means[1] > 0)
    assert num_decided > 200
    # With later events the label would have been another one here and there, at least where tastes do not settle it.
    assert num_later > 0 or faithful


def test_feedback_tells_the_taste_as_often_as_asked():
    spec = PlantedSpec.parse(SPEC.model_dump() | {"num_users": 200, "faithful": 0.7}, "test")
    truth = Truth.of(spec)
    columns, bucket = truth.columns(), draw_bucket(spec, truth, 1, 0)
    counts = np.zeros((200, 20, 4))
    for domain in DOMAINS:
        owner = np.arange(200).repeat(120)
        np.add.at(counts, (owner, columns["topic"][bucket.events[domain]["item"] - 1], bucket.events[domain]["feedback"]), 1)
    assert counts[..., 0].sum() == 0
    share = np.maximum(counts[..., 1], counts[..., 3]).sum() / counts.sum()
    # 0.7 and a third of the rest; the more frequent one of a user and a topic is the taste, but for a few.
    assert share == pytest.approx(0.8, abs=0.01)


@settings(max_examples=15)
@given(
    st.integers(1, 12),
    st.integers(1, 30),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 7),
    st.integers(1, 60),
    st.integers(1, 5),
)
def test_any_size_keeps_its_contract(tmp_path_factory, users, events, per_topic, num_topics, overlap, session, rows, buckets):
    path = str(tmp_path_factory.mktemp("any"))
    spec = PlantedSpec(
        num_users=users, events_per_user=events, items_per_domain=per_topic * num_topics, num_topics=num_topics, topics_per_user=1,
        overlap=overlap, session_events=session, num_rows=rows, num_eval_rows=rows,
    )  # fmt: skip
    contract = generate_planted(spec, path, quietly, min(users, buckets), 16, 16)
    for split in SPLITS:
        served = stream_spec(contract, path, 64, DOMAINS, split=split)
        check_history_files(contract, path, DOMAINS, served.manifest)
        # Quarantine would find a null, an id outside its table, or a label that is none.
        assert sum(int(batch.weight.sum()) for batch in local_micro_batches(served)) == rows


def test_it_writes_to_an_object_store(dataset, s3_bucket):
    contract = generate_planted(SPEC, f"{s3_bucket}/planted", quietly, **LAYOUT)
    assert contract == load_contract(f"{s3_bucket}/planted") == load_contract(str(dataset))


def test_the_number_of_buckets_follows_the_size(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "BUCKET_ROWS", 400)
    assert generate_planted(SPEC, str(tmp_path), quietly).num_buckets == 15


def test_a_directory_that_holds_something_is_refused(dataset):
    with pytest.raises(DataError) as error:
        generate_planted(SPEC, str(dataset), quietly)
    assert_three_parts(error.value, "new or empty directory", str(dataset), "contract.yaml")


def test_more_buckets_than_users_are_refused(tmp_path):
    with pytest.raises(DataError) as error:
        generate_planted(SPEC, str(tmp_path), quietly, num_buckets=51)
    assert_three_parts(error.value, "Received: num_buckets=51, 50 users.")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param({"items_per_domain": 81}, "multiple of num_topics", id="topics of unequal size"),
        pytest.param({"topics_per_user": 21}, "topics_per_user=21", id="more topics than there are"),
        pytest.param({"num_users": 2**31}, "num_users=2147483648", id="more users than 32 bits"),
        pytest.param({"overlap": 1.5}, "overlap", id="more than all items shared"),
        pytest.param({"num_topic": 5}, "Did you mean num_topics?", id="an unknown key"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(values, expected):
    with pytest.raises(ConfigError) as error:
        PlantedSpec.parse(SPEC.model_dump() | values, "spec")
    assert_three_parts(error.value, expected)
