"""The paths in a command of several runs, whose config is no job's: a roll, a sweep, a study, and what prepares data."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raytrain.config import JobConfig, read_text
from raytrain.settings import flat_keys, parse_yaml, with_overrides

OUTPUTS = {"sweep": ("work_dir", "runs/sweeps"), "study": ("work_dir", "runs/studies"), "roll": ("output", "runs/rolls")}
"""Where commands of several runs write: the key, and the directory that theirs is in where they do not say."""

Pairs = Iterator[tuple[str, str]]


def is_written(key: str) -> bool:
    """Whether a job writes to the path of dotted ``key``, or of an option, which it otherwise reads."""
    return key.removeprefix("--").rpartition(".")[2] in ("storage_path", "output", "work_dir")


def base_of(config: str, overrides: Sequence[str] = ()) -> Path | None:
    """The file beside ``config`` that it builds on; None where it holds its base itself."""
    base = with_overrides(parse_yaml(read_text(config), config), [one for one in overrides if _key(one) == "base"]).get("base")
    return Path(config).parent / base if isinstance(base, str) and "://" not in base else None


def paths_of(command: str, config: str, preset: str, overrides: Sequence[str]) -> Pairs:
    """Dotted keys that hold paths, and those paths: what the runs read, then where the command writes.

    Args:
        preset: of a study.

    Raises:
        ConfigError: a file is missing or no YAML.
    """
    of_base = [one for one in overrides if command in ("sweep", "study") and _is_of_base(_key(one))]
    values = with_overrides(parse_yaml(read_text(config), config), [one for one in overrides if one not in of_base])
    if "rolls" in values and command == "study":
        yield from _of_rolls(config, values, preset, overrides)
    elif command in ("sweep", "study"):
        yield from _of_runs(command, config, values, preset, of_base)
    else:
        yield from read_paths(values)
    if command in OUTPUTS:
        key, default = OUTPUTS[command]
        yield key, str(values.get(key) or f"{default}/{values.get('name')}")
    elif values.get("output"):
        yield "output", str(values["output"])
    output = _section(_section(values, "presets"), preset).get("output") if command == "study" else None
    if output:
        yield f"presets.{preset}.output", str(output)


def read_paths(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Dotted keys of a config that hold what is read, and those paths."""
    return [(key, value) for key, value in flat_keys(values).items() if isinstance(value, str) and _is_path(key)]


def _of_runs(command: str, config: str, values: Mapping[str, Any], preset: str, overrides: Sequence[str]) -> Pairs:
    """What the trials or cells read: the base as everything changes it, and what single ones put in its place."""
    file = base_of(config, [f"base={values['base']}"] if isinstance(values.get("base"), str) else ())
    base = parse_yaml(read_text(file), str(file)) if file is not None else _section(values, "base")
    of_all = (
        _strings(values.get("overrides"))
        if command == "sweep"
        else _strings(_section(_section(values, "presets"), preset).get("overrides"))
    )
    paths = read_paths(with_overrides(base, [*of_all, *overrides]))
    varied = {key: points for key, points in _section(values, "grid").items() if _is_path(key)}
    # Every point of a grid replaces what the base says.
    yield from ((key, path) for key, path in paths if key not in varied)
    yield from ((key, path) for key, points in varied.items() for path in _strings(points))
    for arm in _section(values, "arms").values():
        lists = [arm.get("overrides"), *(arm.get("trials") or ())] if isinstance(arm, Mapping) else []
        # One by one: each trial has its own.
        yield from (path for each in lists for one in _strings(each) for path in read_paths(with_overrides({}, [one])))


def _of_rolls(config: str, values: Mapping[str, Any], preset: str, overrides: Sequence[str]) -> Pairs:
    """What the cases of a study of rolls read: what their data sets are prepared from, else the data set that a roll names."""
    of_all = _strings(_section(_section(values, "presets"), preset).get("overrides"))
    for name, case in _section(values, "rolls").items():
        if not isinstance(case, Mapping):
            continue
        is_prepared = bool(case.get("prepare"))
        file = Path(config).parent / str(case.get("prepare" if is_prepared else "roll"))
        of_rolls = [*of_all, *_strings(case.get("overrides")), *(one for one in overrides if _is_of_base(_key(one)))]
        changes = _strings(case.get("recipe")) if is_prepared else of_rolls
        # A roll's data set is named by an override of all rolls, a recipe's source in its case.
        place = f"rolls.{name}.recipe: " if is_prepared else ""
        paths = read_paths(with_overrides(parse_yaml(read_text(file), str(file)), changes))
        yield from ((f"{place}{key}", path) for key, path in paths)


def _is_of_base(key: str) -> bool:
    """Whether an override changes the runs, not the sweep or the study; "base." is of a sweep's roll."""
    return key.startswith("base.") or key.split(".")[0] in JobConfig.model_fields


def _is_path(key: str) -> bool:
    return key.rpartition(".")[2] == "path" or key in ("recipe.source", "start.run")


def _key(override: str) -> str:
    return override.partition("=")[0].strip()


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """{} where there is none: what is wrong with a file is for its command to say."""
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}


def _strings(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list | tuple) else []
