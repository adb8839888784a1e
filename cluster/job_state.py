"""What a cluster says about a job, with what must not be shown taken out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raytrain.storage import masked

OVER = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_CODE = 130
"""What shells give a command that was interrupted."""
LEAST_SECRET = 6
"""Characters; to hide a shorter value would hide half a log."""


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
    """The text with the given values, and credentials in URIs, as ***."""
    # The longest first: one value may be part of another.
    for secret in sorted((value for value in secrets if len(value) >= LEAST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "***")
    return masked(text)


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
