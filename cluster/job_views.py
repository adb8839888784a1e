"""Jobs as a user reads them."""

import time
from collections.abc import Sequence

from cluster.job_state import JobState


def list_of(states: Sequence[JobState]) -> str:
    """One line a job, never cut: an id is there to be copied."""
    rows = [(state.job_id, _status(state), _clock(state.began_s), _took(state), state.entrypoint) for state in states]
    widths = [max(len(row[column]) for row in rows) for column in range(4)] if rows else []
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows]
    return "\n".join(lines) or "no jobs"


def lines_of(state: JobState) -> str:
    """What is known of one job, a fact a line."""
    facts = {
        "job": state.job_id,
        "status": _status(state),
        "began": _clock(state.began_s),
        "took": _took(state),
        "command": state.entrypoint,
    }
    # Of a job that ran, the message is a standing phrase or the end of its log.
    if state.status == "PENDING" or (state.status == "FAILED" and state.driver_exit_code is None):
        facts["why"] = state.message
    return "\n".join(f"{name:8} {fact}" for name, fact in facts.items() if fact)


def ending(state: JobState) -> str:
    """How a job ended, in a sentence."""
    lasted = "" if state.began_s is None or state.ended_s is None else f" after {duration(state.ended_s - state.began_s)}"
    if state.status == "FAILED":
        # The message repeats the end of the log, which has been shown, when the command itself failed.
        why = "" if state.driver_exit_code is not None else f": {state.message}"
        return f"{state.job_id} failed{lasted}, exit code {state.exit_code}{why}"
    return f"{state.job_id} {state.status.lower()}{lasted}"


def duration(seconds: float) -> str:
    """1 h 02 min, 3 min 04 s, 5 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _status(state: JobState) -> str:
    return f"FAILED, exit code {state.exit_code}" if state.status == "FAILED" else state.status


def _clock(moment_s: float | None) -> str:
    return "" if moment_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment_s))


def _took(state: JobState) -> str:
    if state.began_s is None:
        return ""
    return duration((state.ended_s or time.time()) - state.began_s)
