"""Bought or not bought on a wheel by hand: what a negative may be, what is a sample, and that days and histories follow."""

import io
import random
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from pipelines.prepare import load_prepare_config
from pipelines.recipes import complete_journey
from pipelines.recipes.complete_journey import FOLDER
from pipelines.recipes.complete_journey_clicks import CompleteJourneyClicksRecipe
from pipelines.recipes.drawn_negatives import Sales, draw_negatives, some_of_each
from raytrain.data.contract import load_contract
from raytrain.errors import ConfigError, DataError
from raytrain.storage import Storage
from tests.data.prepare.cases import prepare_here
from tests.messages import assert_three_parts

CONFIG = "pipelines/configs/prepare_complete_journey_clicks.yaml"
DAY, HOUR = 86_400, 3600
START = int(pd.Timestamp("2017-01-01").timestamp())
NUM_DAYS = 20
SETTINGS = {"ads": "DRUG GM", "natural": "GROCERY", "num_negatives": 2, "popularity_days": 5, "first_day": "2017-01-04",
            "known_until": "2017-01-08", "max_natural_products": 2}  # fmt: skip


def write_wheel(path: Path) -> str:
    """Four households with a basket on most days, of products 1 to 8 (DRUG GM) and 11 to 18 (GROCERY); product 8 is new on day 10."""
    draw = random.Random(0)
    rows = []
    for day in range(NUM_DAYS):
        for household in range(1, 5):
            known = [*range(1, 8), *range(11, 19), *([8] if day >= 10 else [])]
            for product in draw.sample(known, draw.randrange(1, 9)):
                rows.append(
                    (household, 300 + household % 2, 100 * day + household, product, draw.randrange(1, 4), 2.0, day, household // 3)
                )
    names = ["household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value", "day", "hour"]
    transactions = pd.DataFrame(rows, columns=names)
    since = pd.to_timedelta(transactions.pop("day"), unit="D") + pd.to_timedelta(transactions.pop("hour"), unit="h")
    transactions["transaction_timestamp"] = pd.Timestamp("2017-01-01 10:00") + since
    numbers = [*range(1, 9), *range(11, 19)]
    products = pd.DataFrame(
        {
            "product_id": numbers,
            "manufacturer_id": [number % 3 for number in numbers],
            "department": ["DRUG GM" if number < 10 else "GROCERY" for number in numbers],
            "brand": ["National" if number % 2 else "Private" for number in numbers],
            "product_category": [None if number == 1 else f"C{number % 4}" for number in numbers],
            "product_type": [f"T{number}" for number in numbers],
        }
    )
    demographics = pd.DataFrame(
        {"household_id": [2], "age": ["25-34"], "income": ["35-49K"], "household_size": ["2"], "household_comp": ["2 Adults No Kids"]}
    )
    with zipfile.ZipFile(path, "w") as archive:
        for name, table in (("transactions", transactions), ("products", products), ("demographics", demographics)):
            buffer = io.BytesIO()
            table.to_parquet(buffer)
            archive.writestr(f"{FOLDER}/{name}.parquet", buffer.getvalue())
    return str(path)


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    monkeypatch.setattr(complete_journey, "MIN_HOUSEHOLDS", 2)
    return write_wheel(tmp_path / "journey.whl")


def staged(wheel: str, path: Path, domain: str, **changes) -> pd.DataFrame:
    """The events of ``domain``, items as numbers."""
    CompleteJourneyClicksRecipe.parse(SETTINGS | {"source": wheel} | changes, "test").stage(Storage(str(path)))
    rows = pq.read_table(path / "events" / domain).to_pandas()
    return rows.assign(item=rows["item"].astype(int))


@pytest.mark.parametrize("domain", ["ads", "natural"])
def test_samples_are_of_what_was_bought_strictly_before_and_a_negative_was_not_in_the_basket(wheel, tmp_path, domain):
    rows = staged(wheel, tmp_path, domain)
    bought, drawn = rows[rows["label"] == 1], rows[rows["label"] == 0]
    assert len(drawn) > 100
    for row in rows[rows["sample"]].itertuples():
        before = bought[(bought["time"] < row.time) & (bought["time"] >= row.time - 5 * DAY)]
        assert row.item in set(before["item"]), row
    baskets = bought.groupby(["user", "time"])["item"].agg(set)
    assert not any(row.item in baskets[row.user, row.time] for row in drawn.itertuples())
    assert not drawn.duplicated(["user", "time", "item"]).any()
    # For the household, time and store of a positive, at most two for each.
    positives = bought[bought["sample"]].groupby(["user", "time", "store", "hour", "weekday"]).size()
    negatives = drawn.groupby(["user", "time", "store", "hour", "weekday"]).size()
    assert (negatives <= 2 * positives.reindex(negatives.index)).all()


def test_early_new_and_surplus_purchases_are_history_alone(wheel, tmp_path):
    ads, natural = staged(wheel, tmp_path / "a", "ads"), staged(wheel, tmp_path / "b", "natural")
    for rows in (ads, natural):
        assert rows["in_history"].eq(rows["label"] == 1).all()
        assert not rows.loc[rows["time"] < START + 3 * DAY, "sample"].any()
        assert rows.loc[rows["label"] == 0, "sample"].all()
    first = ads[(ads["item"] == 8) & (ads["time"] == ads.loc[ads["item"] == 8, "time"].min())]
    assert not first["sample"].any()
    size = natural[(natural["label"] == 1) & (natural["time"] >= START + 5 * DAY)].groupby(["user", "time"])["sample"].agg(["size", "sum"])
    assert (size["sum"] <= 2).all()
    assert (size["sum"] == 2)[size["size"] > 4].all()
    every = staged(wheel, tmp_path / "c", "natural", max_natural_products=None)
    assert every.loc[(every["label"] == 1) & (every["time"] >= START + 5 * DAY), "sample"].mean() > 0.95


def test_what_a_row_says_of_its_time_product_and_household(wheel, tmp_path):
    rows = staged(wheel, tmp_path, "ads")
    bought = rows[rows["label"] == 1]
    # 2017-01-04 is a Wednesday; households 3 and 4 come at eleven.
    day = rows[(rows["time"] >= START + 3 * DAY) & (rows["time"] < START + 4 * DAY)]
    assert set(day["weekday"]) == {3}
    assert set(day.loc[day["user"] >= 3, "hour"]) == {12}
    assert rows.loc[rows["item"] == 1, "category"].isna().all()
    assert set(rows.loc[rows["item"] == 2, "type"]) == {"T2"}
    assert set(rows.loc[rows["user"] == 2, "household_age"]) == {"25-34"}
    assert rows.loc[rows["user"] != 2, "household_age"].isna().all()
    for row in rows[rows["sample"]].sample(40, random_state=0).itertuples():
        count = ((bought["item"] == row.item) & (bought["time"] < row.time) & (bought["time"] >= row.time - 30 * DAY)).sum()
        assert row.log_popularity == pytest.approx(np.log1p(count))


def test_the_data_set_is_kept_by_day_with_all_purchases_as_histories(wheel, tmp_path):
    recipe = CompleteJourneyClicksRecipe.parse(SETTINGS | {"source": wheel}, "test")
    contract, scan = prepare_here(recipe.stage, tmp_path / "out", num_buckets=2)
    assert contract == load_contract(str(tmp_path / "out"))
    assert scan.dropped["ads"] == scan.dropped["natural"] == {}
    for name in ("ads", "natural"):
        rows = staged(wheel, tmp_path / name, name)
        days = pd.to_datetime(rows.loc[rows["sample"], "time"], unit="s").dt.strftime("%Y-%m-%d")
        found = {day: part.num_rows for day, part in contract.domains[name].days.items()}
        assert found == dict(sorted(Counter(days).items()))
        assert min(found) == "2017-01-04"
        assert contract.domains[name].history.num_events == (rows["label"] == 1).sum()
    assert [side.name for side in contract.domains["ads"].history.side] == ["quantity", "price", "age"]
    assert (contract.target, contract.overlap[0].num_shared_users, contract.overlap[0].num_shared_items) == ("ads", 4, 0)
    histories = [pq.read_table(file) for file in (tmp_path / "out/histories/ads").iterdir()]
    assert sum(sum(map(len, table["item"].to_pylist())) for table in histories) == contract.domains["ads"].history.num_events


def test_the_seed_decides(wheel, tmp_path):
    one, same, other = (staged(wheel, tmp_path / str(n), "ads", seed=seed) for n, seed in enumerate((0, 0, 1)))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)


