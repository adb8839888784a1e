"""A study of rolls: what each case rolls on which data, what is kept of it, and what a failure costs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipelines.roll import run_roll
from pipelines.study_of_rolls import run_study_of_rolls
from pipelines.study_of_rolls_plan import is_study_of_rolls
from pipelines.study_of_rolls_report import across, markdown
from raytrain.errors import ConfigError, RunError
from tests.data.build import build_dataset
from tests.messages import assert_three_parts
from tests.pipelines.fake_rolls import FakeTrain, printed, quiet, roll_values, write_roll

COMMITTED = "pipelines/studies/ecdctr.yaml"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two cases of one roll: as it stands, and with fewer arms on a shorter window."""
    build_dataset(tmp_path / "data", num_users=120, num_days=53, by_day=True)
    values = roll_values(str(tmp_path / "data"), "unused", 51, 52)
    values["arms"] = {"without_tpm": ["cpm.model.months=0", "actr.model.months=0"], "without_cpm": ["calendar.cpm=null"]}
    write_roll(tmp_path, values)
    file = tmp_path / "study.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": "two",
                "presets": {"full": {"seeds": [3, 5], "output": str(tmp_path / "found")}},
                "rolls": {
                    "whole": {"roll": "roll.yaml"},
                    "short": {"roll": "roll.yaml", "overrides": ["calendar.actr.window_days=7"], "arms": ["without_tpm"]},
                },
                "work_dir": str(tmp_path / "work"),
            },
            sort_keys=False,
        )
    )
    return file


class FakeRolls:
    """Rolls with a fake trainer; ``fails`` names a case that cannot be rolled."""

    def __init__(self, fails: str = "") -> None:
        self.train, self.fails = FakeTrain(), fails

    def __call__(self, file: str, overrides: Sequence[str], console: Console, arms: Sequence[str]) -> dict[str, Any]:
        if self.fails and f"name={self.fails}" in overrides:
            raise RunError("A roll has to be alone. Received: another. Wait for s3://me:hunter2@bucket.")
        return run_roll(file, overrides, console, arms=arms, train=self.train)


def test_cases_are_rolled_with_the_presets_seeds_and_their_own_arms(study: Path, tmp_path: Path) -> None:
    rolls, console = FakeRolls(), quiet()
    result = run_study_of_rolls(str(study), "full", (), console, rolls)
    assert not result["failed"]
    assert {name: list(case["arms"]) for name, case in result["cases"].items()} == {
        "whole": ["full", "without_tpm", "without_cpm"],
        "short": ["full", "without_tpm"],
    }
    assert result["cases"]["short"]["num_days"] == 2
    assert "case 2 of 2: short" in printed(console)
    assert (tmp_path / "work/rolls/whole/roll.html").exists()
    assert json.loads((tmp_path / "found/result.json").read_text()) == json.loads(json.dumps(result))
    # Only the arm that both have is set case beside case.
    rows = across(result)
    assert rows is not None
    assert [rows[0], [row[0] for row in rows[1:]]] == [["Case", "Chain", "less without_tpm"], ["whole", "short"]]
    difference = next(pair for pair in result["cases"]["whole"]["comparisons"] if (pair["b"], pair["metric"]) == ("without_tpm", "gauc"))
    assert rows[1][2].startswith(f"{difference['difference']:+.4f} [")
    assert difference["verdict"] in rows[1][2]
    text = markdown(result)
    assert "raytrain study" in text
    assert "with calendar.actr.window_days=7: 2 days" in text
    html = (tmp_path / "found/result.html").read_text()
    assert html.count("<svg") == 2
    assert "The chain less it, GAUC" in html
    # The same command trains nothing anew.
    num_ran = len(rolls.train.ran)
    again = run_study_of_rolls(str(study), "full", (), quiet(), rolls)
    assert len(rolls.train.ran) == num_ran
    assert again["cases"] == result["cases"]


