"""A comparison by length of history: strictly earlier events count, buckets begin at their edges, and a planted gap is found in its own."""

import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from rich.console import Console

from pipelines.study import run_study
from pipelines.study_by_history import compare_by_history, history_lengths
from pipelines.study_by_history_plan import HistoryPlan, check_by_history
from pipelines.study_by_history_report import bucket_name
from pipelines.study_compare import FinishedCell, Predictions
from raytrain.data.contract import Contract, History, load_contract, save_contract
from raytrain.errors import ConfigError, DataError
from raytrain.storage import Storage
from tests.data.build import DomainRows, Events, history_rows, numbered_samples, write_dataset
from tests.messages import assert_three_parts
from tests.pipelines.fake_runs import NUM_USERS, FakeTrain, write_study

USERS = np.repeat([1, 2, 3, 4], 10)
LABEL = np.tile([1.0, 0.0], 20).astype(np.float32)
NUM_EVENTS = {1: 0, 2: 1, 3: 2, 4: 3}
"""user -> events before time 100, at which every row lies"""


def events_of(user: list[int], time: list[int]) -> Events:
    return Events(np.array(user), np.ones(len(user), np.int64), np.array(time), np.ones(len(user), np.int64))


def write(directory: Path, events: Events) -> Contract:
    splits = {name: numbered_samples(8) for name in ("train", "valid", "test")}
    return write_dataset(directory, {"target": DomainRows(splits, events)})


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Contract, str]:
    """The data set of NUM_EVENTS: every user has an event at time 100 besides, which is too late."""
    user = [user for user, count in NUM_EVENTS.items() for _ in range(count + 1)]
    time = [when for count in NUM_EVENTS.values() for when in (*range(10, 10 + count), 100)]
    return write(tmp_path / "data", events_of(user, time)), str(tmp_path / "data")


def cell(directory: Path, variant: str, prediction: Any, seed: int = 0, **columns: Any) -> FinishedCell:
    storage = Storage(str(directory / f"{variant}-{seed}"))
    rows = {
        "fragment": np.zeros(40, np.int32),
        "row": np.arange(40, dtype=np.int32),
        "group": USERS,
        "time": np.full(40, 100),
        "label": LABEL,
        "prediction": np.asarray(prediction, np.float32),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows | columns), buffer)
    storage.write_bytes("predictions/test/target-part-00000.parquet", buffer.getvalue())
    return FinishedCell(variant, seed, "target", storage, {})


def compared(
    planted: tuple[Contract, str],
    cells: list[FinishedCell],
    edges: tuple[int, ...],
    metrics: tuple[str, ...] = ("auc", "gauc"),
    deterministic: frozenset[str] = frozenset(),
) -> list[dict[str, Any]]:
    """The buckets of the target history, a against b."""
    plan = HistoryPlan(lengths={"target": edges}, metrics=metrics)
    return compare_by_history(plan, *planted, [("a", "b")], cells, deterministic, 50, Predictions())["domains"]["target"]


def test_events_at_a_rows_own_time_or_later_are_not_in_its_history(tmp_path: Path) -> None:
    contract = write(tmp_path, events_of([1, 1, 1, 1, 3], [10, 20, 20, 30, 50]))
    asked = [(1, 10, 0), (1, 11, 1), (1, 20, 1), (1, 21, 3), (1, 99, 4), (2, 99, 0), (3, 50, 0), (3, 51, 1), (1, 20, 1)]
    user, time, expected = np.array(asked).T
    assert history_lengths(contract, str(tmp_path), "target", user, time).tolist() == expected.tolist()


def test_a_bucket_begins_at_its_edge(tmp_path: Path, planted: tuple[Contract, str]) -> None:
    cells = [cell(tmp_path, name, LABEL) for name in ("a", "b")]
    buckets = compared(planted, cells, (1, 3, 50))
    assert [bucket_name(bucket) for bucket in buckets] == ["0", "1\u20132", "3\u201349", "50+"]
    assert [(bucket["num_rows"], bucket["num_users"]) for bucket in buckets] == [(10, 1), (20, 2), (10, 1), (0, 0)]


