"""The protocol on lines by hand, and on an extract of the real data; see online_retail/README.md for its source and licence."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare import load_prepare_config
from pipelines.recipes.online_retail import HORIZON_DAYS, OnlineRetailRecipe, as_of_time, first_orders, rows_of
from pipelines.recipes.online_retail_files import FILES, SHEET_COLUMNS, read_lines
from pipelines.recipes.purchases import Lines, samples_at
from raytrain.data.contract import PROBE, Amount
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import DataError
from tests.data.prepare.cases import prepare_here
from tests.data.served import stream_spec
from tests.messages import assert_three_parts

EXTRACT = Path(__file__).parent / "online_retail"
CONFIG = "pipelines/configs/prepare_online_retail.yaml"
DAY_S = 86_400
T = as_of_time((2010, 6))


def lines_of(*rows: tuple) -> Lines:
    """Each line: customer, seconds from T, invoice, item, quantity, price; lines of country "France"."""
    user, time, order, item, quantity, price = zip(*sorted(rows, key=lambda row: (row[1], row[4] * row[5])), strict=True)
    items, orders = sorted({name for name in item if name}), sorted({name for name in order if name})
    return Lines(
        np.array(user),
        T + np.array(time),
        np.array([orders.index(name) if name else -1 for name in order]),
        np.array([items.index(name) if name else -1 for name in item]),
        np.array(quantity),
        np.array(price),
        np.zeros(len(user), np.int64),
        tuple(items),
        ("France",),
    )


def sample(lines: Lines, user: int = 1) -> dict:
    """The one row of ``user`` at T, its dense features as they were before log1p."""
    [row] = [row for row in samples_at(lines, T, HORIZON_DAYS, first_orders).to_pylist() if row["user"] == user]
    return {
        name: round(float(np.expm1(value)), 3) if isinstance(value, float) and name != "label" else value for name, value in row.items()
    }


BOUGHT = (1, -10 * DAY_S, "i1", "mug", 4, 2.5)


def test_a_row_by_hand():
    row = sample(
        lines_of(
            (1, -400 * DAY_S, "i0", "mug", 6, 20.0),
            (1, -400 * DAY_S, "i0", "tea", 2, 15.0),
            (1, -400 * DAY_S, "i0", "pot", 1, 3.0),
            (1, -90 * DAY_S, "i1", "mug", 10, 2.0),
            (1, -5 * DAY_S, "i2", "tea", 1, 8.0),
            (1, -5 * DAY_S, "i2", "mug", 1, 7.0),
            # A return two days before nets the spend of 30 days to nothing, and no further.
            (1, -2 * DAY_S, "C3", "mug", -8, 2.0),
            (2, -2 * DAY_S, "i4", "pot", 1, 99.0),
            (1, 3 * DAY_S, "i5", "pot", 2, 4.5),
        )
    )
    assert row == {
        "user": 1,
        # Of two lines at one time the dearest.
        "item": "tea",
        "time": T,
        "label": 9.0,
        "place": "France",
        "first_order": "GBP 100-200, 1-2 a line",
        "recency_days": 5.0,
        "tenure_days": 400.0,
        "orders_30d": 1.0,
        "orders_90d": 2.0,
        "orders_365d": 2.0,
        "orders_all": 3.0,
        "spend_30d": 0.0,
        "spend_90d": 19.0,
        "spend_365d": 19.0,
        "spend_all": 172.0,
        "distinct_items": 3.0,
        "mean_basket": pytest.approx(188 / 3, abs=0.01),
    }


LABELS = {
    "a line at the as-of date itself": ((0, 1, 5.0), 0.0),
    "a line one second later": ((1, 1, 5.0), 5.0),
    "a line at the horizon": ((90 * DAY_S, 1, 5.0), 5.0),
    "a line one second past the horizon": ((90 * DAY_S + 1, 1, 5.0), 0.0),
    "a return alone": ((DAY_S, -1, 5.0), 0.0),
}


@pytest.mark.parametrize(("line", "expected"), LABELS.values(), ids=LABELS)
def test_the_edges_of_a_label(line, expected):
    after, quantity, price = line
    row = sample(lines_of(BOUGHT, (1, after, "i9", "tea", quantity, price)))
    assert row["label"] == expected
    # Whatever comes at the date or after it is in no feature.
    assert {name: value for name, value in row.items() if name != "label"} == {
        name: value for name, value in sample(lines_of(BOUGHT)).items() if name != "label"
    }


def test_returns_are_netted_within_the_label_even_of_earlier_purchases():
    row = sample(lines_of(BOUGHT, (1, DAY_S, "i9", "tea", 10, 5.0), (1, 2 * DAY_S, "C9", None, -4, 2.5)))
    assert row["label"] == 40.0
    # 0.1 + 0.2 - 0.3 is a payer of 5e-17 in floating point.
    row = sample(lines_of(BOUGHT, *((1, DAY_S * (1 + n), "i9", "tea", q, p) for n, (q, p) in enumerate([(1, 0.1), (1, 0.2), (-1, 0.3)]))))
    assert row["label"] == 0.0


def test_who_has_bought_nothing_yet_is_no_sample():
    lines = lines_of(BOUGHT, (2, 0, "i5", "tea", 1, 5.0), (3, -DAY_S, "C6", "tea", -1, 5.0), (4, -1, "i7", "tea", 1, 5.0))
    assert samples_at(lines, T, HORIZON_DAYS, first_orders)["user"].to_pylist() == [1, 4]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("online_retail")
    contract, scan = prepare_here(OnlineRetailRecipe(source=str(EXTRACT)).stage, path, probe_share=0.1)
    return path, contract, scan


def samples(path: Path, domain: str, split: str) -> pd.DataFrame:
    return pd.concat(pd.read_parquet(file) for file in sorted((path / f"samples/{domain}/{split}").glob("bucket-*")))


def test_the_internal_domain_is_the_one_of_the_protocol(prepared):
    path, contract, scan = prepared
    assert contract.amount == Amount(currency="GBP", horizon_days=90)
    assert (contract.target, contract.sources) == ("internal", ("external",))
    test = samples(path, "internal", "test")
    assert (len(test), test["user"].nunique()) == (1_334, 462)
    # 58.5 % bring nothing, and five customers half of all.
    assert (test["label"] == 0).sum() == 780
    assert test["label"].sum() == pytest.approx(1_251_868.5, rel=1e-5)
    by_user = test.groupby("user")["label"].sum().sort_values(ascending=False)
    assert by_user.iloc[:5].sum() / by_user.sum() == pytest.approx(0.512, abs=0.001)
    rows = {name: split.num_rows for name, split in contract.domains["internal"].splits.items()}
    assert rows["train"] + rows[PROBE] == 2_442
    assert (rows["valid"], rows["test"]) == (763, 1_334)
    assert scan.dropped["internal"] == {}


def test_last_years_spend_ranks_as_it_is_known_to(prepared):
    path, contract, _ = prepared
    test = samples(path, "internal", "test")
    [feature] = [feature for feature in contract.features if feature.name == "spend_365d"]
    spend = np.expm1(test[feature.name].to_numpy(np.float64))
    assert normalised_gini(test["label"].to_numpy(np.float64), spend) == pytest.approx(0.878, abs=0.001)


def normalised_gini(label: np.ndarray, score: np.ndarray) -> float:
    """Rows in order of score, those of one score each with their mean label."""

    def raw(by: np.ndarray) -> float:
        _, group, counts = np.unique(-by, return_inverse=True, return_counts=True)
        spread = np.repeat(np.bincount(group, label) / counts, counts)
        return 2 * float(np.mean(np.cumsum(spread) / spread.sum())) - 1

    return raw(score) / raw(label)


def test_no_label_reaches_into_a_later_parts_dates(prepared):
    path, contract, _ = prepared
    for domain in ("internal", "external"):
        times = {split: contract.domains[domain].splits[split] for split in ("train", "valid", "test")}
        for early, late in (("train", "valid"), ("valid", "test")):
            assert times[early].max_time + 90 * DAY_S <= times[late].min_time
        dates = {datetime.fromtimestamp(int(time), UTC) for time in samples(path, domain, "test")["time"].unique()}
        assert {(date.year, date.month, date.day, date.hour) for date in dates} == {(2011, month, 1, 0) for month in (7, 8, 9)}


def test_batches_carry_amounts_slices_and_histories_that_end_before_the_date(prepared):
    path, contract, _ = prepared
    assert contract.slice == "first_order"
    assert 20 <= contract.num_slices <= 31
    spec = stream_spec(contract, path, 512, ("internal", "external"), False, split="test", domain="internal", history_length=50)
    batches = list(local_micro_batches(replace(spec, slices=True, event_ages=True)))
    rows = sum(int(batch.weight.sum()) for batch in batches)
    assert rows == 1_334
    for batch in batches:
        history = batch.histories["internal"]
        assert history.lengths[batch.weight > 0].min() >= 1
        assert history.age_s[history.mask].min() > 0
        assert set(history.side) == {"quantity", "price", "age"}
        assert batch.slice.max() < contract.num_slices
        assert not {int(one) for one in batch.slice.unique()} & set(contract.unseen_slices)
        assert batch.label.min() >= 0
    assert max(float(batch.label.max()) for batch in batches) > 10_000


def test_the_order_of_the_files_rows_does_not_matter(tmp_path):
    draw = np.random.default_rng(0)
    for name in FILES:
        table = pq.read_table(EXTRACT / name).slice(0, 2_000)
        for folder, rows in (("one", np.arange(2_000)), ("other", draw.permutation(2_000))):
            (tmp_path / folder).mkdir(exist_ok=True)
            pq.write_table(table.take(pa.array(rows)), tmp_path / folder / name)
    one, other = (rows_of(read_lines(str(tmp_path / folder))) for folder in ("one", "other"))
    assert one.num_rows > 2_000
    assert one.equals(other)


def test_a_source_that_ends_early_is_refused(tmp_path):
    for name in FILES:
        table = pq.read_table(EXTRACT / name)
        pq.write_table(table.filter(pa.array(table["ts"].to_numpy() < as_of_time((2011, 3)))), tmp_path / name)
    with pytest.raises(DataError, match="end of the last label, 2011-11-30") as err:
        OnlineRetailRecipe(source=str(tmp_path)).stage(None)
    assert_three_parts(str(err.value))


def test_what_is_no_source_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has to hold united_kingdom\.parquet") as err:
        read_lines(str(tmp_path))
    assert_three_parts(str(err.value))
    for name in FILES:
        pq.write_table(pq.read_table(EXTRACT / name).drop_columns(["quantity"]), tmp_path / name)
    with pytest.raises(DataError, match="none called quantity"):
        read_lines(str(tmp_path))


def test_the_committed_config_is_valid():
    assert isinstance(load_prepare_config(CONFIG).recipe, OnlineRetailRecipe)


def workbook(path: Path, *sheets: pd.DataFrame) -> str:
    """The publisher's layout: a sheet a year."""
    pytest.importorskip("openpyxl")
    with pd.ExcelWriter(path, engine="openpyxl") as writer:
        for number, sheet in enumerate(sheets):
            sheet.to_excel(writer, sheet_name=f"Year {number}", index=False)
    return str(path)