def test_an_override_is_the_studys_or_every_rolls(study: Path) -> None:
    rolls = FakeRolls()
    result = run_study_of_rolls(
        str(study), "full", ("presets.full.seeds=[1]", "calendar.cpm=null", "rolls.whole.arms=[without_tpm]"), quiet(), rolls
    )
    assert result["seeds"] == [1]
    assert list(result["cases"]["whole"]["arms"]) == ["full", "without_tpm"]
    assert not [stage for stage in rolls.train.ran if stage.startswith("cpm")]


def test_a_case_that_fails_costs_no_other(study: Path, tmp_path: Path) -> None:
    console = quiet()
    result = run_study_of_rolls(str(study), "full", (), console, FakeRolls("whole"))
    assert [failure["case"] for failure in result["failed"]] == ["whole"]
    assert list(result["cases"]) == ["short"]
    assert "Failed: whole: A roll has to be alone" in markdown(result)
    assert across(result) is None
    assert "hunter2" not in printed(console) + (tmp_path / "found/result.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "preset", "parts"),
    [
        ((), "ful", ("--preset", "Received: ful", "full")),
        (("rolls.whole.arms=[without_tmp]",), "full", ("Received: without_tmp", "without_tpm")),
        (("rolls.whle.arms=[without_tpm]",), "full", ("Received: rolls.whle.arms", "Did you mean whole?")),
        (("rolls.whole.prepare=gone.yaml",), "full", ("gone.yaml",)),
        (("rolls.whole.rolls=x",), "full", ("rolls.whole.rolls",)),
        (("calendar.cmp=null",), "full", ("calendar.cmp",)),
        (("seeds=[5]",), "full", ("A study of rolls sets", "Received: seeds=[5]")),
        (("base.seed=5",), "full", ("Received: base.seed=5",)),
    ],
    ids=["preset", "arm", "case", "prepare config", "key of the study", "key of a roll", "seeds", "seed"],
)
def test_what_is_not_right_is_refused_before_anything_runs(
    study: Path, overrides: tuple[str, ...], preset: str, parts: tuple[str, ...]
) -> None:
    rolls = FakeRolls()
    with pytest.raises(ConfigError) as error:
        run_study_of_rolls(str(study), preset, overrides, quiet(), rolls)
    assert_three_parts(error.value, *parts)
    assert not rolls.train.ran


@pytest.mark.ray
@pytest.mark.usefixtures("ray_2_cpus")
def test_cases_share_a_data_set_and_it_is_prepared_once(study: Path, tmp_path: Path) -> None:
    values = yaml.safe_load(study.read_text())
    (tmp_path / "prepare.yaml").write_text(Path("pipelines/configs/prepare_planted_drift.yaml").read_text())
    tiny = [
        "recipe.num_days=60",
        "recipe.natural_rows_per_day=40",
        "recipe.ad_rows_per_day=30",
        "recipe.num_users=40",
        "recipe.num_items=20",
    ]
    for name in ("whole", "short"):
        values["rolls"][name] |= {"prepare": "prepare.yaml", "recipe": tiny}
        values["rolls"][name]["overrides"] = ["calendar.first_day=2017-02-20", "calendar.last_day=2017-02-21"]
    values["presets"]["full"]["seeds"] = [0]
    study.write_text(yaml.safe_dump(values))
    result = run_study_of_rolls(str(study), "full", (), quiet(), FakeRolls())
    assert not result["failed"]
    assert len(list((tmp_path / "work/data").iterdir())) == 1
    assert result["cases"]["whole"]["num_rows"] == 60


def test_the_committed_study_is_one_of_rolls_and_names_what_there_is() -> None:
    assert is_study_of_rolls(COMMITTED)
    assert not is_study_of_rolls("pipelines/studies/movielens_lcn.yaml")
    console = quiet()
    for preset in yaml.safe_load(Path(COMMITTED).read_text())["presets"]:
        rolls = FakeRolls()
        # Every roll and prepare config is checked before the first case; no data set is there to go on with.
        with pytest.raises(ConfigError, match="Received: gone"):
            run_study_of_rolls(COMMITTED, preset, ("rolls.few_ads.arms=[gone]",), console, rolls)
        assert not rolls.train.ran
