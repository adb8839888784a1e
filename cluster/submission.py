"""What a job on a cluster runs, checked before anything is sent: the command, its files, its paths, the variables it is given."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from cluster.job_paths import base_of, is_written, paths_of
from cluster.packing import Package
from raytrain.config import load_config
from raytrain.errors import ConfigError
from raytrain.storage import has_credentials

OF_A_CONFIG = ("train", "roll", "sweep", "study", "prepare")
OF_A_RUN = ("evaluate", "predict")
COMMANDS = OF_A_CONFIG + OF_A_RUN
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Request:
    """A command line of raytrain, as it would be typed on this machine."""

    command: str
    arguments: tuple[str, ...]
    """What follows the command."""
    subject: str
    """CONFIG or RUN."""
    overrides: tuple[str, ...] = ()
    paths: tuple[tuple[str, str], ...] = ()
    """(option, the path it holds), beside the subject."""
    preset: str = ""
    """Of a study; empty of any other command."""
    arms: tuple[str, ...] = ()
    days: tuple[date | None, date | None] = (None, None)
    """Arms of a roll, and the first and the last day it serves, where they are given."""


@dataclass(frozen=True)
class Submission:
    """What goes to the cluster."""

    arguments: tuple[str, ...]
    """Command and arguments; paths are those of the job's own directory."""
    added: tuple[str, ...] = ()
    """Overrides that the cluster needs and nobody typed."""
    warnings: tuple[str, ...] = ()

    @property
    def entrypoint(self) -> str:
        """One line for the shell that Ray starts.

        As a module, since the job's directory leads the path then: the tree's raytrain where it has one, else the cluster's.
        """
        return shlex.join(("python", "-m", "raytrain", *self.arguments, *self.added))


def prepare_submission(request: Request, package: Package, is_local: bool) -> Submission:
    """Checks what would fail on the cluster, or be lost there.

    Args:
        is_local: the cluster is this machine alone, so an absolute path means the same there.

    Raises:
        ConfigError: another command, a config that is not packed, credentials in an argument, a path that no job could read.
    """
    check_command(request.command)
    _refuse_credentials(request.arguments)
    arguments = request.arguments
    added: list[str] = []
    warnings: list[str] = []
    for name, path in request.paths:
        _check_reach(name, path, is_local, warnings)
    if request.command in OF_A_RUN:
        _check_reach("RUN", request.subject, is_local, warnings)
    elif "://" not in request.subject:
        packed = _packed_name(request.subject, package)
        arguments = tuple(packed if argument == request.subject else argument for argument in arguments)
        for key, path in _paths_of(request, package):
            _judge(request.command, key, path, package, is_local, added, warnings)
    return Submission((request.command, *arguments), tuple(added), tuple(warnings))


def check_command(command: str) -> None:
    """Raises ConfigError for a command that is not for a cluster."""
    if command not in COMMANDS:
        raise ConfigError(
            f"A cluster runs one of {', '.join(COMMANDS)}. Received: {command}. Run `raytrain {command}` on this machine, "
            "or write `raytrain submit -- train CONFIG`."
        )


