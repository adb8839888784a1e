"""Jobs of a cluster: how they end, how they are stopped, and what is said when nobody answers."""

import http.server
import socket
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.dashboard import address_of, connect, token_of
from cluster.job_state import LEAST_SECRET, JobState, hidden
from cluster.job_views import ending, lines_of, list_of
from cluster.jobs import Jobs, within
from raytrain.errors import ClusterError, ConfigError, RunError
from tests.cluster.fake_jobs import FakeClient
from tests.messages import assert_three_parts

MISSING = RuntimeError("Request failed with status code 404: Job gone does not exist.")


def jobs_of(client: FakeClient) -> Jobs:
    return Jobs(client, "http://head:8265", limit_s=5.0)


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "code"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", None, 1), ("FAILED", -9, 137), ("STOPPED", -15, 130)],
    ids=["success", "the command's own code", "never ran", "killed", "stopped"],
)
def test_a_job_ends_with_its_commands_code(status: str, driver_exit_code: int | None, code: int):
    assert jobs_of(FakeClient([status], exit_code=driver_exit_code)).state("only").exit_code == code


def test_the_end_of_a_job_is_told_in_a_sentence():
    client = FakeClient(["FAILED"], exit_code=2)
    assert ending(jobs_of(client).state("only")) == "only failed after 3 min 04 s, exit code 2"
    unpacked = JobState("only", "FAILED", message="the runtime environment could not be set up", began_s=0.0, ended_s=3723.0)
    assert ending(unpacked) == "only failed after 1 h 02 min, exit code 1: the runtime environment could not be set up"


def test_stopping_waits_until_the_job_is_over():
    client = FakeClient(["RUNNING", "RUNNING", "RUNNING", "STOPPED"])
    assert jobs_of(client).stop("only").status == "STOPPED"
    assert client.num_stops == 1


def test_a_job_that_is_over_is_not_stopped_again():
    client = FakeClient(["SUCCEEDED"])
    assert jobs_of(client).stop("only").status == "SUCCEEDED"
    assert client.num_stops == 0


def test_a_job_that_does_not_stop_is_an_error_after_the_limit():
    with pytest.raises(ClusterError) as error:
        jobs_of(FakeClient(["RUNNING"])).stop("only", limit_s=0.1)
    assert_three_parts(error.value, "within 0.1 s", "only is still RUNNING", "Ask again")


def test_a_job_that_nobody_knows_is_named():
    with pytest.raises(RunError) as error:
        jobs_of(FakeClient([MISSING])).state("gone")
    assert_three_parts(error.value, "Received: gone", "`raytrain job list --address http")


def test_a_refused_submission_tells_why_without_the_variables():
    client = FakeClient([MISSING])
    client.submit_job = lambda **job: (_ for _ in ()).throw(RuntimeError(f"Request failed with status code 500: {job}"))
    with pytest.raises(ClusterError) as error:
        jobs_of(client).submit("id", "python -m raytrain", "tree.zip", {"KEY": "hunter2hunter2"})
    assert_three_parts(error.value, "http://head:8265", "status code 500", "***")
    assert "hunter2" not in str(error.value)


def test_a_submission_whose_answer_is_lost_counts_where_the_job_is_there():
    client = FakeClient(["PENDING"])
    client.submit_job = lambda **job: (_ for _ in ()).throw(ConnectionError("reset"))
    jobs_of(client).submit("id", "python -m raytrain", "tree.zip", {})


def test_variables_of_a_job_are_in_nothing_that_is_shown():
    client = FakeClient(["PENDING"], variables={"KEY": "hunter2hunter2"}, message="env_vars: {KEY: hunter2hunter2}")
    state = jobs_of(client).state("only")
    assert "hunter2" not in lines_of(state) + state.message + state.hide("a log with hunter2hunter2 and s3://a:hunter2@b")
    assert "why      env_vars: {KEY: ***}" in lines_of(state)


JSON_KEY = """{
  "type": "service_account",
  "private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADANBg\\n-----END PRIVATE KEY-----\\n"
}
"""


