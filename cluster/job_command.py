"""The command that a RayJob runs: checked here, where its author is, and not after the pods have come."""

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.config import ClusterConfig
from cluster.job_files import MOUNT, files_of
from cluster.job_paths import OUTPUTS, is_written, paths_of
from cluster.replicas import Replicas, one_pod, replicas_for, short_of, smallest
from cluster.secrets import secrets_in_command
from raytrain.config import JobConfig, load_config
from raytrain.errors import ConfigError
from raytrain.models.declared import DECLARED
from raytrain.settings import nearest

WITH_VALUE = ("--baseline", "--preset", "--from", "--to", "--arm")
"""Options that take a value, of train, study and roll."""
COMMANDS = ("prepare", "train", "evaluate", "predict", "roll", "sweep", "study", "doctor", "bench")
"""What makes sense on a cluster."""
OF_A_RUN = ("evaluate", "predict")
"""Those that take the directory of a run instead of a config."""


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


def job_command(config: ClusterConfig, words: Sequence[str]) -> JobCommand:
    """Checks what can be known of a command. Of `train` that is its config: keys, paths and what it needs of CPUs and GPUs.

    Args:
        words: without "raytrain": ["train", "pipelines/configs/movielens_din.yaml", "training.epochs=2"].

    Raises:
        ConfigError: no such command, a secret in it, or a path that pods cannot reach.
        ResourceError: the job does not fit the groups at their largest.
    """
    found = list(secrets_in_command(words))
    if found:
        raise ConfigError(
            f"Secrets must not stand in a job's command, which is shown and kept. Received: {', '.join(found)}. "
            "Put them into a Kubernetes secret and name it in storage.env_from_secrets."
        )
    if words[0] not in COMMANDS:
        raise ConfigError(f"A job is a command of raytrain. Received: {words[0]}. {nearest(words[0], COMMANDS)}")
    line, files = _carried(words)
    if words[0] == "prepare":
        return JobCommand(line, one_pod(config), 1, files=files)
    if words[0] in OUTPUTS:
        _check_paths_of_many(config, words)
    if words[0] != "train":
        unknown = f"What `{words[0]}` needs is not known here: it starts with the groups' min, and a run in it that needs more is refused."
        return JobCommand(line, smallest(config), warning=unknown, files=files)
    path, overrides = _config_of(words[1:])
    job = load_config(path, overrides)
    _check_paths(config, path, job)
    if config.job.backoff_limit and job.run.name is not None and "--resume" not in words:
        raise ConfigError(
            "A run's name is used once, so a retry of this command would be refused on a new cluster. "
            f"Received: job.backoff_limit={config.job.backoff_limit}, run.name={job.run.name}. "
            "Set job.backoff_limit=0 (a run survives its workers by itself), or leave run.name out."
        )
    if job.model.name not in DECLARED or job.scaling.in_process:
        return JobCommand(line, one_pod(config), 1, files=files)
    return JobCommand(line, replicas_for(config, job), warning=short_of(config, job), files=files)


def _carried(words: Sequence[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """The command line as pods run it, and the files that go along; a URI and an absolute path are theirs to read."""
    path, overrides = _config_of(words[1:]) if words[0] not in OF_A_RUN else ("/", ())
    if path.startswith("/") or "://" in path:
        return ("raytrain", *words), {}
    files = files_of(words[0], path, overrides)
    place = words.index(path, 1)
    return ("raytrain", *words[:place], f"{MOUNT}/{next(iter(files))}", *words[place + 1 :]), files


def _config_of(words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The config and the overrides among the words after the command; of its options some take a value, --resume does not."""
    plain: list[str] = []
    takes_value = False
    for word in words:
        if takes_value or word.startswith("--"):
            takes_value = word in WITH_VALUE
        else:
            plain.append(word)
    if not plain:
        raise ConfigError("A job takes a config. Received: none. Write -- train CONFIG key=value ...")
    return plain[0], tuple(plain[1:])


def _check_paths(config: ClusterConfig, path: str, job: JobConfig) -> None:
    """A pod's own disk is seen by no other pod, and gone with it."""
    if path.startswith("/"):
        _check_shared(config, "CONFIG", path, False, "Name it by a relative path, and it goes along")
    for key, value, written in (("data.path", job.data.path, False), ("run.storage_path", job.run.storage_path, True)):
        _check_shared(config, key, value, written, f"Set {key} to s3://... or gs://...")


def _check_paths_of_many(config: ClusterConfig, words: Sequence[str]) -> None:
    """Of a roll, a sweep or a study: what it reads, and where it keeps its runs."""
    path, overrides = _config_of(words[1:])
    if path.startswith("/"):
        _check_shared(config, "CONFIG", path, False, "Name it by a relative path, and it goes along")
    for key, value in paths_of(words[0], path, words[1:], overrides):
        _check_shared(config, key, value, is_written(key), f"Set {key} to s3://... or gs://...")


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