def variables_of(names: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """The named variables and their values.

    Raises:
        ConfigError: a name with a value behind it, which is not repeated, or a variable that is not set.
    """
    for name in names:
        if "=" in name:
            raise ConfigError(
                "--env takes the name of a variable, since values on a command line are kept by shells and process lists. "
                f"Received: --env {name.partition('=')[0]}=... with a value. Set the variable and pass its name alone."
            )
        if not _VARIABLE.fullmatch(name) or name not in environment:
            raise ConfigError(f"--env takes a variable that is set here. Received: --env {name}. Set {name}, or leave the option out.")
    return {name: environment[name] for name in names}


def is_local_address(address: str) -> bool:
    """Whether the dashboard's address is on this machine; behind it may be a tunnel, and nodes elsewhere."""
    return address == "auto" or urlsplit(address if "://" in address else f"//{address}").hostname in ("127.0.0.1", "localhost", "::1")


def _refuse_credentials(arguments: Sequence[str]) -> None:
    for argument in arguments:
        if has_credentials(argument):
            key, equals, _ = argument.partition("=")
            shown = f"{key}=..." if equals and not has_credentials(key) else "a URI"
            raise ConfigError(
                "Credentials must not stand in an argument: Ray keeps a job's command and shows it on the dashboard. "
                f"Received: {shown} with a user, a key or a token. Leave them out of the URI and pass the variables by --env NAME."
            )


def _packed_name(config: str, package: Package) -> str:
    """The config's path in the job's directory."""
    path = Path(config).expanduser()
    if not path.is_file():
        raise ConfigError(f"A config file has to be there. Received: {config}. Check the path.")
    resolved, root = path.resolve(), package.root.resolve()
    if not resolved.is_relative_to(root):
        raise ConfigError(
            "A config goes along with the job in the working tree, so it has to be in it. "
            f"Received: {config}, which is outside {root}. Copy it into the tree, or submit from the directory that has it."
        )
    name = resolved.relative_to(root).as_posix()
    if not package.holds(name):
        raise ConfigError(
            "A config goes along with the job, so git must not ignore it and it must not be under data/ or runs/. "
            f"Received: {config}. Copy it to another place in the tree."
        )
    return name


def _paths_of(request: Request, package: Package) -> Iterator[tuple[str, str]]:
    """Dotted keys of the job that hold paths, and those paths. A train config is checked against its schema on the way."""
    if request.command == "train":
        job = load_config(request.subject, request.overrides)
        yield from (("data.path", job.data.path), ("run.storage_path", job.run.storage_path))
        if job.start.run:
            yield "start.run", job.start.run
        yield from ((f"start.snapshots[{index}]", run) for index, run in enumerate(job.start.snapshots))
        return
    base = base_of(request.subject, request.overrides)
    if base is not None:
        _packed_name(str(base), package)
    yield from paths_of(request.command, request.subject, request.preset, request.overrides)


def _judge(command: str, key: str, path: str, package: Package, is_local: bool, added: list[str], warnings: list[str]) -> None:
    """What becomes of one path of a config on the cluster."""
    if has_credentials(path):
        raise ConfigError(f"Credentials must not stand in a path. Received: {key}. Leave them out and pass the variables by --env NAME.")
    if _is_anywhere(path) or _is_absolute(path):
        _check_reach(key, path, is_local, warnings)
        return
    is_output = is_written(key)
    if not is_output and package.holds(path):
        return
    fate = "is deleted with the job's own directory" if is_output else "is not packed, so it is not in the job's own directory"
    wanted = f"{key}={json.dumps(str(package.root / path))}"
    if is_local and "[" not in key and (command == "train" or is_output):
        added.append(wanted)
    elif command == "train" or is_output:
        raise ConfigError(
            f"{key} has to be a path that the cluster's nodes share. Received: {key}={path}, which {fate}. "
            f"Set {key} to a URI (s3://, gs://, hdfs://) or to an absolute path that every node mounts."
        )
    else:
        warnings.append(f"{key}={path} {fate}: write a URI, or an absolute path that every node mounts")


def _check_reach(name: str, path: str, is_local: bool, warnings: list[str]) -> None:
    """Of a path that has to mean the same on this machine and on every node."""
    if _is_anywhere(path):
        return
    if not _is_absolute(path):
        raise ConfigError(
            f"{name} has to be found from the job's own directory on the cluster. Received: {path}, which is relative and not packed. "
            "Write a URI (s3://, gs://, hdfs://) or an absolute path that every node mounts."
        )
    if not is_local:
        warnings.append(f"{name}={path} is a local path: every node has to mount it")


def _is_anywhere(path: str) -> bool:
    return "://" in path and not path.startswith("file://")


def _is_absolute(path: str) -> bool:
    return path.startswith("file://") or Path(path).expanduser().is_absolute()