def test_the_publishers_workbook_gives_the_same_lines(tmp_path):
    (tmp_path / "parquet").mkdir()
    raw = pd.concat([pd.read_parquet(EXTRACT / name).sort_values("ts") for name in FILES])
    # Around the border of the two sheets, which overlap by nine days.
    first, border, stop, last = as_of_time((2010, 11)), as_of_time((2010, 12)), as_of_time((2010, 12)) + 9 * DAY_S, as_of_time((2011, 1))
    raw = raw[(raw["ts"] >= first) & (raw["ts"] < last) & raw["invoice"].notna() & (raw["user_id"] % 20 == 0)]
    for name, rows in zip(FILES, (raw["country"] == "United Kingdom", raw["country"] != "United Kingdom"), strict=True):
        raw[rows].to_parquet(tmp_path / "parquet" / name)
    sheet = raw.assign(ts=pd.to_datetime(raw["ts"], unit="s"), unit_price=raw["unit_price"].astype(float).round(3))
    sheet["item_id"] = [int(item) if item.isdecimal() else item for item in sheet["item_id"]]
    sheet = sheet.rename(columns={ours: theirs for theirs, ours in SHEET_COLUMNS.items()}).assign(Description="GIFT")
    guest = sheet.head(1).assign(**{"Customer ID": None})
    years = (pd.concat([sheet[raw["ts"] < stop], guest]), sheet[raw["ts"] >= border])
    one, other = read_lines(workbook(tmp_path / "both.xlsx", *years)), read_lines(str(tmp_path / "parquet"))
    assert len(one) == len(raw)
    for name, column in vars(one).items():
        assert np.array_equal(column, getattr(other, name)), name


def test_a_workbook_of_something_else_is_refused(tmp_path):
    with pytest.raises(DataError, match="none called Customer ID") as err:
        read_lines(workbook(tmp_path / "other.xlsx", pd.DataFrame({"Invoice": [1], "StockCode": ["a"]})))
    assert_three_parts(str(err.value))
    (tmp_path / "text.xlsx").write_text("no")
    with pytest.raises(DataError, match="has to be a readable workbook"):
        read_lines(str(tmp_path / "text.xlsx"))