@pytest.mark.parametrize(
    ("secret", "log", "shown"),
    [
        (JSON_KEY, textwrap.indent(JSON_KEY, "| "), "| {\n|   ***\n|   ***\n| }\n"),
        (JSON_KEY, f"sent {JSON_KEY.strip()} to the store", "sent *** to the store"),
        (JSON_KEY, "-----BEGIN\nMIIEvQIBADANBg\n", "-----BEGIN\n***\n"),
        ("hunter2\r\nhunter2hunter2\r\n", "hunter2 hunter2hunter2", "*** ***"),
        ("x" * LEAST_SECRET, "loss " + "x" * LEAST_SECRET, "loss ***"),
        ("12345", "step 12345", "step 12345"),
        ("1\n\n2\n", "step 12 of 2\n\n", "step 12 of 2\n\n"),
    ],
    ids=[
        "a JSON key line by line",
        "the whole of it",
        "a PEM out of it",
        "a longer line first",
        "the shortest",
        "too short",
        "lines too short",
    ],
)
def test_what_of_a_variable_a_log_shows(secret: str, log: str, shown: str):
    assert hidden(log, (secret,)) == shown


def test_a_list_of_jobs_cuts_no_id():
    long = "train-" + "x" * 50 + "-1122-005501-3436"
    failed = JobState("b", "FAILED", driver_exit_code=2)
    lines = list_of([JobState(long, "SUCCEEDED", "python -m raytrain train a.yaml"), failed]).splitlines()
    assert lines[0].split() == [long, "SUCCEEDED", "python", "-m", "raytrain", "train", "a.yaml"]
    assert lines[1].split() == ["b", "FAILED,", "exit", "code", "2"]
    assert list_of([]) == "no jobs"


def test_a_call_that_hangs_is_given_up():
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        within(0.1, lambda: time.sleep(30))
    assert time.monotonic() - began < 5
    with pytest.raises(KeyError):
        within(5, lambda: {}["missing"])


@pytest.mark.parametrize(
    ("option", "environment", "address"),
    [
        (None, {}, "http://127.0.0.1:8265"),
        (None, {"RAY_ADDRESS": "http://a:1/"}, "http://a:1"),
        (None, {"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:1"}, "http://b:1"),
        ("http://c:1", {"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:1"}, "http://c:1"),
    ],
    ids=["this machine", "Ray's variable", "the jobs' own variable", "the option"],
)
def test_where_the_cluster_is(option: str | None, environment: dict[str, str], address: str):
    assert address_of(option, environment) == address


@pytest.mark.parametrize("address", ["http://user:hunter2@head:8265", "ray://head:10001"])
def test_an_address_with_a_password_or_of_ray_client_is_refused(address: str):
    with pytest.raises(ConfigError) as error:
        address_of(address, {})
    assert_three_parts(error.value)
    assert "hunter2" not in str(error.value)


def test_the_token_is_read_where_ray_reads_it(tmp_path: Path):
    (tmp_path / "token").write_text("from a file\n")
    path = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
    assert token_of(path) == "from a file"
    assert token_of({**path, "RAY_AUTH_TOKEN": "from the shell"}) == "from the shell"
    assert token_of({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}) is None


class Guarded(http.server.BaseHTTPRequestHandler):
    """A dashboard behind a token."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == "Bearer right"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b'{"ray_version": "2.60.0"}' if known else b"Unauthorized")

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_cluster_that_asks_for_its_token_gets_it(monkeypatch: pytest.MonkeyPatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guarded) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("RAY_AUTH_TOKEN", "right")
        assert connect(address).address == address
        monkeypatch.setenv("RAY_AUTH_TOKEN", "wrong")
        with pytest.raises(ClusterError) as error:
            connect(address)
        server.shutdown()
    assert_three_parts(error.value, "a token it refuses", "RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")
    assert "wrong" not in str(error.value)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def other_port() -> Iterator[int]:
    """A web server that is no Ray."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_dashboard_that_does_not_answer_is_named_in_time(silent_port: int, other_port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    for port, limit_s in ((silent_port, 0.5), (other_port, 5.0), (2, 5.0)):
        address = f"http://127.0.0.1:{port}"
        began = time.monotonic()
        with pytest.raises(ClusterError) as error:
            connect(address, limit_s)
        assert_three_parts(error.value, f"Received: {address},", "ray start --head", "ssh -L", "without `submit`")
        assert time.monotonic() - began < 10
