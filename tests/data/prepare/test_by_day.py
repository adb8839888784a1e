"""Data sets that are kept by day: which rows a day holds, what its features' scale may see, and that days do not touch each other."""

import random
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.data.contract import load_contract, save_contract
from raytrain.data.manifest import Manifest
from raytrain.data.prepare import days as days_module
from raytrain.data.prepare.as_of import AsOfOptions, add_as_of, check_as_of
from raytrain.data.prepare.job import PrepareOptions, prepare_events
from raytrain.data.prepare.result import EncodedDomain, rows_in_words, summary
from raytrain.data.prepare.write import Layout
from raytrain.errors import ConfigError, DataError
from raytrain.storage import Storage
from tests.data.prepare.cases import events, prepare_here, spec
from tests.messages import assert_three_parts

DAY = 86_400
FIRST = 17_318 * DAY  # 2017-06-01 00:00 UTC
BY_DAY = {"by_day": True, "known_until": "2017-06-02"}


def row(user, time, rating=5.0, country="x", price=1.0):
    return user, "ab"[user % 2], FIRST + time, rating, country, ["t"], 3, price


ADS = [row(1, 10, 5.0, price=1.0), row(2, DAY - 1, 1.0, price=3.0), row(1, DAY, 1.0, "y", 8.0), row(3, 2 * DAY + 5, 5.0, "x", 9.0)]
FEED = [row(1, -1, 5.0, price=5.0), row(2, 2 * DAY, 1.0, "z", 9.0)]


def prepared(path, ads=ADS, feed=FEED, split=BY_DAY, num_buckets=2, sample=None, **changes):
    """(contract, scan, spec) of the two domains; ``sample``: which rows of ads are samples."""
    path.mkdir(parents=True, exist_ok=True)
    for name, rows in (("ads", ads), ("feed", feed)):
        table = events(*rows)
        if sample is not None:
            table = table.append_column("sample", pa.array(sample if name == "ads" else [True] * len(rows), pa.bool_()))
        pq.write_table(table, path / f"{name}.parquet")
    domains = {name: {"role": role, "path": f"{path}/{name}.parquet"} for name, role in (("ads", "target"), ("feed", "source"))}
    declared = spec(domains=domains, split=split, **changes)
    return *prepare_here(lambda _: declared, path / "out", num_buckets), declared


def files_of(path, below="samples"):
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted((path / "out" / below).rglob("*.parquet"))}


def test_a_day_begins_and_ends_at_midnight(tmp_path):
    contract, scan, declared = prepared(tmp_path)
    assert contract == load_contract(str(tmp_path / "out"))
    found = {name: {day: (part.num_rows, part.num_positives, part.min_time - FIRST, part.max_time - FIRST)
             for day, part in domain.days.items()} for name, domain in contract.domains.items()}  # fmt: skip
    assert found == {
        "ads": {"2017-06-01": (2, 1, 10, DAY - 1), "2017-06-02": (1, 0, DAY, DAY), "2017-06-03": (1, 1, 2 * DAY + 5, 2 * DAY + 5)},
        "feed": {"2017-05-31": (1, 1, -1, -1), "2017-06-03": (1, 0, 2 * DAY, 2 * DAY)},
    }
    assert [domain.splits for domain in contract.domains.values()] == [{}, {}]
    assert contract.domains["ads"].days["2017-06-02"].path == "samples/ads/2017-06-02"
    assert rows_in_words(contract.domains["ads"]) == "4 in 3 days, 2017-06-01 to 2017-06-03"
    described = summary(declared, scan, dict.fromkeys(contract.domains, EncodedDomain.empty({"user": 2, "item": 2})), scan.cut(), contract)
    assert described["domains"]["ads"]["rows_out"] == 4
    assert (described["known_until_time"], described["valid_from_time"]) == (FIRST + DAY, None)


def test_every_bucket_is_there_and_one_without_rows_has_no_row_group(tmp_path):
    prepared(tmp_path)
    names = [f"bucket-{bucket:05d}.parquet" for bucket in range(2)]
    counts = []
    for day in (tmp_path / "out/samples/ads").iterdir():
        assert sorted(file.name for file in day.iterdir()) == names
        lengths = [pq.ParquetFile(day / name).metadata for name in names]
        counts += [[file.row_group(group).num_rows for group in range(file.num_row_groups)] for file in lengths]
        manifest = Manifest.of(names, [np.array(rows, np.int64) for rows in counts[-2:]])
        assert manifest.num_rows.sum() == sum(map(sum, counts[-2:]))
    assert [] in counts
    assert [0] not in counts


def test_scales_and_known_slices_are_of_rows_before_known_until(tmp_path):
    until, _, _ = prepared(tmp_path / "until")
    price = next(feature for feature in until.features if feature.name == "price")
    # Prices 1 and 3 of the ads, 5 of the feed.
    assert (price.mean, price.std) == (pytest.approx(3), pytest.approx((8 / 3) ** 0.5))
    # Countries x, y, z are 1, 2, 3; y and z come later.
    assert until.unseen_slices == (2, 3)
    every, _, _ = prepared(tmp_path / "every", split={"by_day": True})
    assert next(feature for feature in every.features if feature.name == "price").mean == pytest.approx(35 / 6)
    assert every.unseen_slices == ()


