"""A typing error in a config is said where it was typed, whether or not the data are in reach."""

from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from raytrain import storage
from raytrain.cli import app
from raytrain.errors import ConfigError
from raytrain.job_request import check_config, request_of
from tests.cluster.clusters import ROOT, SMALL
from tests.messages import assert_three_parts

SWEEP, ROLL_SWEEP = "tuning/sweeps/lcn.yaml", "tuning/sweeps/ecdctr.yaml"
ROLL = "pipelines/rolls/complete_journey.yaml"
STUDY, STUDY_OF_ROLLS = "pipelines/studies/movielens_baselines.yaml", "pipelines/studies/ecdctr.yaml"
PREPARE = "pipelines/configs/prepare_planted.yaml"
FAR = "s3://no-such-bucket/data"


def checked(*words: str) -> None:
    check_config(request_of(get_command(app), words, "raytrain submit --"))


@pytest.mark.parametrize(
    "words",
    [
        ("sweep", SWEEP, f"data.path={FAR}"),
        ("sweep", ROLL_SWEEP, f"base.data.path={FAR}"),
        ("roll", ROLL, f"base.data.path={FAR}"),
        ("study", STUDY, f"data.path={FAR}", "--preset", "full"),
        ("study", STUDY_OF_ROLLS, "--preset=full", f"work_dir={FAR}"),
        ("roll", ROLL, "--from", "2017-08-07", "--to", "2017-08-13", "--arm", "mixed", f"base.data.path={FAR}", f"output={FAR}"),
        ("prepare", PREPARE, f"output={FAR}"),
        ("sweep", "/only/in/pods.yaml"),
    ],
    ids=" ".join,
)
def test_what_is_right_needs_no_data(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch):
    def out_of_reach(uri: str) -> None:
        raise AssertionError(f"{uri} is looked at")

    monkeypatch.setattr(storage, "resolve", out_of_reach)
    monkeypatch.chdir(ROOT)
    checked(*words)


@pytest.mark.parametrize(
    ("words", "received", "instead"),
    [
        (("sweep", SWEEP, "num_trails=3"), "num_trails", "num_trials"),
        (("sweep", SWEEP, "space={model.contrast.wieght: {uniform: [0.1, 1.0]}}"), "wieght", "weight"),
        (("roll", ROLL, "calendar.first_dya=2017-08-07"), "first_dya", "first_day"),
        (("study", STUDY, "training.epoch=3"), "epoch", "epochs"),
        (("study", STUDY, "--preset", "ful"), "ful", "full"),
        (("study", STUDY_OF_ROLLS, "--preset", "ful"), "ful", "full"),
        (("study", STUDY, "num_resampels=3"), "num_resampels", "num_resamples"),
        (("roll", ROLL, "--arm", "mixt"), "mixt", "mixed"),
        (("roll", ROLL, "--from", "2030-01-01", "--to", "2030-01-02"), "2030-01-01", "calendar.last_day"),
        (("sweep", ROLL_SWEEP, "serve={valid: [2030-01-01, 2030-01-02], test: [2030-01-03, 2030-01-04]}"), "2030", "calendar.last_day"),
        (("prepare", PREPARE, "recipe.num_row=3"), "num_row", "num_rows"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_is_wrong_is_said_here(words: tuple[str, ...], received: str, instead: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError) as error:
        checked(*words)
    assert_three_parts(error.value, received, instead)


def test_a_day_is_a_date():
    result = CliRunner().invoke(app, ["submit", "--", "roll", ROLL, "--from", "yesterday"])
    assert (result.exit_code, "'yesterday' does not match" in result.output) == (2, True)


@pytest.mark.parametrize("before", [("submit", "--address", "http://127.0.0.1:9"), ("kuberay", "{cluster}")], ids=lambda words: words[0])
@pytest.mark.parametrize(
    ("override", "named", "hidden"),
    [("num_trails=3", "num_trails", "\0"), ("dat.path=s3://me:hunter2hunter2@b/x", "dat.path", "hunter2")],
    ids=["a wrong key", "a wrong key with a secret"],
)
def test_both_ways_to_a_cluster_check(
    before: tuple[str, ...], override: str, named: str, hidden: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(SMALL, encoding="utf-8")
    words = [word.format(cluster=cluster) for word in before]
    result = CliRunner().invoke(app, [*words, "--", "sweep", SWEEP, override])
    assert isinstance(result.exception, ConfigError)
    assert named in str(result.exception)
    assert hidden not in str(result.exception) + result.output