def test_an_arm_that_wins_with_long_histories_alone_is_found_there(tmp_path: Path, planted: tuple[Contract, str]) -> None:
    wins = np.where(USERS >= 3, LABEL, 0.5)
    cells = [cell(tmp_path, "a", wins), cell(tmp_path, "b", np.full(40, 0.5))]
    short, long = compared(planted, cells, (2,), ("auc", "gauc", "logloss"))
    assert [(one["metric"], one["difference"], one["low"], one["high"], one["verdict"]) for one in short["comparisons"][:2]] == [
        ("auc", 0.0, 0.0, 0.0, "undecided"),
        ("gauc", 0.0, 0.0, 0.0, "undecided"),
    ]
    auc, gauc, logloss = long["comparisons"]
    assert (auc["difference"], auc["low"], auc["high"], auc["verdict"]) == (0.5, 0.5, 0.5, "better")
    assert gauc["difference"] == 0.5
    assert (logloss["difference"], logloss["verdict"]) == (pytest.approx(-np.log(2), abs=1e-3), "better")
    assert (short["arms"]["a"]["auc"], long["arms"]["a"]["auc"], long["arms"]["b"]["gauc"]) == (0.5, 1.0, 0.5)


def test_an_arms_value_is_the_mean_over_its_seeds(tmp_path: Path, planted: tuple[Contract, str]) -> None:
    cells = [cell(tmp_path, "a", LABEL, 0), cell(tmp_path, "a", 1 - LABEL, 1), cell(tmp_path, "b", LABEL, 0)]
    (_, long) = compared(planted, cells, (2,), ("auc",), frozenset({"b"}))
    assert long["arms"] == {"a": {"auc": 0.5}, "b": {"auc": 1.0}}
    (found,) = long["comparisons"]
    assert found["difference"] == -0.5, "the fixed arm stands against both seeds"


def test_amounts_are_broken_down_by_their_own_metrics(tmp_path: Path, planted: tuple[Contract, str]) -> None:
    amounts = np.tile(np.arange(10), 4).astype(np.float32)
    right = {"label": amounts, "pay": amounts}
    long_alone = np.where(USERS >= 3, amounts, -amounts)
    cells = [cell(tmp_path, "a", LABEL, ltv=long_alone, **right), cell(tmp_path, "b", LABEL, ltv=-amounts, **right)]
    short, long = compared(planted, cells, (2,), ("norm_gini", "pay_auc"))
    # A ranking turned round has the negative of the Gini of the right one.
    assert short["arms"]["a"] == pytest.approx({"norm_gini": -1.0, "pay_auc": 1.0})
    assert [(one["metric"], one["difference"], one["verdict"]) for one in long["comparisons"]] == [
        ("norm_gini", pytest.approx(2.0), "better"),
        ("pay_auc", 0.0, "undecided"),
    ]


def test_a_bucket_of_one_label_has_rows_and_no_value(tmp_path: Path, planted: tuple[Contract, str]) -> None:
    label = np.where(USERS == 1, 1.0, LABEL).astype(np.float32)
    cells = [cell(tmp_path, name, LABEL, label=label) for name in ("a", "b")]
    none, _ = compared(planted, cells, (1,))
    assert none["num_rows"] == 10
    assert none["arms"]["a"] == {"auc": None, "gauc": None}
    assert {(one["difference"], one["low"], one["verdict"]) for one in none["comparisons"]} == {(None, None, "undecided")}


def test_an_arm_without_a_common_seed_is_left_out(tmp_path: Path, planted: tuple[Contract, str]) -> None:
    cells = [cell(tmp_path, "a", LABEL, 0), cell(tmp_path, "b", LABEL, 1)]
    assert [bucket["comparisons"] for bucket in compared(planted, cells, (1,))] == [[], []]
    assert compare_by_history(HistoryPlan(lengths={"target": (1,)}), *planted, [("a", "b")], [], (), 50, Predictions())["domains"] == {}


def test_rows_of_another_time_are_other_rows(tmp_path: Path, planted: tuple[Contract, str]) -> None:
    cells = [cell(tmp_path, "a", LABEL), cell(tmp_path, "b", LABEL, time=np.full(40, 101))]
    with pytest.raises(DataError, match=r"same test rows\. Received: different time in"):
        compared(planted, cells, (1,))


@pytest.mark.parametrize("edges", [(20, 5), (5, 5), (0, 5), ()], ids=["descending", "twice", "zero, which always begins", "none"])
def test_edges_that_make_no_buckets_are_refused(edges: tuple[int, ...]) -> None:
    with pytest.raises(ValidationError):
        HistoryPlan(lengths={"target": edges})


