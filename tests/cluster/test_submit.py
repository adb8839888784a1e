"""``raytrain submit`` as a user sees it, with a cluster that answers from memory."""

import socket
import zipfile
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from cluster import submit as submit_module
from cluster.job_logs import Follower
from cluster.jobs import Jobs
from cluster.submission import Request
from cluster.submit import SubmitOptions, submit
from raytrain.errors import ConfigError
from tests.cluster.fake_jobs import FakeClient
from tests.messages import assert_three_parts

JOB = {"data": {"path": "s3://b/toy"}, "model": {"name": "din"}, "run": {"storage_path": "s3://b/runs"}}
REQUEST = Request("train", ("job.yaml", "run.name=it's first"), "job.yaml")
HERE = socket.gethostname()
SHELL = {"TOKEN": "hunter2hunter2", "OTHER": "not for the job"}


class Seen(FakeClient):
    """Keeps the names in the package, which is gone afterwards."""

    packed: tuple[str, ...] = ()

    def submit_job(self, **job) -> str:
        with zipfile.ZipFile(job["runtime_env"]["working_dir"]) as archive:
            self.packed = tuple(archive.namelist())
        return super().submit_job(**job)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    (tmp_path / ".env").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submitted(client: FakeClient, options: SubmitOptions, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    monkeypatch.setattr(submit_module, "connect", lambda address: Jobs(client, address))
    console = Console(width=200, soft_wrap=True)
    with console.capture() as capture:
        code = submit(REQUEST, options, SHELL, console)
    return code, capture.get()


def test_a_job_gets_the_tree_and_the_named_variables_and_nothing_else(tree: Path, monkeypatch: pytest.MonkeyPatch):
    client = Seen(["RUNNING", "SUCCEEDED"], "loss 0.3\nthe token is hunter2hunter2\nno newline at the end")
    code, output = submitted(client, SubmitOptions("http://head:8265", "nightly", ("TOKEN",)), monkeypatch)
    (job,) = client.submitted
    assert (code, client.packed) == (0, ("job.yaml",))
    assert job["submission_id"].startswith("nightly-")
    assert job["entrypoint"] == """python -m raytrain train job.yaml 'run.name=it'"'"'s first'"""
    assert job["runtime_env"]["env_vars"] == {"TOKEN": "hunter2hunter2"}
    assert set(job["runtime_env"]) == {"working_dir", "env_vars"}
    assert "hunter2" not in output
    assert "loss 0.3\nthe token is ***\nno newline at the end\n" in output
    assert "left out: .env" in output
    assert output.endswith("succeeded after 3 min 04 s\n")


KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n  kqhkiG9w0BAQ\n-----END PRIVATE KEY-----\n"


def test_a_variable_of_several_lines_is_hidden_line_by_line(tree: Path, monkeypatch: pytest.MonkeyPatch):
    """The log comes in pieces of 7 characters, so that no whole value is ever in one."""
    monkeypatch.setitem(SHELL, "KEY", KEY)
    log = f"a key:\n{KEY}again\n\tkqhkiG9w0BAQ\r\nas one: {KEY!r}\nloss 0.3\n"
    _, output = submitted(FakeClient(["RUNNING", "SUCCEEDED"], log), SubmitOptions("http://head:8265", variables=("KEY",)), monkeypatch)
    assert not {line.strip() for line in KEY.splitlines() if line.strip() in output}
    assert "a key:\n***\n***\n  ***\n***\nagain\n" in output
    assert "loss 0.3\n" in output


def test_the_exit_code_is_the_jobs(tree: Path, monkeypatch: pytest.MonkeyPatch):
    code, output = submitted(FakeClient(["RUNNING", "FAILED"], exit_code=4), SubmitOptions("http://head:8265"), monkeypatch)
    assert code == 4
    assert "exit code 4" in output


def test_a_detached_job_is_told_with_its_three_commands(tree: Path, monkeypatch: pytest.MonkeyPatch):
    client = FakeClient(["PENDING"])
    code, output = submitted(client, SubmitOptions("http://head:8265", detach=True), monkeypatch)
    job_id = client.submitted[0]["submission_id"]
    assert (code, client.num_streams) == (0, 0)
    assert job_id.startswith("train-job-")
    for command in (f"status {job_id}", f"logs {job_id} --follow", f"stop {job_id}"):
        assert f"raytrain job {command} --address http://head:8265\n" in output


def test_an_interrupt_leaves_the_job_running_and_says_how_to_go_on(tree: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(follower: Follower) -> None:
        follower.show("half a li")
        raise KeyboardInterrupt

    monkeypatch.setattr(Follower, "follow", interrupt)
    client = FakeClient(["RUNNING"])
    code, output = submitted(client, SubmitOptions(), monkeypatch)
    assert (code, client.num_stops) == (130, 0)
    assert "half a li\n" in output
    assert "the job goes on:" in output
    assert f"raytrain job stop {client.submitted[0]['submission_id']}\n" in output


NEAR = SubmitOptions("http://127.0.0.1:8265", detach=True)


@pytest.mark.parametrize("hosts", [[HERE], None], ids=["this machine's", "a dashboard that does not say"])
def test_a_cluster_of_this_machine_finds_relative_data_where_it_is(tree: Path, monkeypatch: pytest.MonkeyPatch, hosts):
    (tree / "job.yaml").write_text(yaml.safe_dump(JOB | {"data": {"path": "data/toy"}}))
    client = FakeClient(["PENDING"], hosts=hosts)
    submitted(client, NEAR, monkeypatch)
    assert f'data.path="{tree}/data/toy"' in client.submitted[0]["entrypoint"]


@pytest.mark.parametrize("hosts", [["pod-7"], [HERE, "pod-7"]], ids=["the near end of a tunnel", "a head with nodes elsewhere"])
def test_a_cluster_of_other_machines_is_not_sent_this_ones_paths(tree: Path, monkeypatch: pytest.MonkeyPatch, hosts):
    (tree / "job.yaml").write_text(yaml.safe_dump(JOB | {"data": {"path": "data/toy"}}))
    client = FakeClient(["PENDING"], hosts=hosts)
    with pytest.raises(ConfigError, match="a path that the cluster's nodes share") as raised:
        submitted(client, NEAR, monkeypatch)
    assert_three_parts(raised.value)
    assert client.submitted == []


@pytest.mark.parametrize("name", ["a name", "../up", "x" * 61])
def test_a_name_that_no_url_would_take_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    with pytest.raises(ConfigError) as error:
        submitted(FakeClient(["PENDING"]), SubmitOptions(name=name), monkeypatch)
    assert_three_parts(error.value, f"--name {name}")
