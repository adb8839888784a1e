"""What is checked before a job is sent: its command, its config, its paths, what must stay secret."""

import shlex
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command

from cluster.packing import Package, collect
from cluster.submission import Request, Submission, is_local_address, prepare_submission, variables_of
from raytrain.cli import app
from raytrain.errors import ConfigError
from raytrain.job_request import request_of
from tests.messages import assert_three_parts

BEFORE = "raytrain submit --"
JOB = {"data": {"path": "data/toy"}, "model": {"name": "din"}, "run": {"storage_path": "s3://bucket/runs"}}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    root = tmp_path / "tree"
    for name, values in {
        "jobs/job.yaml": JOB,
        "jobs/roll.yaml": {"name": "chain", "calendar": {}, "base": {"data": {"path": "data/days"}}},
        "jobs/study.yaml": {"name": "arms", "base": "job.yaml", "arms": {}},
        "jobs/sweep.yaml": {"name": "knobs", "base": "job.yaml", "space": {}},
        "data/ignored.yaml": JOB,
        "tracked/rows.yaml": {},
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(yaml.safe_dump(values))
    monkeypatch.chdir(root)
    return collect(root)


def submission_of(tree: Package, *arguments: str, is_local: bool = False) -> Submission:
    return prepare_submission(request_of(get_command(app), arguments, BEFORE), tree, is_local)


@given(st.lists(st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"))))
def test_any_argument_reaches_the_command_as_it_was(arguments: list[str]):
    submission = Submission(("train", "job.yaml", *arguments), added=('data.path="/a b/$c"',))
    assert shlex.split(submission.entrypoint) == ["python", "-m", "raytrain", "train", "job.yaml", *arguments, 'data.path="/a b/$c"']


def test_options_and_quotes_go_along(tree: Package):
    typed = ("train", "jobs/job.yaml", "data.path=s3://b/x", "model={name: lcn, dropout: 0.1}", "--resume", "--baseline", "s3://b/runs/a")
    assert shlex.split(submission_of(tree, *typed).entrypoint) == ["python", "-m", "raytrain", *typed]


def test_an_absolute_config_is_found_in_the_jobs_directory(tree: Package):
    submission = submission_of(tree, "train", str(tree.root / "jobs/job.yaml"), "data.path=s3://b/x")
    assert submission.arguments == ("train", "jobs/job.yaml", "data.path=s3://b/x")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("doctor",), ("train, roll, sweep, study, prepare, evaluate, predict", "Received: doctor", "on this machine")),
        (("train", "nowhere.yaml"), ("nowhere.yaml", "Check the path")),
        (("train", "data/ignored.yaml"), ("data/ignored.yaml", "git must not ignore")),
        (("train", "jobs/job.yaml", "data.path=s3://b/x", "seed=-1"), ("seed",)),
        (("train", "jobs/job.yaml"), ("data.path=data/toy", "not packed", "every node mounts")),
        (("train", "jobs/job.yaml", "data.path=s3://b/x", "run.storage_path=runs"), ("run.storage_path=runs", "is deleted")),
        (("train", "jobs/job.yaml", "data.path=s3://b/x", "--baseline", "runs/a"), ("--baseline", "runs/a", "relative")),
        (("evaluate", "runs/first"), ("RUN has to be found", "runs/first", "absolute path")),
        (("predict", "s3://b/runs/first", "--output", "predictions"), ("--output", "predictions")),
    ],
    ids=[
        "a command that is not for a cluster",
        "no such config",
        "a config that stays behind",
        "a value that the schema refuses",
        "data that stay behind",
        "a run that would be deleted",
        "a baseline that stays behind",
        "a run that stays behind",
        "predictions that would be deleted",
    ],
)
def test_what_would_fail_on_the_cluster_is_refused_here(tree: Package, arguments: tuple[str, ...], said: tuple[str, ...]):
    with pytest.raises(ConfigError) as error:
        submission_of(tree, *arguments)
    for text in said:
        assert text in str(error.value)


def test_a_config_outside_the_tree_is_refused_with_what_to_do(tree: Package, tmp_path: Path):
    outside = tmp_path / "outside.yaml"
    outside.write_text(yaml.safe_dump(JOB))
    with pytest.raises(ConfigError) as error:
        submission_of(tree, "train", str(outside), "data.path=s3://b/x")
    assert_three_parts(error.value, str(outside), f"outside {tree.root}", "Copy it into the tree")


def test_a_config_on_shared_storage_stays_where_it_is(tree: Package):
    assert submission_of(tree, "prepare", "s3://bucket/prepare.yaml").arguments == ("prepare", "s3://bucket/prepare.yaml")


@pytest.mark.parametrize(
    "argument", ["data.path=s3://key:hunter2@bucket/x", "data.path=s3://bucket/x?secret_key=hunter2", "s3://k:hunter2@b/r"]
)
def test_credentials_in_an_argument_are_refused_and_not_repeated(tree: Package, argument: str):
    with pytest.raises(ConfigError) as error:
        submission_of(tree, "train", "jobs/job.yaml", argument) if "=s3" in argument else submission_of(tree, "evaluate", argument)
    assert_three_parts(error.value, "--env NAME")
    assert "hunter2" not in str(error.value)


def test_credentials_in_a_config_are_refused_and_not_repeated(tree: Package):
    (tree.root / "jobs/job.yaml").write_text(yaml.safe_dump({**JOB, "data": {"path": "s3://key:hunter2@bucket/x"}}))
    with pytest.raises(ConfigError, match=r"data\.path") as error:
        submission_of(tree, "train", "jobs/job.yaml")
    assert "hunter2" not in str(error.value)


