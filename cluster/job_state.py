"""What a cluster says about a job, with what must not be shown taken out."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from raytrain.storage import masked

OVER = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_CODE = 130
"""What shells give a command that was interrupted."""
LEAST_SECRET = 6
"""Characters of the shortest value, or line of one, that is hidden."""


@dataclass(frozen=True)
class JobState:
    """What the cluster says about a job."""

    job_id: str
    status: str
    """PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    entrypoint: str = ""
    message: str = ""
    began_s: float | None = None
    """Unix time"""
    ended_s: float | None = None
    driver_exit_code: int | None = None
    secrets: tuple[str, ...] = ()
    """Values of its variables, which Ray gives to whoever asks; never shown."""

    @property
    def is_over(self) -> bool:
        return self.status in OVER

    @property
    def exit_code(self) -> int:
        """0 of a job that succeeded, 130 of one that was stopped; of a failed one its command's, or 1 where it never ran."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return STOPPED_CODE
        code = self.driver_exit_code or 1
        # Python's sign for a command that a signal ended; 128 + signal is the shells'.
        return 128 - code if code < 0 else code

    def hide(self, text: str) -> str:
        """The text without the values of the job's variables, and without credentials in URIs."""
        return hidden(text, self.secrets)


def hidden(text: str, secrets: Sequence[str]) -> str:
    """The text with the given values, and credentials in URIs, as ***.

    Of a value of several lines, like a PEM or a JSON key, every line is hidden by itself: a log shows them in pieces, indented, or as one
    line with \\n in it. Values and lines shorter than LEAST_SECRET stay: one like 1 or true stands all over a log, which could not be read
    without it, and the gaps would tell what it is.
    """
    # The longest first: one value may be part of another.
    for piece in sorted({piece for secret in secrets for piece in _pieces(secret)}, key=len, reverse=True):
        text = text.replace(piece, "***")
    return masked(text)


def _pieces(secret: str) -> Iterator[str]:
    """The value and its lines, also those that end in a written \\n, as a key in JSON does until a program has read it."""
    lines = secret.splitlines()
    written = (part for line in lines for part in re.split(r"(?:\\[rn])+", line))
    yield from (piece for piece in map(str.strip, (secret, *lines, *written)) if len(piece) >= LEAST_SECRET)


def state_of(details: Any) -> JobState:
    variables = (details.runtime_env or {}).get("env_vars") or {}
    secrets = tuple(str(value) for value in variables.values())
    return JobState(
        details.submission_id or details.job_id or "",
        str(getattr(details.status, "value", details.status)),
        hidden(details.entrypoint or "", secrets),
        hidden(details.message or "", secrets),
        details.start_time / 1000 if details.start_time else None,
        details.end_time / 1000 if details.end_time else None,
        details.driver_exit_code,
        secrets,
    )
