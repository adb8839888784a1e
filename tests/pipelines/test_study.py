"""A study runs what is missing, keeps what is finished, survives a failed cell and says so."""

import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.study import run_study
from raytrain.errors import ConfigError, ContractError
from tests.pipelines.fake_runs import FakeTrain, write_data, write_study

FULL = ["din-seed0", "single-seed0", "mean-seed0", "din-seed1", "single-seed1", "din-seed2", "single-seed2"]


def run(path: str, train: FakeTrain, preset: str = "full", overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """(result, what was printed)"""
    printed = io.StringIO()
    return run_study(path, preset, overrides, Console(file=printed, width=200), train), printed.getvalue()


def test_runs_every_arm_at_every_seed_and_a_deterministic_one_once(tmp_path: Path) -> None:
    train = FakeTrain()
    result, printed = run(write_study(tmp_path), train)
    assert train.ran == FULL
    assert result["arms"]["din"]["seeds"] == [0, 1, 2]
    assert result["arms"]["mean"]["seeds"] == [0]
    assert result["arms"]["mean"]["metrics"]["auc"]["sd"] is None
    assert "cell 2 of 7: single-seed0" in printed
    assert "left" in printed


def test_a_second_call_runs_nothing_and_finds_the_same(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    first, _ = run(path, FakeTrain())
    train = FakeTrain()
    second, printed = run(path, train)
    assert train.ran == []
    assert second == first
    assert "7 finished earlier, 0 to run" in printed


def test_more_seeds_run_only_what_is_new(tmp_path: Path) -> None:
    run(write_study(tmp_path), FakeTrain())
    train = FakeTrain()
    run(write_study(tmp_path), train, overrides=("presets.full.seeds=[0, 1, 2, 3]",))
    assert train.ran == ["din-seed3", "single-seed3"]


def test_a_changed_job_runs_again_under_a_fresh_name_and_deletes_nothing(tmp_path: Path) -> None:
    run(write_study(tmp_path), FakeTrain(), "quick")
    arms = {"din": {"overrides": ["model.hidden_units=[8]"]}, "single": {"overrides": ["model={name: single_domain}"]}}
    train = FakeTrain()
    run(write_study(tmp_path, arms=arms, comparisons=[]), train, "quick")
    assert train.ran == ["din-seed0-2"]
    assert (tmp_path / "work/quick/din-seed0/config.yaml").exists()


def test_a_data_set_prepared_anew_runs_again(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    run(path, FakeTrain(), "quick")
    write_data(tmp_path, content_hash="fedcba")
    train = FakeTrain()
    run(path, train, "quick")
    assert len(train.ran) == 3


def test_where_the_runs_go_does_not_change_what_they_are(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    run(path, FakeTrain(), "quick")
    train = FakeTrain()
    run(path, train, "quick", ("run.tensorboard=false",))
    assert train.ran == []


def test_an_interrupted_cell_runs_again_under_a_fresh_name(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(path, FakeTrain(interrupts={"single-seed0"}))
    train = FakeTrain()
    run(path, train)
    assert train.ran == ["single-seed0-2", *FULL[2:]]


def test_a_finished_cell_without_predictions_runs_again(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    run(path, FakeTrain(), "quick")
    for file in (tmp_path / "work/quick/din-seed0/predictions/test").iterdir():
        file.unlink()
    train = FakeTrain()
    run(path, train, "quick")
    assert train.ran == ["din-seed0-2"]


def test_a_failed_cell_is_recorded_and_the_study_goes_on(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    train = FakeTrain(fails={"din-seed1"})
    result, printed = run(path, train)
    assert train.ran == FULL
    assert result["failed"] == [{"cell": "din-seed1", "error": "RuntimeError: cannot reach s3://***@bucket/x"}]
    assert "failed: din-seed1. The same command" in printed
    din_vs_single = [found for found in result["comparisons"] if found["b"] == "single"]
    assert {found["num_seeds"] for found in din_vs_single} == {2}
    written = "".join(file.read_text() for file in (tmp_path / "work/full").glob("*.*")) + printed
    written += (tmp_path / "work/full/cells/din-seed1.json").read_text()
    assert "hunter2" not in written

    again = FakeTrain()
    healed, _ = run(path, again)
    assert again.ran == ["din-seed1-2"]
    assert healed["failed"] == []


def test_an_arm_that_never_finished_is_not_compared(tmp_path: Path) -> None:
    result, _ = run(write_study(tmp_path), FakeTrain(fails={"mean-seed0"}))
    assert result["not_compared"] == [{"a": "din", "b": "mean", "reason": "no seed that both finished"}]
    assert result["arms"]["mean"]["metrics"]["auc"]["mean"] is None
    assert "Not compared: din and mean" in (tmp_path / "work/full/result.md").read_text()


def test_writes_the_result_three_times_where_the_preset_says(tmp_path: Path) -> None:
    output = tmp_path / "committed"
    path = write_study(tmp_path, presets={"full": {"seeds": [0, 1], "output": str(output)}})
    result, _ = run(path, FakeTrain())
    assert json.loads((output / "result.json").read_text()) == result
    markdown = (output / "result.md").read_text()
    assert f"raytrain study {path} --preset full" in markdown
    assert "| din | 2 | **" in markdown
    page = (output / "result.html").read_text()
    HTMLParser().feed(page)
    assert page.count("<svg") == 6, "arms and differences, for three metrics"
    assert "http" not in page
    assert "<script" not in page


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("seed=3",), "A study sets seed"),
        (("run.name=x",), "A study sets seed"),
        (("training.epoch=3",), "Did you mean epochs"),
        (("arms.din.overides=[]",), "Did you mean overrides"),
        (("num_resample=3",), "Did you mean num_resamples"),
        (("reference=sinlge",), "Did you mean single"),
        (("comparisons=[[din, sinlge]]",), "Did you mean single"),
        (("comparisons=[[din, din]]",), "A comparison has to be of two arms"),
        (("arms.mean.overrides=['model={name: item_maen}']",), "Did you mean item_mean"),
    ],
    ids=[
        "seed set from outside",
        "run name set from outside",
        "job key misspelt",
        "arm key misspelt",
        "study key misspelt",
        "reference misspelt",
        "comparison misspelt",
        "arm compared with itself",
        "model misspelt",
    ],
)
def test_a_wrong_study_is_refused_before_anything_runs(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    train = FakeTrain()
    with pytest.raises(ConfigError, match=message):
        run(write_study(tmp_path), train, overrides=overrides)
    assert train.ran == []


def test_an_unknown_key_of_the_file_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean num_resamples"):
        run(write_study(tmp_path, num_resample=3), FakeTrain())


def test_an_unknown_preset_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean full"):
        run(write_study(tmp_path), FakeTrain(), "ful")


def test_a_data_set_that_is_not_prepared_is_refused(tmp_path: Path) -> None:
    train = FakeTrain()
    with pytest.raises(ContractError, match="has to hold a prepared data set"):
        run(write_study(tmp_path), train, overrides=(f"data.path={tmp_path}/nowhere",))
    assert train.ran == []