@pytest.mark.parametrize(
    ("change", "domain", "num_paths", "message"),
    [
        ({}, "targte", 1, "Did you mean target"),
        ({"group": "item"}, "target", 1, "Received: group=item, user=user"),
        ({}, "target", 2, "needs arms on one data set"),
    ],
    ids=["domain without a history", "rows grouped by something else", "arms on two data sets"],
)
def test_what_cannot_be_broken_down_is_refused_before_any_run(
    tmp_path: Path, planted: tuple[Contract, str], change: dict[str, Any], domain: str, num_paths: int, message: str
) -> None:
    contract, path = planted
    save_contract(contract.model_copy(update=change), path)
    with pytest.raises(ConfigError, match=message) as err:
        check_by_history(HistoryPlan(lengths={domain: (1,)}), [path, f"{path}-other"][:num_paths])
    assert_three_parts(str(err.value))


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., str]:
    """Writes a study by history whose user k has k % 3 events before every row, and an empty bucket above."""

    def write_it(**changes: Any) -> str:
        plan = {"lengths": {"ads": [1, 2, 50]}, "metrics": ["gauc", "auc"]}
        path = write_study(tmp_path, by_history=plan, **changes)
        contract, user = load_contract(str(tmp_path / "data")), np.arange(NUM_USERS)
        events = np.repeat(user, user % 3)
        history = History(path="histories/ads", table="item", num_events=len(events), num_users=40, max_events=2)
        domain = contract.domains["ads"].model_copy(update={"history": history})
        save_contract(contract.model_copy(update={"domains": {"ads": domain}}), str(tmp_path / "data"))
        folder = tmp_path / "data/histories/ads"
        folder.mkdir(parents=True, exist_ok=True)
        # Rows of user k lie at time k: all events are before them.
        rows = history_rows(Events(events, np.ones_like(events), np.full_like(events, -1), np.ones_like(events)))
        pq.write_table(rows, folder / "bucket-00000.parquet", write_page_checksum=True)
        return path

    return write_it


def test_a_study_reports_its_arms_by_history(tmp_path: Path, study: Callable[..., str]) -> None:
    result = run_study(study(), "quick", (), Console(quiet=True), FakeTrain())
    folder = tmp_path / "work/quick"
    assert json.loads((folder / "result.json").read_text()) == result
    buckets = result["by_history"]["domains"]["ads"]
    assert [(bucket["first"], bucket["last"], bucket["num_rows"], bucket["num_users"]) for bucket in buckets] == [
        (0, 0, 400, 20),
        (1, 1, 400, 20),
        (2, 49, 400, 20),
        (50, None, 0, 0),
    ]
    one = buckets[1]["comparisons"][0]
    assert (one["a"], one["b"], one["metric"], one["verdict"]) == ("din", "single", "gauc", "better")
    assert buckets[3]["arms"]["din"] == {"gauc": None, "auc": None}
    markdown = (folder / "result.md").read_text()
    heads = "0 (400 rows, 20 users) | 1 (400 rows, 20 users) | 2\u201349 (400 rows, 20 users) | 50+ (0 rows, 0 users)"
    assert f"| A less B, by events in the ads history | Metric | {heads} |" in markdown
    assert f" | {one['difference']:+.4f} [{one['low']:+.4f}, {one['high']:+.4f}] better | " in markdown
    page = (folder / "result.html").read_text()
    HTMLParser().feed(page)
    assert page.count("<svg") == 7, "arms and differences, for three metrics, and differences by history"
    assert "Difference in GAUC by length of the ads history" in page


def test_without_comparisons_the_arms_stand_alone(tmp_path: Path, study: Callable[..., str]) -> None:
    run_study(study(comparisons=[]), "quick", (), Console(quiet=True), FakeTrain())
    page = (tmp_path / "work/quick/result.html").read_text()
    assert "By length of the ads history" in page
    assert "Difference in" not in page


def test_a_domain_without_a_history_stops_the_study_before_it_runs(study: Callable[..., str]) -> None:
    train = FakeTrain()
    with pytest.raises(ConfigError, match=r"by_history.lengths has to name domains with a history. Received: video"):
        run_study(study(), "full", ("by_history.lengths={video: [1]}",), Console(quiet=True), train)
    assert train.ran == []
