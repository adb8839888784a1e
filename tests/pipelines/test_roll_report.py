"""What a roll writes to be read: roll.json without NaN, and a page that says what is missing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.roll import run_roll
from pipelines.roll_config import load_roll
from pipelines.roll_report import page
from pipelines.roll_stage import plan_roll
from raytrain.data.contract import load_contract, save_contract
from raytrain.errors import ConfigError
from tests.data.build import build_dataset
from tests.messages import assert_three_parts
from tests.pipelines.fake_rolls import FakeTrain, change_day, day, printed, quiet, roll_values, run_directory, write_roll


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("report") / "data"
    build_dataset(path, num_users=120, num_days=53, by_day=True)
    return path


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def strict(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(), parse_constant=refuse)
    return found


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


@pytest.fixture(scope="module")
def arms(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """Of three arms over two days, with the directory that they were rolled in."""
    directory = tmp_path_factory.mktemp("arms")
    values = roll_values(str(drawn), str(directory / "roll"), 51, 52)
    values |= {"arms": {"without_tpm": ["cpm.model.months=0", "actr.model.months=0"], "without_cpm": ["calendar.cpm=null"]}}
    values |= {"forgetting": {"back_days": 2, "pause_days": 2}}
    return run_roll(write_roll(directory, values), (), quiet(), train=FakeTrain()), directory / "roll"


def test_the_json_holds_what_is_returned_and_no_nan(arms: tuple[dict[str, Any], Path]) -> None:
    result, directory = arms
    saved = strict(directory / "roll.json")
    assert saved == json.loads(json.dumps(result))
    assert (saved["name"], saved["dataset"], saved["natural"], saved["ads"]) == ("toy", "toy", "source", "target")
    assert {name: arm["num_days"] for name, arm in saved["arms"].items()} == {"full": 2, "without_tpm": 2, "without_cpm": 2}
    assert [record["day"] for record in saved["arms"]["full"]["days"]] == ["2020-11-03", "2020-11-04"]
    # The fake ranks better where it reads snapshots.
    pooled = {name: arm["pooled"]["auc"] for name, arm in saved["arms"].items()}
    assert pooled["full"] > pooled["without_tpm"]
    verdicts = {pair["b"]: pair["verdict"] for pair in saved["comparisons"] if pair["metric"] == "auc"}
    assert verdicts == {"without_tpm": "better", "without_cpm": "undecided"}
    for manifest in sorted(directory.glob("stages/*/manifest.json")):
        strict(manifest)


def test_the_page_shows_every_part(arms: tuple[dict[str, Any], Path]) -> None:
    html = (arms[1] / "roll.html").read_text()
    text = text_of(html)
    for part in (
        "The chain served 2 days",
        "It is undecided against without_cpm",
        "The chain against the other arms",
        "full \u2212 without_tpm",
        "cpm.model.months=0, actr.model.months=0",
        "GAUC by day",
        "Drift of snapshots",
        "GAUC of every day",
        "2020-11-04",
        "Who is forgotten",
        "What it costs",
        "TPM, monthly",
    ):
        assert part in text, part
    assert "Missing" not in text
    assert "<script" not in html
    assert "nan" not in text.lower().split()


def test_few_days_are_marked_by_day_and_not_by_the_hour(arms: tuple[dict[str, Any], Path]) -> None:
    html = (arms[1] / "roll.html").read_text()
    assert html.count("<svg") == 5
    assert not re.search(r"\d\d:\d\d", re.sub(r"\d:\d\d:\d\d", "", html))


def test_a_part_of_the_days_and_a_failed_stage(drawn: Path, tmp_path: Path) -> None:
    values = roll_values(str(drawn), str(tmp_path / "roll"), 49, 51)
    console = quiet()
    train = FakeTrain(raises={"actr-2020-11-02": ValueError("too warm for <b>Monday</b> at s3://me:hunter2@bucket")})
    result = run_roll(write_roll(tmp_path, values), (), console, day(50), day(51), train=train)
    html = (tmp_path / "roll/roll.html").read_text()
    text = text_of(html)
    assert [(found["stage"][:15], found["state"]) for found in result["failed"]] == [("actr-2020-11-02", "failed")]
    assert "1 stages are missing." in text
    assert "too warm for &lt;b&gt;Monday&lt;/b&gt; at s3://***@bucket" in html
    assert "The chain served 1 days" in text
    assert "The chain against the other arms" not in text
    assert "hunter2" not in html + printed(console) + (tmp_path / "roll/roll.json").read_text()
    assert "1 failed, 0 left out; wrote" in printed(console)


def test_a_roll_that_served_nothing_still_has_its_page(drawn: Path, tmp_path: Path) -> None:
    values = roll_values(str(drawn), str(tmp_path / "roll"), 49, 49, tpm=None, cpm=None)
    result = run_roll(write_roll(tmp_path, values), (), quiet(), train=FakeTrain(raises={"actr-2020-11-01": RuntimeError("no")}))
    assert result["drift"] == []
    text = text_of(page(strict(tmp_path / "roll/roll.json")))
    assert "No day has been scored yet." in text
    assert "too few rows" in text
    assert "Drift of snapshots" not in text
    assert "What it costs" not in text


def test_a_day_that_comes_late_is_open_until_it_is_scored(drawn: Path, tmp_path: Path) -> None:
    shutil.copytree(drawn, tmp_path / "data")
    data = str(tmp_path / "data")
    contract = load_contract(data)
    change_day(data, "target", 50, gone=True)
    values = roll_values(data, str(tmp_path / "roll"), 50, 50, tpm=None, cpm=None)
    path = write_roll(tmp_path, values)
    train = FakeTrain()
    assert run_roll(path, (), quiet(), train=train)["arms"]["full"]["num_days"] == 0
    save_contract(contract, data)
    console = quiet()
    # Half a run cannot be scored: that is said, and the rest of the roll is whole.
    (run_directory(values, "actr", 50) / "result.json").unlink()
    result = run_roll(path, (), console, train=train)
    assert (result["arms"]["full"]["num_days"], result["failed"]) == (0, [])
    assert "scoring 2020-11-02 with actr-2020-11-02" in printed(console)
    assert "2020-11-02 could not be scored" in printed(console)
    assert train.ran == ["actr-2020-11-02"]


def test_seeds_are_rolled_apart_and_reported_together(drawn: Path, tmp_path: Path) -> None:
    values = roll_values(str(drawn), str(tmp_path / "roll"), 51, 52, tpm=None)
    values |= {"seeds": [3, 5], "arms": {"without_cpm": ["calendar.cpm=null"]}}
    path, train, console = write_roll(tmp_path, values), FakeTrain(), quiet()
    result = run_roll(path, (), console, train=train)
    assert sorted(train.ran) == sorted([*["cpm-2020-11-02"] * 2, *["actr-2020-11-03"] * 4, *["actr-2020-11-04"] * 4])
    assert "arm without_cpm, seed 5: 2 stages" in printed(console)
    assert (result["seeds"], result["arms"]["full"]["num_days"], len(result["arms"]["full"]["stages"])) == ([3, 5], 2, 3)
    text = text_of((tmp_path / "roll/roll.html").read_text())
    assert "The chain served 2 days" in text
    assert "with 2 seeds: GAUC" in text
    assert "means of 2 seeds" in text
    assert result["arms"]["full"]["spread"]["auc"] > 0
    parts = [seeds_auc(values, seed) for seed in (3, 5)]
    assert result["arms"]["full"]["pooled"]["auc"] == pytest.approx(sum(parts) / 2)
    # A day that one seed has not served is no day of the arm.
    seed_5 = load_roll(path)["full"].with_seed(5)
    stage = next(planned for planned in plan_roll("full", seed_5).stages if planned.stage.name == "actr-2020-11-04")
    shutil.rmtree(tmp_path / "roll/stages" / stage.name)
    train.raises["actr-2020-11-04"] = RuntimeError("no")
    result = run_roll(path, (), quiet(), train=train)
    assert result["arms"]["full"]["num_days"] == 1
    assert result["arms"]["full"]["days_left_out"] == {"2020-11-04": "not every seed has scored it"}
    text = text_of((tmp_path / "roll/roll.html").read_text())
    assert "Days that do not count: 1 of full." in text
    assert "Of arm full these days do not count: 2020-11-04 (not every seed has scored it)." in text


def test_a_day_predicted_as_nan_is_left_out_and_the_rest_is_reported(drawn: Path, tmp_path: Path) -> None:
    values = roll_values(str(drawn), str(tmp_path / "roll"), 51, 52, tpm=None, cpm=None)
    path, train = write_roll(tmp_path, values), FakeTrain()
    run_roll(path, (), quiet(), train=train)
    file = next(run_directory(values, "actr", 52).glob("predictions/test/*.parquet"))
    rows = pq.read_table(file)
    predictions = rows.column("prediction").to_numpy().copy()
    predictions[0] = np.nan
    pq.write_table(rows.set_column(rows.schema.get_field_index("prediction"), "prediction", pa.array(predictions)), file)
    result = run_roll(path, (), quiet(), train=train)
    assert result["arms"]["full"]["num_days"] == 1
    assert result["arms"]["full"]["days_left_out"] == {"2020-11-04": "a prediction of it is NaN"}


def seeds_auc(values: dict[str, Any], seed: int) -> float:
    """Of the chain alone, rolled with one seed in a directory of its own."""
    own = {key: value for key, value in values.items() if key not in ("seeds", "arms")}
    own |= {"base": values["base"] | {"seed": seed}, "output": f"{values['output']}-{seed}"}
    directory = Path(str(own["output"]))
    directory.mkdir()
    return float(run_roll(write_roll(directory, own), (), quiet(), train=FakeTrain())["arms"]["full"]["pooled"]["auc"])


def test_arms_can_be_chosen(drawn: Path, tmp_path: Path) -> None:
    values = roll_values(str(drawn), str(tmp_path / "roll"), 50, 50, tpm=None, cpm=None)
    values["arms"] = {"short": ["calendar.actr.window_days=3"], "shorter": ["calendar.actr.window_days=2"]}
    path, train = write_roll(tmp_path, values), FakeTrain()
    with pytest.raises(ConfigError) as error:
        run_roll(path, (), quiet(), arms=["shrot"], train=train)
    assert_three_parts(error.value, "Received: shrot", "short")
    assert list(run_roll(path, (), quiet(), arms=["shorter"], train=train)["arms"]) == ["full", "shorter"]
    assert len(train.ran) == 2
