"""The command that a RayJob runs: checked here, where its author is, and not after the pods have come."""

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from cluster.config import ClusterConfig
from cluster.job_files import MOUNT, files_of
from cluster.job_paths import is_written, paths_of, read_paths
from cluster.replicas import Replicas, one_pod, replicas_for, short_of, smallest
from cluster.secrets import secrets_in_command
from cluster.submission import OF_A_RUN, Request
from raytrain.config import JobConfig, load_config
from raytrain.errors import ConfigError
from raytrain.models.declared import DECLARED
from raytrain.settings import nearest, with_overrides

COMMANDS = ("prepare", "train", "evaluate", "predict", "roll", "sweep", "study", "doctor", "bench")
"""What makes sense on a cluster."""


@dataclass(frozen=True)
class JobCommand:
    """A raytrain command with its words, and the pods that it starts with."""

    words: tuple[str, ...]
    """Of the command line, "raytrain" first."""
    replicas: Replicas
    entrypoint_cpus: int = 0
    """Of what computes in the driver's own process; 0 leaves the driver on the head."""
    warning: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """Path below MOUNT -> what stands in it: the config and what it builds on."""


def job_command(config: ClusterConfig, request: Request) -> JobCommand:
    """Checks what can be known of a command: its paths, and of `train` the keys of its config and what it needs of CPUs and GPUs.

    Raises:
        ConfigError: no command for a cluster, a secret in it, or a path that pods cannot reach.
        ResourceError: the job does not fit the groups at their largest.
    """
    found = list(secrets_in_command((request.command, *request.arguments)))
    if found:
        raise ConfigError(
            f"Secrets must not stand in a job's command, which is shown and kept. Received: {', '.join(found)}. "
            "Put them into a Kubernetes secret and name it in storage.env_from_secrets."
        )
    if request.command not in COMMANDS:
        raise ConfigError(f"A job is a command for a cluster. Received: {request.command}. {nearest(request.command, COMMANDS)}")
    line, files = _carried(request)
    job = load_config(request.subject, request.overrides) if request.command == "train" else None
    _check_paths(config, request, job)
    if request.command == "prepare":
        return JobCommand(line, one_pod(config), 1, files=files)
    if job is None:
        unknown = (
            f"What `{request.command}` needs is not known here: it starts with the groups' min, and a run in it that needs more is refused."
        )
        return JobCommand(line, smallest(config), warning=unknown, files=files)
    if config.job.backoff_limit and job.run.name is not None and "--resume" not in request.arguments:
        raise ConfigError(
            "A run's name is used once, so a retry of this command would be refused on a new cluster. "
            f"Received: job.backoff_limit={config.job.backoff_limit}, run.name={job.run.name}. "
            "Set job.backoff_limit=0 (a run survives its workers by itself), or leave run.name out."
        )
    if job.model.name not in DECLARED or job.scaling.in_process:
        return JobCommand(line, one_pod(config), 1, files=files)
    return JobCommand(line, replicas_for(config, job), warning=short_of(config, job), files=files)


def _carried(request: Request) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command line as pods run it, and the files that go along; a URI and an absolute path are theirs to read."""
    path, arguments = _config_of(request), request.arguments
    files: dict[str, str] = {}
    if path is not None and not path.startswith("/") and "://" not in path:
        files = files_of(request.command, path, request.overrides)
        mounted = f"{MOUNT}/{next(iter(files))}"
        arguments = tuple(mounted if argument == path else argument for argument in arguments)
    return ("raytrain", request.command, *arguments), files


def _config_of(request: Request) -> str | None:
    """null where a command takes a run instead, or is `doctor` of the machine alone."""
    return None if request.command in OF_A_RUN else request.subject or None


def _check_paths(config: ClusterConfig, request: Request, job: JobConfig | None) -> None:
    """A pod's own disk is seen by no other pod, and gone with it."""
    path = _config_of(request)
    if path is not None and path.startswith("/"):
        _check_shared(config, "CONFIG", path, False, "Name it by a relative path, and it goes along")
    for key, value in _paths_of(request, job):
        _check_shared(config, key, value, is_written(key), f"Set {key} to s3://... or gs://...")


def _paths_of(request: Request, job: JobConfig | None) -> Iterator[tuple[str, str]]:
    """What a command reads and where it writes: keys of its config, options, or the run it takes."""
    if request.command == "doctor":
        # It says itself what it cannot reach.
        return
    if request.command != "bench":
        # bench's --output takes no URI, and the log has what it measured.
        yield from request.paths
    if request.command in OF_A_RUN:
        yield "RUN", request.subject
        yield from read_paths(with_overrides({}, request.overrides))
    elif job is None:
        yield from paths_of(request.command, request.subject, request.preset, request.overrides)
    else:
        yield from (("data.path", job.data.path), ("run.storage_path", job.run.storage_path))
        if job.start.run is not None:
            yield "start.run", job.start.run
        yield from ((f"start.snapshots[{index}]", run) for index, run in enumerate(job.start.snapshots))


def _check_shared(config: ClusterConfig, key: str, path: str, written: bool, fix: str) -> None:
    if "://" in path and not path.startswith("file://"):
        return
    local = posixpath.normpath(path.removeprefix("file://"))
    claims = [claim for claim in config.storage.claims if local == claim.path or local.startswith(f"{claim.path}/")]
    if not claims:
        mounted = ", ".join(claim.path for claim in config.storage.claims) or "none"
        raise ConfigError(
            f"{key} has to be where every pod reaches it: an object store, or below the path of a claim. "
            f"Received: {key}={path}, claims at {mounted}. {fix}, or below a claim of storage.claims."
        )
    if written and all(claim.read_only for claim in claims):
        raise ConfigError(
            f"{key} has to be on a claim that can be written. Received: {key}={path}, on {claims[0].name}, read_only=true. {fix}."
        )
