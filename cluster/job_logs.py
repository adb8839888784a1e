"""A job's log as it grows: a stream that survives dropped connections and repeats no line."""

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cluster.job_state import JobState
from cluster.jobs import Client, Jobs
from raytrain.errors import ClusterError, RunError


@dataclass(frozen=True)
class Pace:
    """How often a follower looks, and how long it puts up with silence; seconds."""

    quiet_s: float = 5.0
    """Without a line for so long, the job's state is asked."""
    reopen_s: float = 120.0
    """Without a line for so long, the stream is opened anew: a half-open connection says nothing for ever."""
    retry_s: float = 1.0
    lost_s: float = 300.0
    """A dashboard that does not answer for so long is given up; the job goes on."""


class LogStream:
    """Ray's asynchronous stream as a queue, read by a thread until ``close``."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._chunks: queue.Queue[str | None] = queue.Queue()
        self._client, self._job_id = client, job_id
        self._loop = asyncio.new_event_loop()
        self._task = self._loop.create_task(self._read())
        threading.Thread(target=self._run, daemon=True, name="job log").start()

    def close(self) -> None:
        """Ends the connection, which may be one that says nothing for ever, and its thread."""
        if not self._loop.is_closed():
            # It may close in between: then there is nothing to end.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)

    def _run(self) -> None:
        try:
            with suppress(asyncio.CancelledError):
                self._loop.run_until_complete(self._task)
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def next(self, limit_s: float) -> str | None:
        """The next piece of the log, or null once the stream has ended, for whatever reason: the state tells which.

        Raises:
            TimeoutError: nothing came within ``limit_s``.
        """
        try:
            return self._chunks.get(timeout=limit_s)
        except queue.Empty:
            raise TimeoutError from None

    async def _read(self) -> None:
        try:
            async for chunk in self._client.tail_job_logs(self._job_id):
                self._chunks.put(chunk)
        # Ray raises RuntimeError, aiohttp its own: a follower asks the state and opens another stream.
        except Exception:
            return
        finally:
            self._chunks.put(None)


@dataclass
class Follower:
    """Shows a job's log until the job is over."""

    jobs: Jobs
    job_id: str
    show: Callable[[str], None]
    """Takes pieces of the log."""
    tell: Callable[[str], None]
    """Takes a line about the job: that it waits, that it runs, that the connection was lost."""
    pace: Pace = Pace()
    num_shown: int = 0
    """Characters of the log; a new stream begins at its start."""
    status: str = ""

    def follow(self) -> JobState:
        """How the job ended, once all of its log has been shown.

        Raises:
            ClusterError: the dashboard has not answered for ``pace.lost_s``.
            RunError: there is no such job.
        """
        state = self._state()
        while not state.is_over:
            self._read_stream()
            state = self._state()
            if not state.is_over:
                time.sleep(self.pace.retry_s)
        # The stream may have ended before the last lines.
        try:
            self._show_from_start(self.jobs.log(self.job_id), 0)
        except (ClusterError, RunError) as err:
            self.tell(f"is over, and the end of its log cannot be read ({err})")
        return state

    def _read_stream(self) -> None:
        """Shows what is new on one stream, until it ends or stays silent."""
        stream = LogStream(self.jobs.client, self.job_id)
        try:
            self._show_stream(stream)
        finally:
            stream.close()

    def _show_stream(self, stream: LogStream) -> None:
        num_seen, silent_s = 0, 0.0
        while silent_s < self.pace.reopen_s:
            try:
                chunk = stream.next(self.pace.quiet_s)
            except TimeoutError:
                silent_s += self.pace.quiet_s
                if self._state().is_over:
                    return
                continue
            if chunk is None:
                return
            silent_s = 0.0
            if self.status == "PENDING":
                self._state()
            num_seen = self._show_from_start(chunk, num_seen)

    def _show_from_start(self, chunk: str, num_before: int) -> int:
        """Shows what of the log's characters from ``num_before`` on is new; returns where the chunk ends."""
        num_seen = num_before + len(chunk)
        if num_seen > self.num_shown:
            self.show(chunk[max(0, self.num_shown - num_before) :])
            self.num_shown = num_seen
        return num_seen

    def _state(self) -> JobState:
        """The job's state, asked until there is an answer."""
        end, told = time.monotonic() + self.pace.lost_s, False
        while True:
            try:
                state = self.jobs.state(self.job_id)
            except ClusterError as err:
                if time.monotonic() > end:
                    raise
                if not told:
                    self.tell(f"the dashboard does not answer; trying again for {self.pace.lost_s:g} s ({err})")
                    told = True
                time.sleep(self.pace.retry_s)
                continue
            if state.status != self.status:
                self.status = state.status
                if not state.is_over:
                    self.tell(f"waits: {state.message}" if state.status == "PENDING" else "runs")
            return state
