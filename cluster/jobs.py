"""Jobs on a Ray cluster, through the HTTP address of its dashboard (Ray Jobs); every request has a time limit."""

import queue
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from cluster.job_state import JobState, hidden, state_of
from raytrain.errors import ClusterError, RunError
from raytrain.storage import masked

T = TypeVar("T")
REQUEST_LIMIT_S = 30.0
UPLOAD_LIMIT_S = 600.0
STOP_LIMIT_S = 60.0
STOP_POLL_S = 0.5


class Client(Protocol):
    """What is used of ray.job_submission.JobSubmissionClient."""

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any]) -> str: ...

    def get_job_info(self, job_id: str) -> Any: ...

    def list_jobs(self) -> list[Any]: ...

    def get_job_logs(self, job_id: str) -> str: ...

    def stop_job(self, job_id: str) -> bool: ...

    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...

    def _do_request(self, method: str, endpoint: str) -> Any: ...


class Jobs:
    """One cluster's jobs.

    Every method raises ClusterError when the dashboard does not answer in time or refuses, RunError when there is no such job.
    """

    def __init__(self, client: Client, address: str, limit_s: float = REQUEST_LIMIT_S) -> None:
        self.client, self.address, self._limit_s = client, address, limit_s

    def submit(self, job_id: str, entrypoint: str, package: str, variables: Mapping[str, str]) -> None:
        """Uploads the package (the path of a zip) and queues the job."""
        runtime_env: dict[str, Any] = {"working_dir": package}
        if variables:
            runtime_env["env_vars"] = dict(variables)

        def send() -> str:
            return self.client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env)

        try:
            self._ask("", send, UPLOAD_LIMIT_S, tuple(variables.values()))
        except ClusterError as refused:
            # An answer may be lost after the job was taken.
            try:
                self.state(job_id)
            except RunError:
                raise refused from None

    def state(self, job_id: str) -> JobState:
        return state_of(self._ask(job_id, lambda: self.client.get_job_info(job_id)))

    def states(self) -> list[JobState]:
        """Those that were submitted, oldest first."""
        found = self._ask("", self.client.list_jobs)
        states = [state_of(details) for details in found if details.submission_id]
        return sorted(states, key=lambda state: (state.began_s or 0.0, state.job_id))

    def log(self, job_id: str) -> str:
        """Everything the job's command has printed so far."""
        return self._ask(job_id, lambda: self.client.get_job_logs(job_id))

    def host_names(self) -> frozenset[str]:
        """Of the machines whose nodes are alive, as these call themselves."""

        # No public method of Ray's client asks for nodes; this one sends the cluster's token along.
        def ask() -> frozenset[str]:
            return frozenset(self.client._do_request("GET", "/nodes?view=hostNameList").json()["data"]["hostNameList"])

        return self._ask("", ask)

    def stop(self, job_id: str, limit_s: float = STOP_LIMIT_S) -> JobState:
        """Asks the job to stop and waits until it is over: Ray ends its processes by SIGTERM, after 3 s by SIGKILL.

        Raises:
            ClusterError: it goes on after ``limit_s``.
        """
        state = self.state(job_id)
        if not state.is_over:
            self._ask(job_id, lambda: self.client.stop_job(job_id))
        end = time.monotonic() + limit_s
        while not (state := self.state(job_id)).is_over:
            if time.monotonic() > end:
                raise ClusterError(
                    f"A job that is asked to stop has to end within {limit_s:g} s. Received: {job_id} is still {state.status}. "
                    f"Ask again, or look for its processes on the cluster behind {masked(self.address)}."
                )
            time.sleep(STOP_POLL_S)
        return state

    def _ask(self, job_id: str, call: Callable[[], T], limit_s: float | None = None, secrets: Sequence[str] = ()) -> T:
        limit_s = limit_s or self._limit_s
        try:
            return within(limit_s, call)
        except TimeoutError:
            reason = f"no answer within {limit_s:g} s"
        # RuntimeError for what the server says, and errors of Ray, of requests and of pydantic, which must not be imported here.
        except Exception as err:
            reason = hidden(first_line(err), secrets)
            if job_id and "status code 404" in reason:
                raise RunError(
                    f"A job has to be known to the cluster. Received: {job_id}, and {masked(self.address)} has none of that id. "
                    f"List them with `raytrain job list --address {masked(self.address)}`."
                ) from None
        raise ClusterError(
            f"The cluster's dashboard has to answer. Received: {masked(self.address)}, {reason.rstrip('.')}. "
            "Check that the cluster runs, then ask again."
        )


def within(limit_s: float, call: Callable[[], T]) -> T:
    """The result of a call that must not wait for ever; a late one is left to itself, in a thread that ends with the process.

    Raises:
        TimeoutError: it takes longer.
    """
    answers: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def run() -> None:
        try:
            answers.put((True, call()))
        except BaseException as err:
            answers.put((False, err))

    threading.Thread(target=run, daemon=True).start()
    try:
        succeeded, answer = answers.get(timeout=limit_s)
    except queue.Empty:
        raise TimeoutError from None
    if not succeeded:
        raise answer
    return answer  # type: ignore[no-any-return]


def first_line(err: BaseException) -> str:
    return (str(err).strip().splitlines() or [type(err).__name__])[0]
