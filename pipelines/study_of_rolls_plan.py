"""The file of a study of rolls, and the rolls that it makes of it. Torch-free."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, NonNegativeInt

from pipelines.roll_config import chosen_arms, load_roll
from pipelines.study_plan import Name
from raytrain.config import check_kind, read_text
from raytrain.errors import ConfigError
from raytrain.settings import Section, nearest, parse_yaml, with_overrides
from raytrain.storage import joined

if TYPE_CHECKING:
    from pipelines.prepare import PrepareConfig

PlannedCase = tuple[str, tuple[str, ...], "PrepareConfig | None"]
"""(the roll's file, its overrides, what is prepared for it)"""


class RollCase(Section):
    """A roll on one data set."""

    roll: str
    """Its file, seen from the study file."""
    overrides: tuple[str, ...] = ()
    """Of the roll."""
    arms: tuple[str, ...] = ()
    """Of the roll, beside the chain itself; none takes all of them."""
    prepare: str | None = None
    """A prepare config, seen from the study file; null rolls on the data set that the roll names."""
    recipe: tuple[str, ...] = ()
    """Overrides of the prepare config. Cases with the same ones share a data set."""


class RollPreset(Section):
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    overrides: tuple[str, ...] = ()
    """Of every roll, set before a case's own."""
    output: str | None = None
    """Directory of result.json, result.md and result.html; null puts them beside the rolls."""


class StudyOfRolls(Section):
    """The file."""

    name: Name
    presets: dict[Name, RollPreset] = Field(min_length=1)
    rolls: dict[Name, RollCase] = Field(min_length=1)
    work_dir: str | None = None
    """Where data sets and rolls go, on any file system; null: runs/studies/<name>."""

    @property
    def directory(self) -> str:
        return self.work_dir or f"runs/studies/{self.name}"


def is_study_of_rolls(path: str) -> bool:
    """Whether a study's file names rolls."""
    return "rolls" in parse_yaml(read_text(path), path)


def plan_study_of_rolls(path: str, preset: str, overrides: Sequence[str] = ()) -> tuple[StudyOfRolls, dict[str, PlannedCase]]:
    """The study, and its cases by name, without a look at any data or at the storage that they will be in.

    Raises:
        ConfigError: the study, a prepare config or the roll of any case is not right.
    """
    study, of_rolls = _load(path, overrides)
    if preset not in study.presets:
        raise ConfigError(f"--preset has to be one of the study's. Received: {preset}. {nearest(preset, study.presets)}")
    chosen, beside = study.presets[preset], Path(path).parent
    return study, {name: _planned(case, name, chosen, of_rolls, study.directory, beside) for name, case in study.rolls.items()}


def _load(path: str, overrides: Sequence[str]) -> tuple[StudyOfRolls, tuple[str, ...]]:
    """The study as its own overrides make it, and the overrides of its rolls."""
    values = parse_yaml(read_text(path), path)
    check_kind(values, path, "rolls")
    own = [one for one in overrides if one.partition("=")[0].strip().split(".")[0] in StudyOfRolls.model_fields]
    for key in (one.partition("=")[0].strip() for one in own):
        section, *rest = key.split(".")
        there = values.get(section)
        if len(rest) > 1 and isinstance(there, Mapping) and rest[0] not in there:
            raise ConfigError(f"{path}: {section} has to have {rest[0]}. Received: {key}. {nearest(rest[0], there)}")
    return StudyOfRolls.parse(with_overrides(values, own), path), tuple(one for one in overrides if one not in own)


def _planned(case: RollCase, name: str, preset: RollPreset, overrides: Sequence[str], directory: str, beside: Path) -> PlannedCase:
    """A case, once its roll and what is prepared for it have been checked.

    Raises:
        ConfigError: one is not right.
    """
    file = str(beside / case.roll)
    own = [f"name={name}", f"seeds={list(preset.seeds)}", f"output={joined(directory, f'rolls/{name}')}"]
    data = None
    if case.prepare is not None:
        # Named by what is in it: cases share it, and one that changes leaves the old one alone.
        digest = hashlib.sha256(json.dumps([read_text(beside / case.prepare), case.recipe]).encode()).hexdigest()[:8]
        from pipelines.prepare import load_prepare_config

        output = joined(directory, f"data/{Path(case.prepare).stem.removeprefix('prepare_')}-{digest}")
        data = load_prepare_config(beside / case.prepare, (*case.recipe, f"output={output}"))
        own.append(f"base.data.path={output}")
    set_here = {one.partition("=")[0] for one in own} | {"base.seed"}
    taken = [one for one in overrides if one.partition("=")[0].strip() in set_here]
    if taken:
        raise ConfigError(
            f"A study of rolls sets {', '.join(sorted(set_here))} itself. Received: {taken[0]}. Set presets, rolls, or work_dir."
        )
    chained = (*preset.overrides, *case.overrides, *overrides, *own)
    chosen_arms(load_roll(file, chained), case.arms)
    return file, chained, data
