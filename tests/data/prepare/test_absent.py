"""A domain with another feature set than the target's: an error, unless the features that it lacks are declared."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.data.prepare.check import check_events
from raytrain.errors import ConfigError, DataError
from tests.data.prepare.cases import events, prepare_here, spec

LACKING = ("country", "tags", "hour", "price")


def declared(path, absent: tuple[str, ...], feed: pa.Table, **changes):
    ads = events(*((user, "a", time, 5.0 * (user % 2), "x", ["t"], 3, 4.0 + user) for user in (1, 2) for time in range(4)))
    for name, table in (("ads", ads), ("feed", feed)):
        pq.write_table(table, path / f"{name}.parquet")
    domains = {
        "ads": {"role": "target", "path": f"{path}/ads.parquet"},
        "feed": {"role": "source", "path": f"{path}/feed.parquet", "absent": absent},
    }
    return spec(domains=domains, **changes)


def feed_of(*columns: str) -> pa.Table:
    """Events of users 1 and 2 without ``columns``."""
    return events(*((user, "a", time, 5.0, "x", ["t"], 3, 7.0) for user in (1, 2) for time in range(4))).drop_columns(list(columns))


def test_a_source_that_lacks_a_feature_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"Feature country has to name a column\. Received: country.*domains\.feed\.absent"):
        check_events(declared(tmp_path, (), feed_of("country")))


def test_a_declared_feature_must_not_be_there(tmp_path):
    with pytest.raises(DataError, match=r"must not have its column\. Received: country"):
        check_events(declared(tmp_path, ("country", "price"), feed_of("price")))


@pytest.mark.parametrize(
    "changes",
    [{}, {"features": ["user", "item", {"name": "country", "encoding": "hash", "num_rows": 50}, *spec().model_dump()["features"][3:]]}],
    ids=["vocabulary", "hash"],
)
def test_what_a_source_lacks_is_unknown_there_and_changes_no_mean(tmp_path, changes):
    contract, _ = prepare_here(lambda _: declared(tmp_path, LACKING, feed_of(*LACKING), **changes), tmp_path / "out", num_buckets=1)
    rows = pq.read_table(tmp_path / "out/samples/feed/train/bucket-00000.parquet").to_pylist()
    assert len(rows) == 4
    for row in rows:
        assert {name: row[name] for name in LACKING} == {"country": 0, "tags": [], "hour": 0, "price": -1.0}
    [price] = [feature for feature in contract.features if feature.name == "price"]
    # Of users 1 and 2 of the target: 5 and 6.
    assert (price.mean, price.std) == (5.5, 0.5)
    [row, *_] = pq.read_table(tmp_path / "out/samples/ads/train/bucket-00000.parquet").to_pylist()
    assert row["country"] > 0
    assert row["tags"] == [1]


@pytest.mark.parametrize(
    ("domain", "name"), [("ads", "country"), ("feed", "county"), ("feed", "user")], ids=["of the target", "no feature", "a key"]
)
def test_only_features_of_a_source_may_be_absent(domain, name):
    domains = {"ads": {"role": "target", "path": "ads"}, "feed": {"role": "source", "path": "feed"}}
    domains[domain]["absent"] = [name]
    with pytest.raises(ConfigError, match=rf"domains\.{domain}\.absent={name}"):
        spec(domains=domains)
