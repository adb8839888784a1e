"""The paths in a command of several runs, whose config is no job's: a roll, a sweep, a study, and what prepares data."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raytrain.config import read_text
from raytrain.settings import flat_keys, parse_yaml, with_overrides

OUTPUTS = {"sweep": ("work_dir", "runs/sweeps"), "study": ("work_dir", "runs/studies"), "roll": ("output", "runs/rolls")}
"""Where commands of several runs write: the key, and the directory that theirs is in where they do not say."""
DEFAULT_PRESET = "quick"


def is_written(key: str) -> bool:
    """Whether a job writes to the path of dotted ``key``, which it otherwise reads."""
    return key.rpartition(".")[2] in ("storage_path", "output", "work_dir")


def base_of(config: str) -> Path | None:
    """The file beside ``config`` that it builds on; None where it holds its base itself."""
    base = parse_yaml(read_text(config), config).get("base")
    return Path(config).parent / base if isinstance(base, str) and "://" not in base else None


def paths_of(command: str, config: str, arguments: Sequence[str], overrides: Sequence[str]) -> dict[str, str]:
    """Dotted keys that hold paths, and those paths: what is read, by the base, by ``config`` or an override of it, and where the command
    writes.

    Args:
        arguments: of the command line, its options among them.

    Raises:
        ConfigError: a file is missing or no YAML.
    """
    base, values = base_of(config), with_overrides(parse_yaml(read_text(config), config), overrides)
    paths = {}
    if base is not None:
        of_all = values.get("overrides") or ()
        paths = _read_paths(with_overrides(parse_yaml(read_text(base), str(base)), of_all))
    paths |= _read_paths(values)
    if command in OUTPUTS:
        key, default = OUTPUTS[command]
        paths[key] = str(values.get(key) or f"{default}/{values.get('name')}")
    elif "output" in values:
        paths["output"] = str(values["output"])
    if command == "study":
        preset = _preset_of(arguments)
        output = values.get("presets", {}).get(preset, {}).get("output")
        if output:
            paths[f"presets.{preset}.output"] = str(output)
    return paths


def _preset_of(arguments: Sequence[str]) -> str:
    for argument, following in zip(arguments, (*arguments[1:], ""), strict=True):
        if argument == "--preset":
            return following
        if argument.startswith("--preset="):
            return argument.partition("=")[2]
    return DEFAULT_PRESET


def _read_paths(values: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in flat_keys(values).items() if isinstance(value, str) and key.rpartition(".")[2] == "path"}
