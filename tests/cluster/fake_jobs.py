"""A cluster of one job, told beforehand: its states in turn, its log, and where each stream of it breaks off."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


@dataclass
class FakeClient:
    """What Ray's client does, from memory. The last state stays; an exception among the states is raised."""

    states: list[Any]
    log: str = ""
    streams: Sequence[int] = ()
    """Characters after which a stream ends, one a stream; later ones give the whole log."""
    hangs: bool = False
    """Streams say nothing more instead of ending."""
    exit_code: int | None = None
    variables: dict[str, str] = field(default_factory=dict)
    hosts: Sequence[str] | None = None
    """Of the cluster's nodes; null leaves the question unanswered."""
    message: str = "all is told"
    submitted: list[dict[str, Any]] = field(default_factory=list)
    num_streams: int = 0
    num_stops: int = 0
    chunk: int = 7

    def submit_job(self, **job: Any) -> str:
        self.submitted.append(job)
        return str(job["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, BaseException):
            raise state
        return SimpleNamespace(
            submission_id=job_id,
            job_id="01000000",
            status=state,
            entrypoint="python -m raytrain train job.yaml",
            message=self.message,
            start_time=1_700_000_000_000,
            end_time=1_700_000_184_000 if state in ("SUCCEEDED", "FAILED", "STOPPED") else None,
            driver_exit_code=self.exit_code,
            runtime_env={"env_vars": self.variables} if self.variables else {},
        )

    def list_jobs(self) -> list[Any]:
        return [self.get_job_info("only")]

    def get_job_logs(self, job_id: str) -> str:
        return self.log

    def stop_job(self, job_id: str) -> bool:
        self.num_stops += 1
        return True

    def _do_request(self, method: str, endpoint: str) -> Any:
        assert (method, endpoint) == ("GET", "/nodes?view=hostNameList")
        if self.hosts is None:
            raise RuntimeError("Request failed with status code 500")
        return SimpleNamespace(json=lambda: {"result": True, "data": {"hostNameList": list(self.hosts)}})

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        number, self.num_streams = self.num_streams, self.num_streams + 1
        length = self.streams[number] if number < len(self.streams) else len(self.log)
        for start in range(0, length, self.chunk):
            yield self.log[start : min(start + self.chunk, length)]
        if self.hangs:
            await asyncio.sleep(3600)
        if number < len(self.streams):
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
