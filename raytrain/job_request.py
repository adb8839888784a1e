"""A command line that is for a cluster, looked at before anybody waits there for a typing error."""

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raytrain.errors import ConfigError
from raytrain.settings import nearest
from raytrain.storage import has_credentials

if TYPE_CHECKING:
    from cluster.submission import Request


def request_of(root: Any, arguments: Sequence[str], before: str) -> "Request":
    """A command line as its own command understands it.

    Args:
        root: the click group of raytrain's commands.
        before: what stands before the command, for messages.

    Raises:
        ConfigError: no command of raytrain; click's own error where an option or an argument is not right.
    """
    from cluster.submission import Request

    command, *rest = arguments
    if "=" in command:
        raise ConfigError(
            f"A job begins with a command of raytrain. Received: {command}. Write `{before} train CONFIG {command}`; a key of a cluster "
            f"is set by `--set {command}`, before the dashes."
        )
    if command not in root.commands:
        raise ConfigError(f"A job is a command of raytrain. Received: {command}. {nearest(command, root.commands)}")
    params = root.commands[command].make_context(f"{before} {command}", list(rest)).params
    paths = [(name, path) for name, key in (("--output", "output"), ("--input", "data")) if (path := params.get(key))]
    paths += [("--baseline", path) for path in params.get("baseline") or ()]
    days = (day_of(params.get("first")), day_of(params.get("last")))
    subject = params.get("config") or params.get("run") or ""
    return Request(
        command,
        tuple(rest),
        subject,
        tuple(params.get("overrides") or ()),
        tuple(paths),
        params.get("preset") or "",
        tuple(params.get("arm") or ()),
        days,
    )


def day_of(moment: datetime | None) -> date | None:
    """A date of the command line, which click reads as a time."""
    return None if moment is None else moment.date()


def check_config(request: "Request") -> None:
    """Checks the keys of a config that lies here as its command would, but for what only the data can tell, which may be out of reach.

    Raises:
        ConfigError: its command would refuse it.
    """
    from cluster.secrets import secrets_in_command

    path, overrides = request.subject, request.overrides
    if any(map(has_credentials, request.arguments)) or any(secrets_in_command(request.arguments)):
        # What refuses them does not repeat them.
        return
    if not Path(path).is_file():
        # Of the cluster's own file system, or missing: that is said elsewhere.
        return
    if request.command == "prepare":
        from pipelines.prepare import load_prepare_config

        load_prepare_config(path, overrides)
    elif request.command == "roll":
        from pipelines.roll_config import REFERENCE, checked_days, chosen_arms, load_roll

        rolls = load_roll(path, overrides)
        chosen_arms(rolls, request.arms)
        checked_days(rolls[REFERENCE].calendar, *request.days)
    elif request.command == "sweep":
        from tuning.load import read_sweep

        read_sweep(path, overrides)
    elif request.command == "study":
        from pipelines.study_of_rolls_plan import is_study_of_rolls, plan_study_of_rolls
        from pipelines.study_plan import check_study

        check = plan_study_of_rolls if is_study_of_rolls(path) else check_study
        check(path, request.preset, overrides)