def test_items_are_drawn_by_a_power_of_their_sales_and_never_of_the_same_second():
    # Sold before time 100: item 0 nine times, item 1 once; at 100 item 3 in the basket, and item 2 by another.
    item = np.array([0] * 9 + [1, 2, 3] + [3] * 4000)
    time = np.array([*range(10, 20), 100, 100, *[100] * 4000])
    lines = np.arange(12, len(item))
    owner, drawn = draw_negatives(Sales(time, item), np.arange(len(item)), lines, 1, 1, 0.5, np.random.default_rng(0))
    assert (owner == lines).all()
    shares = np.bincount(drawn, minlength=4) / len(drawn)
    # 9^0.5 : 1^0.5
    assert shares == pytest.approx([0.75, 0.25, 0, 0], abs=0.03)


def test_a_basket_that_holds_all_that_was_sold_has_no_negative():
    sales = Sales(np.array([1, 2, 9, 9]), np.array([0, 1, 0, 1]))
    owner, drawn = draw_negatives(sales, np.array([0, 1, 2, 2]), np.array([0, 2, 3]), 3, 1, 1.0, np.random.default_rng(0))
    assert (len(owner), len(drawn)) == (0, 0)


def test_some_of_each_basket():
    basket = np.array([5, 5, 7, 5, 7, 9])
    chosen = some_of_each(basket, np.array([0, 1, 2, 3, 5]), 2, np.random.default_rng(0))
    assert Counter(basket[chosen].tolist()) == {5: 2, 7: 1, 9: 1}
    assert 4 not in chosen


def test_an_unknown_department_is_named(wheel, tmp_path):
    with pytest.raises(DataError, match=r"recipe\.natural .* Received: GROCERIES\. Did you mean GROCERY") as err:
        staged(wheel, tmp_path, "natural", natural="GROCERIES")
    assert_three_parts(str(err.value))


def test_the_committed_config_is_valid():
    assert load_prepare_config(CONFIG).recipe == CompleteJourneyClicksRecipe()
    with pytest.raises(ConfigError, match="two departments"):
        load_prepare_config(CONFIG, ["recipe.natural=DRUG GM"])