def test_on_this_machine_a_relative_path_becomes_an_absolute_one(tree: Package):
    submission = submission_of(tree, "train", "jobs/job.yaml", "run.storage_path=runs of mine", is_local=True)
    assert submission.added == (f'data.path="{tree.root}/data/toy"', f'run.storage_path="{tree.root}/runs of mine"')
    assert submission.warnings == ()


def test_elsewhere_a_local_path_is_warned_of(tree: Package):
    submission = submission_of(tree, "train", "jobs/job.yaml", "data.path=/mnt/toy")
    assert submission.added == ()
    assert submission.warnings == ("data.path=/mnt/toy is a local path: every node has to mount it",)
    assert submission_of(tree, "train", "jobs/job.yaml", "data.path=/mnt/toy", is_local=True).warnings == ()


def test_data_that_are_packed_need_nothing(tree: Package):
    assert submission_of(tree, "train", "jobs/job.yaml", "data.path=tracked").added == ()


def test_the_paths_of_a_roll_and_of_a_studys_base_are_warned_of(tree: Package):
    (warning,) = submission_of(tree, "roll", "jobs/roll.yaml", "output=s3://b/roll").warnings
    assert warning.startswith("base.data.path=data/days is not packed")
    (warning,) = submission_of(tree, "study", "jobs/study.yaml", "--preset", "full", "work_dir=s3://b/study").warnings
    assert warning.startswith("data.path=data/toy is not packed")


@pytest.mark.parametrize(
    ("typed", "key", "default"),
    [
        (("roll", "jobs/roll.yaml"), "output", "runs/rolls/chain"),
        (("sweep", "jobs/sweep.yaml"), "work_dir", "runs/sweeps/knobs"),
        (("study", "jobs/study.yaml"), "work_dir", "runs/studies/arms"),
    ],
)
def test_results_do_not_go_with_the_jobs_own_directory(tree: Package, typed: tuple[str, ...], key: str, default: str):
    """Ray deletes it when the job is over: a command of many runs would leave nothing."""
    with pytest.raises(ConfigError) as error:
        submission_of(tree, *typed)
    assert_three_parts(error.value, f"{key}={default}, which is deleted", f"Set {key} to a URI")
    assert submission_of(tree, *typed, is_local=True).added == (f'{key}="{tree.root}/{default}"',)
    assert submission_of(tree, *typed, f"{key}=elsewhere", is_local=True).added == (f'{key}="{tree.root}/elsewhere"',)
    assert submission_of(tree, *typed, f"{key}=s3://b/x").added == ()


def test_the_output_of_the_studys_preset_that_is_asked_for_is_kept(tree: Package):
    values = {"base": "job.yaml", "arms": {}, "work_dir": "s3://b/x", "presets": {"quick": {}, "full": {"output": "kept/here"}}}
    (tree.root / "jobs/study.yaml").write_text(yaml.safe_dump(values))
    for option in (("--preset", "full"), ("--preset=full",)):
        with pytest.raises(ConfigError, match=r"presets\.full\.output=kept/here"):
            submission_of(tree, "study", "jobs/study.yaml", *option)
        (added,) = submission_of(tree, "study", "jobs/study.yaml", *option, is_local=True).added
        assert added == f'presets.full.output="{tree.root}/kept/here"'
    assert submission_of(tree, "study", "jobs/study.yaml").added == ()


def test_a_variable_is_passed_by_name():
    assert variables_of(["KEY"], {"KEY": "hunter2", "OTHER": "x"}) == {"KEY": "hunter2"}


@pytest.mark.parametrize("name", ["KEY=hunter2", "MISSING", "not a name"])
def test_a_value_on_the_command_line_and_a_missing_variable_are_refused(name: str):
    with pytest.raises(ConfigError) as error:
        variables_of([name], {"KEY": "x", "not a name": "y"})
    assert_three_parts(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("address", "local"),
    [("http://127.0.0.1:8265", True), ("http://localhost:1", True), ("127.0.0.1:6379", True), ("auto", True), ("http://head:8265", False)],
)
def test_which_cluster_is_this_machine(address: str, local: bool):
    assert is_local_address(address) is local


def test_a_request_reads_what_the_command_itself_would_read():
    request = request_of(
        get_command(app),
        ["predict", "runs/a", "--input", "x", "--output", "y", "data.batch_size=8", "--split", "valid"],
        BEFORE,
    )
    assert request == Request(
        "predict",
        ("runs/a", "--input", "x", "--output", "y", "data.batch_size=8", "--split", "valid"),
        "runs/a",
        ("data.batch_size=8",),
        (("--output", "y"), ("--input", "x")),
    )


def test_a_studys_own_paths_are_read_wherever_they_stand(tree: Package):
    values = {
        "name": "arms",
        "base": {"data": {"path": "data/base"}},
        "work_dir": "s3://b/x",
        "arms": {"a": {"overrides": ["data.path=data/arm", "seed=1"], "trials": [["data.path=data/trial"]]}, "b": None},
        "presets": {"quick": None, "full": {"overrides": ["data.path=data/preset"]}},
    }

    def warned(*typed: str) -> list[str]:
        return [warning.split(" ")[0] for warning in submission_of(tree, "study", "jobs/study.yaml", *typed).warnings]

    (tree.root / "jobs/study.yaml").write_text(yaml.safe_dump(values))
    assert warned() == ["data.path=data/base", "data.path=data/arm", "data.path=data/trial"]
    assert warned("--preset", "full")[0] == "data.path=data/preset"
    assert warned("data.path=s3://b/y")[0] == "data.path=data/arm"
    (tree.root / "jobs/study.yaml").write_text(yaml.safe_dump(values | {"arms": {}, "grid": {"data.path": ["s3://b/1", "data/2"]}}))
    assert warned() == ["data.path=data/2"], "the base's is replaced at every point"