def test_another_day_leaves_every_other_days_bytes(tmp_path):
    draw = random.Random(0)
    days = [[row(draw.randrange(9), day * DAY + draw.randrange(DAY), float(draw.randrange(1, 6)), draw.choice("xyz"), draw.random())
             for _ in range(60)] for day in range(5)]  # fmt: skip
    some, _, _ = prepared(tmp_path / "some", [row for day in days[:4] for row in day], num_buckets=3)
    more, _, _ = prepared(tmp_path / "more", [row for day in days for row in day], num_buckets=3)
    before, after = files_of(tmp_path / "some"), files_of(tmp_path / "more")
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[3] for name in after.keys() - before.keys()} == {"2017-06-05"}
    assert some.features == more.features
    assert some.content_hash != more.content_hash
    # Histories are of the whole time.
    assert more.domains["ads"].history.num_events == 300


def test_the_hash_covers_every_day(tmp_path):
    changed = [[*ADS[:n], (*ADS[n][:7], ADS[n][7] + 1), *ADS[n + 1 :]] for n in range(4)]
    hashes = {prepared(tmp_path / str(n), rows)[0].content_hash for n, rows in enumerate([ADS, *changed])}
    assert len(hashes) == 5


def test_a_row_that_is_no_sample_is_history_alone(tmp_path):
    contract, _, _ = prepared(tmp_path, split={**BY_DAY, "sample": "sample"}, sample=[True, True, None, False], num_buckets=1)
    assert {day: part.num_rows for day, part in contract.domains["ads"].days.items()} == {"2017-06-01": 2}
    assert contract.domains["ads"].history.num_events == 4
    assert "sample" not in pq.read_table(tmp_path / "out/samples/ads/2017-06-01").column_names
    # Country y is of no sample.
    assert contract.unseen_slices == (3,)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        pytest.param({"by_day": True, "column": "use"}, r"by_day=True beside column=use", id="days and a column"),
        pytest.param({"by_day": True, "test_from": 0.95}, r"by_day=True beside test_from=0\.95", id="days and shares"),
        pytest.param({"known_until": "2017-06-01"}, "known_until and sample go with by_day", id="known until without days"),
        pytest.param({"sample": "sample"}, "known_until and sample go with by_day", id="samples without days"),
        pytest.param({"by_day": True, "known_until": "June"}, r"split\.known_until", id="no date"),
    ],
)
def test_what_does_not_go_together_is_named(split, message):
    with pytest.raises(ConfigError, match=message):
        spec(split=split)
    assert spec(split=BY_DAY).split.known_until == spec(split={"by_day": True, "known_until": date(2017, 6, 2)}).split.known_until


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"split": {"by_day": True, "known_until": "2017-06-01"}}, "the first day is 2017-06-01", id="nothing known"),
        pytest.param({"ads": ADS[:1]}, r"both labels\. Received: samples=1 rows, 1 of them positive", id="one label"),
        pytest.param(
            {"split": {"by_day": True, "sample": "sample"}, "sample": [False] * 4}, "have rows. Received: samples=0 rows", id="no sample"
        ),
        pytest.param({"ads": [row(1, day * DAY, 1.0 + 4 * (day % 2)) for day in range(4)]}, "domain ads with 4", id="too many days"),
    ],
)
def test_rows_that_cannot_be_kept_by_day_are_refused(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(days_module, "MAX_DAYS", 3)
    with pytest.raises(DataError, match=message) as err:
        prepared(tmp_path, **changes)
    assert_three_parts(str(err.value))


def test_a_probe_split_is_not_cut_from_days(tmp_path):
    options = PrepareOptions(num_buckets=1, layout=Layout(8, 8), probe_share=0.1)
    with pytest.raises(DataError, match=r"Received: probe_share=0\.1, split\.by_day=True") as err:
        prepare_events(lambda _: spec(split=BY_DAY), str(tmp_path / "out"), options, lambda line: None)
    assert_three_parts(str(err.value))


def test_as_of_columns_stand_beside_each_days_samples(tmp_path):
    contracts, values = [], []
    for name, last in (("one", 5.0), ("other", 1.0)):
        contract, _, declared = prepared(tmp_path / name, [*ADS[:3], row(3, 2 * DAY + 5, last), row(1, 2 * DAY + 6)])
        check_as_of(declared, 7, AsOfOptions())
        storage = Storage(str(tmp_path / name / "out"))
        contract = add_as_of(contract, storage, AsOfOptions(prior_rows=2.0), declared.split.known_until)
        save_contract(contract, storage.uri)
        contracts.append(load_contract(storage.uri))
        values.append(files_of(tmp_path / name))
    names = [feature.name for feature in contracts[0].features if feature.as_of]
    assert names
    # Mean and std over the two rows that are known; the label of a later day reaches neither them nor an earlier day.
    assert contracts[0].features == contracts[1].features
    table = pq.read_table(tmp_path / "one/out/samples/ads/2017-06-01")
    first = next(feature for feature in contracts[0].features if feature.as_of)
    assert first.mean == pytest.approx(np.mean(table[first.name].to_numpy()), rel=1e-6)
    assert {name for name in values[0] if values[0][name] != values[1][name]} <= {
        name for name in values[0] if "2017-06-03" in name
    }  # fmt: skip
    assert contracts[0].content_hash != contracts[1].content_hash


def test_as_of_columns_need_every_row_to_be_a_sample():
    with pytest.raises(DataError, match=r"split\.sample=sample"):
        check_as_of(spec(split={"by_day": True, "sample": "sample"}), 10, AsOfOptions())
