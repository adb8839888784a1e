"""A study of amounts: their metrics on their own columns, and none of clicks."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.study import run_study
from pipelines.study_compare import Predictions
from pipelines.study_plan import cells_of, load_study, preset_of
from raytrain.errors import ConfigError, DataError
from tests.messages import assert_three_parts
from tests.pipelines.fake_ltv_runs import write_ltv_run, write_ltv_study
from tests.pipelines.fake_runs import FakeTrain, write_data, write_study
from tests.pipelines.test_study_compare import cell, right


def run(path: str, preset: str = "quick") -> tuple[dict[str, Any], str]:
    """(result, what was printed)"""
    printed = io.StringIO()
    return run_study(path, preset, (), Console(file=printed, width=200), FakeTrain(write=write_ltv_run)), printed.getvalue()


def test_amounts_and_paying_are_compared_on_columns_of_their_own(tmp_path: Path) -> None:
    result, printed = run(write_ltv_study(tmp_path))
    gini, paying = result["comparisons"]
    arms = {name: arm["metrics"] for name, arm in result["arms"].items()}
    assert gini["verdict"] == "better"
    assert gini["difference"] == pytest.approx(arms["adsnet"]["norm_gini"]["mean"] - arms["mix"]["norm_gini"]["mean"])
    # Both arms have one column of paying, which ranks every payer below the others: the column of amounts would not.
    assert arms["adsnet"]["pay_auc"]["mean"] == 0.0
    assert (paying["difference"], paying["low"], paying["high"]) == (0.0, 0.0, 0.0)
    assert "resamples of customers each" in printed


def test_reports_name_metrics_of_amounts_and_the_unit(tmp_path: Path) -> None:
    run(write_ltv_study(tmp_path, metrics=["norm_gini", "spearman", "pay_auc", "total_error"]))
    written = (tmp_path / "work/quick/result.md").read_text()
    assert "| Arm | Seeds | Gini | Spearman | AUC of paying | Total error |" in written
    assert "paired bootstrap over customers" in written
    assert "the draw of test customers" in written
    assert "Gini (higher is better)" in (tmp_path / "work/quick/result.html").read_text()


TRIED = {"din": {"trials": [["optimizer.lr=0.1"]]}}
AMOUNTS_TRIED = {"adsnet": {"trials": [["optimizer.lr=0.1"]]}}
METRICS_OF_AMOUNTS = "norm_gini, spearman, pay_auc, total_error"


@pytest.mark.parametrize(
    ("amounts", "changes", "message"),
    [
        (True, {"metrics": ["norm_gini", "auc"]}, f"metrics=auc, data.path=.*Set metrics to one of {METRICS_OF_AMOUNTS}"),
        (True, {"arms": AMOUNTS_TRIED, "comparisons": []}, "are amounts. Received: search.metric=auc"),
        (True, {"by_history": {"lengths": {"ads": [1]}}}, "by_history.metrics=auc, by_history.metrics=gauc"),
        (False, {"metrics": ["norm_gini"]}, "are clicks. Received: metrics=norm_gini.*Set metrics to one of auc, gauc, logloss"),
        (False, {"arms": TRIED, "comparisons": [], "search": {"metric": "pay_auc"}}, "Received: search.metric=pay_auc"),
        (True, {"metrics": ["total_ratio"]}, "total_ratio"),
    ],
    ids=["AUC of amounts", "search by AUC", "history by AUC", "Gini of clicks", "search by paying", "a metric without an order"],
)
def test_metrics_of_other_labels_are_refused_before_anything_runs(
    tmp_path: Path, amounts: bool, changes: dict[str, Any], message: str
) -> None:
    path = write_ltv_study(tmp_path, **changes) if amounts else write_study(tmp_path, **changes)
    train = FakeTrain()
    with pytest.raises(ConfigError, match=message) as caught:
        run_study(path, "full", (), Console(file=io.StringIO()), train)
    assert train.ran == []
    assert_three_parts(caught.value)


def test_a_search_metric_that_nobody_asks_fits_any_labels(tmp_path: Path) -> None:
    study, _ = load_study(write_ltv_study(tmp_path))
    assert study.search.metric == "auc"
    assert cells_of(study, preset_of(study, "full"), (), str(tmp_path / "study.yaml"))


def test_every_data_set_of_a_grid_is_checked(tmp_path: Path) -> None:
    clicks = Path(write_data(tmp_path / "clicks")).rename(tmp_path / "of_clicks")
    path = write_ltv_study(tmp_path, grid={"data.path": [str(tmp_path / "data"), str(clicks)]}, comparisons=[])
    with pytest.raises(ConfigError, match=f"are clicks.*data.path={clicks}"):
        run(path)


def test_a_run_without_the_column_is_named(tmp_path: Path) -> None:
    clicks = cell(tmp_path, "a", 0, right())
    with pytest.raises(DataError, match=r"Gini is scored on predictions in a column ltv\. Received: fragment.*prediction in .*a-0"):
        Predictions().vectors([(clicks, clicks)], "norm_gini")
