"""``raytrain submit``: sends a command and the working tree to a cluster, follows the job, and ends as it ends."""

import re
import secrets
import socket
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from cluster.dashboard import address_of, connect
from cluster.job_logs import Follower, Pace
from cluster.job_state import STOPPED_CODE, hidden
from cluster.job_views import ending
from cluster.jobs import Jobs
from cluster.packing import LIMIT_MIB, MIB, collect, write_zip
from cluster.submission import Request, is_local_address, prepare_submission, variables_of
from raytrain.errors import ClusterError, ConfigError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
NUM_SHOWN = 5
"""Files that stay behind and are named."""


@dataclass(frozen=True)
class SubmitOptions:
    address: str | None = None
    """The dashboard's; null asks Ray's variables, then this machine."""
    name: str | None = None
    """What the job's id begins with; null takes the command's and its config's name."""
    variables: tuple[str, ...] = ()
    """Names of environment variables that the job gets."""
    detach: bool = False
    limit_mib: float = LIMIT_MIB


def submit(request: Request, options: SubmitOptions, environment: Mapping[str, str], console: Console) -> int:
    """Submits a command, shows its log, and returns its exit code; 0 at once with ``detach``, 130 when the user stops looking.

    Raises:
        ConfigError: what would fail on the cluster, said before anything is sent.
        ClusterError: the dashboard does not answer, or refuses.
    """
    address = address_of(options.address, environment)
    variables = variables_of(options.variables, environment)
    job_id = _job_id(request, options.name)
    package = collect(Path.cwd(), options.limit_mib)
    is_near = is_local_address(address)
    submission = prepare_submission(request, package, is_near)
    jobs = connect(address)
    if is_near and _is_elsewhere(jobs):
        # A tunnel's near end, or a head that has nodes on other machines.
        submission = prepare_submission(request, package, is_local=False)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    for warning in submission.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)
    for override in submission.added:
        say(f"added {override}, since the job runs in a directory of its own")
    left_out = ", ".join(package.left_out[:NUM_SHOWN]) + (", ..." if len(package.left_out) > NUM_SHOWN else "")
    say(
        f"packed {len(package.files)} files, {package.num_bytes / MIB:.1f} MiB before compression, of {package.root}"
        + (f"; left out: {left_out}" if left_out else "")
    )
    if variables:
        say(f"variables: {', '.join(variables)}")
    follow_ups = ways_on(job_id, options.address)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            zipped = Path(scratch) / "working_dir.zip"
            write_zip(package, zipped)
            say(f"submitting {job_id} to {jobs.address}: {submission.entrypoint}")
            jobs.submit(job_id, submission.entrypoint, str(zipped), variables)
    except KeyboardInterrupt:
        say(f"\n{job_id} may have been taken already:\n{follow_ups}")
        return STOPPED_CODE
    if options.detach:
        say(f"{job_id} is submitted\n{follow_ups}")
        return 0
    return follow(jobs, job_id, console, options.address, tuple(variables.values()))


def follow(
    jobs: Jobs, job_id: str, console: Console, address: str | None, values: tuple[str, ...] | None = None, pace: Pace | None = None
) -> int:
    """Shows a job's log until it is over; Ctrl-C ends the looking, not the job.

    Args:
        address: the option that found the cluster, for the commands that are shown.
        values: of the job's variables, which are hidden; null asks the cluster for them.

    Returns:
        The job's exit code, or 130 when the user stops looking.
    """
    lines = _Lines(console, jobs.state(job_id).secrets if values is None else values)
    follower = Follower(jobs, job_id, lines.show, lambda text: _tell(console, job_id, text), pace or Pace())
    try:
        state = follower.follow()
    except KeyboardInterrupt:
        lines.end()
        console.print(f"\nthe job goes on:\n{ways_on(job_id, address)}", markup=False, highlight=False)
        return STOPPED_CODE
    lines.end()
    console.print(ending(state), markup=False, highlight=False)
    return state.exit_code


def _is_elsewhere(jobs: Jobs) -> bool:
    """Whether a node is on a machine of another name, which then does not have this one's files; not where the dashboard does not say."""
    try:
        return bool(jobs.host_names() - {socket.gethostname()})
    except ClusterError:
        return False


def ways_on(job_id: str, address: str | None) -> str:
    """The three commands for a job that goes on."""
    where = f" --address {address}" if address else ""
    return "\n".join(f"  raytrain job {command}{where}" for command in (f"status {job_id}", f"logs {job_id} --follow", f"stop {job_id}"))


class _Lines:
    """Whole lines of a log, without what must not be shown: a value may lie across two pieces."""

    def __init__(self, console: Console, secrets: tuple[str, ...]) -> None:
        self._console, self._secrets, self._rest = console, secrets, ""

    def show(self, piece: str) -> None:
        whole, newline, self._rest = (self._rest + piece).rpartition("\n")
        if newline:
            self._console.out(hidden(whole, self._secrets), highlight=False)

    def end(self) -> None:
        if self._rest:
            self._console.out(hidden(self._rest, self._secrets), highlight=False)
            self._rest = ""


def _tell(console: Console, job_id: str, text: str) -> None:
    console.print(f"[{time.strftime('%H:%M:%S')}] {job_id} {text}", style="dim", markup=False, highlight=False)


def _job_id(request: Request, name: str | None) -> str:
    """Made here, so that a lost answer does not lose the job."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(request.subject).stem).strip("-")[:40]
    name = name or "-".join(part for part in (request.command, stem) if part)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "--name has to be at most 60 letters, digits, dots, dashes and underscores. "
            f"Received: --name {name}. Write for example --name nightly."
        )
    return f"{name}-{time.strftime('%m%d-%H%M%S')}-{secrets.token_hex(2)}"
