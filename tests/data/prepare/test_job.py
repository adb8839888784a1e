"""The whole job on one Ray of 2 CPUs; most rows by hand, the rest by equality of content hashes."""

import json
import random

import boto3
import pyarrow.parquet as pq
import pytest
import ray
from moto.server import ThreadedMotoServer

from raytrain.data.contract import load_contract
from raytrain.data.prepare import blocks
from raytrain.data.prepare.job import PrepareOptions, prepare_events
from raytrain.data.prepare.write import Layout
from raytrain.errors import DataError
from tests.data.prepare.cases import events, spec

pytestmark = pytest.mark.ray
OPTIONS = PrepareOptions(num_buckets=3, layout=Layout(row_group_rows=8, row_group_events=16))


@pytest.fixture(scope="module", autouse=True)
def s3_server():
    """An S3 server and a Ray whose workers know it: the environment is inherited when Ray starts."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        yield f"http://{host}:{port}"
        ray.shutdown()
    server.stop()


def random_rows(seed, count):
    draw = random.Random(seed)
    return [
        (draw.randrange(20), draw.choice("abcde"), draw.randrange(60), float(draw.randrange(1, 6)), draw.choice(["x", "y", None]),
         draw.choices("stuv", k=draw.randrange(4)), draw.randrange(1, 25), draw.random())
        for _ in range(count)
    ]  # fmt: skip


def write_domain(folder, rows, num_files=1):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_files):
        pq.write_table(events(*rows[number::num_files]), folder / f"part-{number}.parquet", row_group_size=7)


def declared(root, **changes):
    domains = {name: {"role": role, "path": f"{root}/{name}"} for name, role in (("ads", "target"), ("feed", "source"))}
    return spec(domains=domains, **changes)


def test_a_small_data_set_by_hand(tmp_path):
    rating = dict(enumerate([1.0, 5.0, 3.0, 4.0, 5.0, 2.0, 4.0, 1.0], start=1))
    ads = [(user, "ab"[user % 2], 10 * user, rating[user], "x", ["t"], 1, float(user)) for user in range(1, 6)]
    ads += [(user, "c", 10 * user, rating[user], "y", [], 30, None) for user in (6, 7, 8)]
    write_domain(tmp_path / "ads", [*ads, (None, "c", 10, 5.0, "x", [], 1, 0.0), (9, "c", 10, None, "x", [], 1, 0.0)])
    write_domain(
        tmp_path / "feed", [(1, "a", 5, 5.0, "x", [], 1, 2.0), (1, "d", 55, 1.0, "x", [], 1, 9.0), (77, "e", 99, 4.0, "z", [], 1, 9.0)]
    )
    said = []
    contract = prepare_events(lambda _: declared(tmp_path), str(tmp_path / "out"), OPTIONS, said.append)

    assert contract == load_contract(str(tmp_path / "out"))
    # 8 usable target rows at times 10..80: valid from row 4 (50), test from row 6 (70).
    rows = {name: {split: (part.num_rows, part.num_positives, part.min_time, part.max_time) for split, part in domain.splits.items()}
            for name, domain in contract.domains.items()}  # fmt: skip
    assert rows == {
        "ads": {"train": (4, 2, 10, 40), "valid": (2, 1, 50, 60), "test": (2, 1, 70, 80)},
        "feed": {"train": (1, 1, 5, 5), "valid": (1, 0, 55, 55), "test": (1, 1, 99, 99)},
    }
    assert {name: table.num_rows for name, table in contract.tables.items()} == {
        "user": 10, "item": 6, "country": 4, "tags": 2, "hour": 25,
    }  # fmt: skip
    price = next(feature for feature in contract.features if feature.name == "price")
    assert price.mean == pytest.approx((1 + 2 + 3 + 4 + 2) / 5)
    assert price.std == pytest.approx((5.2 / 5) ** 0.5)
    history = contract.domains["feed"].history
    assert (history.num_events, history.num_users, history.max_events) == (3, 2, 2)
    assert (contract.overlap[0].num_shared_users, contract.overlap[0].num_shared_items) == (1, 1)
    summary = json.loads((tmp_path / "out/prepared.json").read_text())
    assert summary["domains"]["ads"] == {
        "rows_in": 10, "rows_out": 8, "dropped": {"null label": 1, "null user": 1},
        "unknown_values": {"hour": 3, "price": 3, "tags": 3},
    }  # fmt: skip
    assert any("2 dropped (1 null user, 1 null label)" in line or "2 dropped (1 null label, 1 null user)" in line for line in said)
    for folder in ("samples/ads/train", "samples/feed/test", "histories/ads"):
        names = sorted(file.name for file in (tmp_path / "out" / folder).iterdir())
        assert names == ["bucket-00000.parquet", "bucket-00001.parquet", "bucket-00002.parquet"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "contract.yaml", "histories", "prepared.json", "samples", "vocabularies",
    ]  # fmt: skip
    values = pq.read_table(tmp_path / "out/vocabularies/item.parquet").to_pylist()
    assert values == [{"id": number, "value": value} for number, value in enumerate("abcde", start=1)]


def test_a_bucket_holds_the_same_users_everywhere(tmp_path):
    write_domain(tmp_path / "ads", random_rows(1, 90))
    write_domain(tmp_path / "feed", random_rows(2, 90))
    prepare_events(lambda _: declared(tmp_path), str(tmp_path / "out"), OPTIONS, lambda line: None)
    users = [
        {user for file in (tmp_path / "out").glob(f"*/**/bucket-{bucket:05d}.parquet") for user in pq.read_table(file)["user"].to_pylist()}
        for bucket in range(3)
    ]
    assert sum(map(len, users)) == len(set.union(*users))


def test_content_hash_does_not_depend_on_order_files_or_blocks(tmp_path, monkeypatch):
    ads, feed = random_rows(3, 120), random_rows(4, 150)
    hashes = set()
    for number, (num_files, block_mib) in enumerate([(1, 64), (5, 64), (3, 0)]):
        shuffled = random.Random(number)
        write_domain(tmp_path / f"{number}/ads", shuffled.sample(ads, len(ads)), num_files)
        write_domain(tmp_path / f"{number}/feed", shuffled.sample(feed, len(feed)), num_files)
        monkeypatch.setattr(blocks, "BLOCK_MIB", block_mib)
        contract = prepare_events(lambda _, n=number: declared(tmp_path / str(n)), str(tmp_path / "out"), OPTIONS, lambda line: None)
        hashes.add(json.dumps(contract.model_dump(mode="json")))
    assert len(hashes) == 1
    write_domain(tmp_path / "0/ads", [(*ads[0][:3], 6 - ads[0][3] or 1.0, *ads[0][4:]), *ads[1:]])
    other = prepare_events(lambda _: declared(tmp_path / "0"), str(tmp_path / "out"), OPTIONS, lambda line: None)
    assert other.content_hash != contract.content_hash


def test_events_and_output_may_lie_on_s3(tmp_path, s3_server):
    write_domain(tmp_path / "ads", random_rows(5, 60))
    write_domain(tmp_path / "feed", random_rows(6, 60))
    local = prepare_events(lambda _: declared(tmp_path), str(tmp_path / "out"), OPTIONS, lambda line: None)
    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="data")
    for file in sorted(tmp_path.glob("[af]*/*.parquet")):
        client.upload_file(str(file), "data", str(file.relative_to(tmp_path)))
    for _ in range(2):
        remote = prepare_events(lambda _: declared("s3://data"), "s3://data/out", OPTIONS, lambda line: None)
        assert remote == local == load_contract("s3://data/out")
    keys = [entry["Key"] for entry in client.list_objects_v2(Bucket="data", Prefix="out/")["Contents"]]
    assert "out/samples/ads/train/bucket-00002.parquet" in keys
    assert not [key for key in keys if "_scratch" in key]


def test_a_failed_check_leaves_the_earlier_data_set(tmp_path):
    write_domain(tmp_path / "ads", random_rows(7, 60))
    write_domain(tmp_path / "feed", random_rows(8, 60))
    first = prepare_events(lambda _: declared(tmp_path), str(tmp_path / "out"), OPTIONS, lambda line: None)
    never = declared(tmp_path, label={"column": "rating", "at_least": 9})
    with pytest.raises(DataError, match="both labels"):
        prepare_events(lambda _: never, str(tmp_path / "out"), OPTIONS, lambda line: None)
    assert load_contract(str(tmp_path / "out")) == first
    assert not (tmp_path / "out/_scratch").exists()


def test_output_is_never_a_directory_with_other_files(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "thesis.txt").write_text("do not delete")
    with pytest.raises(DataError, match=r"output has to be an empty directory .* which holds samples"):
        prepare_events(lambda _: declared(tmp_path), str(tmp_path), OPTIONS, lambda line: None)
    assert (tmp_path / "samples").exists()


def test_events_may_not_lie_in_output(tmp_path):
    write_domain(tmp_path / "ads", random_rows(9, 60))
    write_domain(tmp_path / "feed", random_rows(10, 60))
    prepare_events(lambda _: declared(tmp_path), str(tmp_path / "out"), OPTIONS, lambda line: None)
    write_domain(tmp_path / "out/samples/mine", random_rows(9, 60))
    own = spec(domains={"ads": {"role": "target", "path": str(tmp_path / "out/samples/mine")}})
    with pytest.raises(DataError, match="Events have to lie outside output"):
        prepare_events(lambda _: own, str(tmp_path / "out"), OPTIONS, lambda line: None)
    assert (tmp_path / "out/samples/mine/part-0.parquet").exists()
