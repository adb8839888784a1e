"""What a preflight finds, as values: they print as a table, as JSON, and decide the exit code."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table

from raytrain.errors import RaytrainError

Status = Literal["ok", "warn", "fail"]
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    found: str
    fix: str = ""
    """What to do about it; "" where nothing has to be done."""


@dataclass(frozen=True)
class Part:
    """Checks that finish together, so that the quick ones are on the screen first."""

    title: str
    checks: tuple[Check, ...]


def has_failed(parts: Iterable[Part]) -> bool:
    """Whether a run would not work; warnings alone are no reason not to try."""
    return any(check.status == "fail" for part in parts for check in part.checks)


def attempt(name: str, run: Callable[[], Check], status: Status = "fail") -> Check:
    """The check, or the error of ours that it ended in."""
    try:
        return run()
    except RaytrainError as err:
        return from_error(name, str(err), status)


def from_error(name: str, message: str, status: Status = "fail") -> Check:
    """Splits "<what is required>. Received: <what>. <what to change>." where the last sentence begins."""
    *found, fix = re.split(r"(?<=[.?)])\s+(?=[A-Z])", message.strip())
    return Check(name, status, " ".join(found), fix) if found else Check(name, status, fix)


def table_of(part: Part) -> Table:
    """One row a check; the last column is left out where there is nothing to do."""
    has_fixes = any(check.fix for check in part.checks)
    table = Table(title=part.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("check", no_wrap=True)
    table.add_column("")
    table.add_column("found", overflow="fold", ratio=3)
    if has_fixes:
        table.add_column("what to do", overflow="fold", ratio=2)
    for check in part.checks:
        style = _STYLES[check.status]
        cells = [_plain(check.name), f"[{style}]{check.status}[/{style}]", _plain(check.found)]
        table.add_row(*cells, *([_plain(check.fix)] if has_fixes else []))
    return table


def json_of(parts: Sequence[Part]) -> dict[str, Any]:
    """{"failed": whether a run would not work, "checks": [{"part", "name", "status", "found", "fix"}]}."""
    checks = [{"part": part.title, **asdict(check)} for part in parts for check in part.checks]
    return {"failed": has_failed(parts), "checks": checks}


def _plain(text: str) -> str:
    """Brackets of ids and pip extras are no markup."""
    return text.replace("[", r"\[")
