"""The log of a job is shown once and whole, whatever becomes of its streams."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.job_logs import Follower, Pace
from cluster.job_state import JobState
from cluster.jobs import Jobs
from raytrain.errors import ClusterError, RunError
from tests.cluster.fake_jobs import FakeClient

QUICK = Pace(quiet_s=0.05, reopen_s=0.2, retry_s=0.0, lost_s=0.2)
LOG = "".join(f"step {step}: loss {1 / (step + 1):.3f}\n" for step in range(20))
LOST = ConnectionError("connection refused")


def follow(client: FakeClient, pace: Pace = QUICK) -> tuple[JobState, str, list[str]]:
    shown: list[str] = []
    told: list[str] = []
    state = Follower(Jobs(client, "http://head:8265"), "only", shown.append, told.append, pace).follow()
    return state, "".join(shown), told


def test_a_job_waits_runs_and_ends():
    state, shown, told = follow(FakeClient(["PENDING", "RUNNING", "SUCCEEDED"], LOG, message="waits for a node"))
    assert (state.status, shown, told) == ("SUCCEEDED", LOG, ["waits: waits for a node", "runs"])


@given(st.lists(st.integers(0, len(LOG)), max_size=4), st.integers(1, 60), st.integers(1, 6))
def test_dropped_streams_lose_and_repeat_nothing(streams: list[int], chunk: int, num_running: int):
    client = FakeClient(["RUNNING"] * num_running + ["SUCCEEDED"], LOG, streams=streams, chunk=chunk)
    assert follow(client)[1] == LOG


def test_a_stream_that_falls_silent_is_opened_anew():
    client = FakeClient(["RUNNING"] * 8 + ["SUCCEEDED"], LOG, streams=[50, 90], hangs=True)
    assert follow(client)[1] == LOG
    assert client.num_streams >= 2


def test_streams_that_fell_silent_leave_no_thread() -> None:
    client = FakeClient(["RUNNING"] * 40 + ["SUCCEEDED"], LOG, streams=[50, 90], hangs=True)
    assert follow(client)[1] == LOG
    assert client.num_streams > 3
    limit = time.monotonic() + 10
    while left := [thread for thread in threading.enumerate() if thread.name == "job log"]:
        assert time.monotonic() < limit, left
        time.sleep(0.05)


def test_a_dashboard_that_comes_back_is_followed_again():
    state, shown, told = follow(FakeClient(["RUNNING", LOST, LOST, "RUNNING", LOST, "FAILED"], LOG, streams=[30], exit_code=3))
    assert (state.exit_code, shown) == (3, LOG)
    assert sum("does not answer; trying again" in line for line in told) == 2


def test_a_dashboard_that_stays_away_is_given_up():
    began = time.monotonic()
    with pytest.raises(ClusterError):
        follow(FakeClient(["RUNNING", LOST], LOG, streams=[30]), Pace(0.05, 0.2, 0.01, 0.2))
    assert time.monotonic() - began < 5


def test_a_job_that_nobody_knows_is_not_waited_for():
    with pytest.raises(RunError):
        follow(FakeClient([RuntimeError("Request failed with status code 404: no such job")]))


def test_a_job_whose_log_is_gone_keeps_its_code():
    client = FakeClient(["FAILED"], exit_code=7)
    client.get_job_logs = lambda job_id: (_ for _ in ()).throw(RuntimeError("status code 500: the node is gone"))
    state, _, told = follow(client)
    assert state.exit_code == 7
    assert "cannot be read" in told[0]
