"""Amounts, probe rows and unseen slices: what prepare refuses, and what it promises in the contract."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.data.contract import PROBE, SPLITS, Amount, load_contract
from raytrain.data.prepare.fingerprint import bucket_of, held_out
from raytrain.data.prepare.scan import Scan, scan_block
from raytrain.data.prepare.spec import Label
from raytrain.errors import ConfigError, DataError
from tests.data.prepare.cases import events, prepare_here, spec
from tests.messages import assert_three_parts

POUNDS = {"column": "rating", "amount": {"currency": "GBP", "horizon_days": 90}}
NUM_USERS = 40


def row(user: int, time: int, amount: float, country: str = "x", tags: tuple[str, ...] = ()) -> tuple:
    return (user, "a", time, amount, country, list(tags), 1, 0.0)


def every_user(**changes) -> pa.Table:
    """Four rows a user, a payer every second user, all within times 0..3."""
    return events(*(row(user, time, 12.5 * (user % 2), **changes) for user in range(1, NUM_USERS + 1) for time in range(4)))


def prepared(path, ads: pa.Table, feed: pa.Table, probe_share: float = 0.0, **changes):
    for name, table in (("ads", ads), ("feed", feed)):
        pq.write_table(table, path / f"{name}.parquet")
    domains = {name: {"role": role, "path": f"{path}/{name}.parquet"} for name, role in (("ads", "target"), ("feed", "source"))}
    contract, _ = prepare_here(lambda _: spec(label=POUNDS, domains=domains, **changes), path / "out", probe_share=probe_share)
    assert load_contract(str(path / "out")) == contract
    return contract


def samples(path, domain: str, split: str) -> list[dict]:
    return pa.concat_tables(pq.read_table(file) for file in sorted((path / f"out/samples/{domain}/{split}").glob("*"))).to_pylist()


def test_amounts_reach_the_samples_and_the_contract_says_what_they_are(tmp_path):
    contract = prepared(tmp_path, every_user(), every_user())
    assert contract.amount == Amount(currency="GBP", horizon_days=90)
    assert {round(found["label"], 3) for found in samples(tmp_path, "ads", "train")} == {0.0, 12.5}
    # Half of the times is training, a quarter each of the others is not.
    splits = {name: (split.num_rows, split.num_positives) for name, split in contract.domains["ads"].splits.items()}
    assert splits == {"train": (80, 40), "valid": (40, 20), "test": (40, 20)}


BAD_AMOUNTS = {
    "negative": (row(1, 0, -3.5), r"Labels have to be amounts.*1 rows of domain ads.*example -3\.5.*floor"),
    "infinite": (row(1, 0, float("inf")), r"Labels have to be amounts.*example inf"),
}


@pytest.mark.parametrize(("bad", "message"), BAD_AMOUNTS.values(), ids=BAD_AMOUNTS)
def test_what_is_no_amount_is_refused(bad, message):
    declared = spec(label=POUNDS)
    scan = Scan(declared)
    scan.add("ads", scan_block(events(bad, row(2, 1, 3.0)), declared))
    scan.add("feed", scan_block(events(row(2, 1, 3.0)), declared))
    with pytest.raises(DataError, match=message) as err:
        scan.check()
    assert_three_parts(str(err.value))


def test_an_amount_that_is_not_known_is_left_out_and_counted():
    declared = spec(label=POUNDS)
    block = scan_block(events(row(1, 0, float("nan")), row(1, 0, None), row(2, 1, 3.0)), declared)
    assert block.dropped == {"NaN label": 1, "null label": 1}


def test_a_domain_where_nobody_pays_is_refused(tmp_path):
    with pytest.raises(DataError, match="Received: feed, where every rating is 0") as err:
        prepared(tmp_path, every_user(), events(*(row(user, time, 0.0) for user in (1, 2) for time in range(4))))
    assert_three_parts(str(err.value))


@pytest.mark.parametrize("other", ["EUR", None], ids=["another currency", "none"])
def test_a_mix_of_currencies_is_refused(other):
    declared = spec(label=POUNDS | {"currency_column": "currency"})
    scan = Scan(declared)
    for domain, currencies in (("ads", ["GBP", "GBP"]), ("feed", ["GBP", other])):
        block = events(row(1, 0, 1.0), row(2, 1, 3.0)).append_column("currency", pa.array(currencies, pa.string()))
        scan.add(domain, scan_block(block, declared))
    with pytest.raises(DataError, match=rf"one currency, GBP\. Received: 1 rows in {other}, domain feed") as err:
        scan.check()
    assert_three_parts(str(err.value))


@pytest.mark.parametrize(
    "label",
    [POUNDS | {"at_least": 4}, {"column": "rating", "currency_column": "currency"}],
    ids=["an amount and a threshold", "a currency of clicks"],
)
def test_a_label_is_a_click_or_an_amount(label):
    with pytest.raises(ConfigError, match=r"[Rr]emove"):
        Label.parse(label, "test")


def test_a_probe_rows_user_is_not_in_training(tmp_path):
    contract = prepared(tmp_path, every_user(), every_user(), probe_share=0.3)
    assert list(contract.domains["ads"].splits) == [*SPLITS, PROBE]
    assert list(contract.domains["feed"].splits) == [*SPLITS]
    train, probe = ({found["user"] for found in samples(tmp_path, "ads", split)} for split in ("train", PROBE))
    assert not train & probe
    assert len(train | probe) == NUM_USERS
    assert 0.1 < len(probe) / NUM_USERS < 0.5
    assert contract.domains["ads"].splits["train"].num_rows + contract.domains["ads"].splits[PROBE].num_rows == 80
    # Users that are probed are valid and test users all the same, and the source keeps its rows.
    assert {found["user"] for found in samples(tmp_path, "ads", "test")} == train | probe
    assert contract.domains["feed"].splits["train"].num_rows == 80


def test_the_share_of_probe_users_is_the_one_asked_for_in_every_bucket():
    users = np.arange(1, 40_001, dtype=np.int32)
    for share in (0.02, 0.3, 0.999):
        held = held_out(users, share)
        shares = np.bincount(bucket_of(users, 8), weights=held) / np.bincount(bucket_of(users, 8))
        assert shares == pytest.approx(share, abs=0.02)
    # A larger share holds out the same users and more.
    assert held_out(users, 0.3)[held_out(users, 0.1)].all()


def test_slices_without_a_training_row_are_named(tmp_path):
    late = events(*(row(user, 3, 5.0, "late", ("u", "t")) for user in (1, 2)))
    ads, feed = (pa.concat_tables([every_user(country="x", tags=("t",)), late]) for _ in range(2))
    contract = prepared(tmp_path, ads, feed, slice="country")
    # Ids go by the alphabet: late is 1, x is 2.
    assert contract.unseen_slices == (1,)
    assert contract.num_slices == 3


def test_a_list_is_in_the_slice_of_its_first_value(tmp_path):
    late = events(*(row(user, 3, 5.0, "x", ("u", "t")) for user in (1, 2)))
    contract = prepared(tmp_path, pa.concat_tables([every_user(tags=("t", "u")), late]), every_user(), slice="tags")
    assert contract.unseen_slices == (2,)


def test_a_slice_of_too_many_values_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("raytrain.data.prepare.result.MAX_UNSEEN_SLICES", 0)
    late = events(*(row(user, 3, 5.0, "late") for user in (1, 2)))
    with pytest.raises(DataError, match="1 slices without a training row") as err:
        prepared(tmp_path, pa.concat_tables([every_user(), late]), every_user(), slice="country")
    assert_three_parts(str(err.value))
