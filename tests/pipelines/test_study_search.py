"""A study's search: as many trials an arm, chosen on validation alone, and what is like an arm takes its trial over."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.study import run_study
from pipelines.study_plan import load_study
from raytrain.config import JobConfig, load_config
from raytrain.errors import ConfigError
from tests.pipelines.fake_runs import FakeTrain, write_study

ARMS = {
    "din": {"trials": [["optimizer.lr=0.1"], ["optimizer.lr=0.2"]]},
    "din_small": {"like": "din", "overrides": ["tables.dim=4"]},
    "single": {"overrides": ["model={name: single_domain}"], "trials": [["optimizer.lr=0.1"], ["tables.dim=8"]]},
}


@dataclass
class ValidatedTrain(FakeTrain):
    """Validation likes ``best_lr``; the test split, which must not be asked, likes the arm as it stands."""

    best_lr: float = 0.1

    def __call__(self, job: JobConfig, console: Console) -> dict[str, Any]:
        result = super().__call__(job, console)
        return result | {"valid": {"auc": 0.5 + 0.1 * (job.optimizer.lr == self.best_lr), "logloss": 0.6}}


def run(path: str, train: FakeTrain, preset: str = "full") -> tuple[dict[str, Any], str]:
    """(result, what was printed)"""
    printed = io.StringIO()
    return run_study(path, preset, (), Console(file=printed, width=200), train), printed.getvalue()


def write(directory: Path, **changes: Any) -> str:
    return write_study(directory, **({"arms": ARMS, "comparisons": [["din", "single"]]} | changes))


def test_the_best_trial_on_validation_is_what_the_seeds_run(tmp_path: Path) -> None:
    train = ValidatedTrain()
    result, printed = run(write(tmp_path), train)
    jobs = {name: load_job(tmp_path, name) for name in train.ran}
    assert train.ran[:6] == [f"{arm}.trial{number}-seed0" for arm in ("din", "single") for number in range(3)]
    assert jobs["din-seed1"].optimizer.lr == jobs["din-seed2"].optimizer.lr == 0.1
    assert (jobs["din_small-seed1"].optimizer.lr, jobs["din_small-seed1"].tables.dim) == (0.1, 4)
    assert [trial["chosen"] for trial in result["search"]["arms"]["din"]] == [False, True, False]
    assert "din: optimizer.lr=0.1 is the best of 3 trials, valid auc 0.6000" in printed
    written = (tmp_path / "work/full/result.md").read_text()
    assert "| din | optimizer.lr=0.1 | **0.6000** |" in written
    assert "Search: 3 trials of every arm" in (tmp_path / "work/full/result.html").read_text()


def test_the_best_trial_is_not_trained_again_for_its_own_seed(tmp_path: Path) -> None:
    train = ValidatedTrain()
    result, _ = run(write(tmp_path), train)
    assert "din-seed0" not in train.ran
    assert result["arms"]["din"]["seeds"] == [0, 1, 2]


def test_a_second_call_runs_nothing_and_chooses_the_same(tmp_path: Path) -> None:
    first, _ = run(write(tmp_path), ValidatedTrain())
    train = ValidatedTrain()
    second, _ = run(write(tmp_path), train)
    assert train.ran == []
    assert second == first


def test_a_trial_that_fails_is_not_chosen_and_an_arm_whose_trials_all_fail_stays_as_it_stands(tmp_path: Path) -> None:
    fails = {"din.trial1-seed0", *(f"single.trial{number}-seed0" for number in range(3))}
    result, printed = run(write(tmp_path), ValidatedTrain(fails=fails))
    assert {failure["cell"] for failure in result["failed"]} >= fails
    assert [trial["value"] for trial in result["search"]["arms"]["din"]] == [0.5, None, 0.5]
    assert [trial["chosen"] for trial in result["search"]["arms"]["single"]] == [True, False, False]
    assert "single: as it stands is the best of 3 trials, valid auc no value" in printed


def test_a_preset_may_leave_the_search_out(tmp_path: Path) -> None:
    train = ValidatedTrain()
    result, _ = run(write(tmp_path, presets={"quick": {"seeds": [0], "search": False}}), train, "quick")
    assert train.ran == ["din-seed0", "din_small-seed0", "single-seed0"]
    assert result["search"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arms": ARMS | {"other": {"trials": [["optimizer.lr=1"]]}}}, "has to get as many trials.*other: 1"),
        ({"grid": {"tables.dim": [4, 8]}}, "searches or runs a grid"),
        ({"arms": ARMS | {"other": {"like": "dni"}}}, "Did you mean din"),
        ({"arms": ARMS | {"other": {"like": "din_small"}}}, "is like no other"),
        ({"arms": ARMS | {"other": {"like": "din", "trials": [[], []]}}}, "instead of trials of its own"),
    ],
    ids=["unequal budgets", "search and grid", "like misspelt", "like of a like", "like with trials"],
)
def test_a_wrong_search_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_study(write(tmp_path, **changes))


def test_a_wrong_trial_is_refused_before_anything_runs(tmp_path: Path) -> None:
    train = ValidatedTrain()
    with pytest.raises(ConfigError, match="Did you mean lr"):
        run(write(tmp_path, arms={"din": {"trials": [["optimizer.lrr=1"]]}}, comparisons=[]), train)
    assert train.ran == []


def load_job(directory: Path, name: str) -> JobConfig:
    return load_config(directory / "work/full" / name / "config.yaml")
