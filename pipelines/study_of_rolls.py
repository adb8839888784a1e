"""`raytrain study STUDY.yaml` whose file has ``rolls``: chains of models on data sets that are prepared for them, over the same seeds.

    raytrain study pipelines/studies/ecdctr.yaml --preset full

A case is a roll with its arms on one data set; cases differ by what is planted in it, or by the roll. The same command resumes: a data
set that is whole is kept, a stage that is finished is not run twice, a case that failed is tried again.
"""

import hashlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt
from rich.console import Console

from pipelines.prepare import PrepareConfig, load_prepare_config, prepare
from pipelines.roll import chosen_arms, run_roll
from pipelines.roll_config import REFERENCE, load_roll
from pipelines.study_of_rolls_report import write_report
from pipelines.study_plan import Name
from raytrain.config import check_kind, read_text
from raytrain.data.contract import CONTRACT_FILE
from raytrain.errors import ConfigError, RaytrainError
from raytrain.settings import Section, nearest, parse_yaml, with_overrides
from raytrain.storage import Storage, masked

RunRoll = Callable[[str, Sequence[str], Console, Sequence[str]], Mapping[str, Any]]
"""(file, overrides, console, arms) -> what roll.json holds"""


_Planned = tuple[str, tuple[str, ...], PrepareConfig | None]


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


def run_study_of_rolls(path: str, preset: str, overrides: Sequence[str], console: Console, run: RunRoll | None = None) -> dict[str, Any]:
    """Prepares what is missing, rolls every case, and writes result.json, result.md and result.html.

    Args:
        overrides: a key of the study (``rolls.questions.arms=[mean]``) changes the study, any other (``calendar.cpm=null``) every roll.
        run: rolls one case; ``pipelines.roll.run_roll`` when None.

    Returns:
        The content of result.json; cases that failed, or have stages that did, are listed under ``failed``.

    Raises:
        ConfigError: the study, a prepare config or the roll of any case is not right; nothing has been run then.
    """
    study, planned = _checked(path, preset, overrides)
    chosen, storage = study.presets[preset], Storage(study.directory)
    result: dict[str, Any] = {
        "name": study.name,
        "preset": preset,
        "command": masked(shlex.join(["raytrain", "study", path, "--preset", preset, *overrides])),
        "seeds": list(chosen.seeds),
        "cases": {},
        "failed": [],
    }
    for number, (name, (file, roll_overrides, data)) in enumerate(planned.items(), 1):
        console.print(f"[bold]case {number} of {len(planned)}: {name}[/bold]", highlight=False)
        try:
            if data is not None and not Storage(data.output).exists(CONTRACT_FILE):
                prepare(data, lambda line: console.print(line, markup=False, highlight=False))
            found = (run or _roll)(file, roll_overrides, console, study.rolls[name].arms)
        except Exception as err:  # Whatever it is, it must not cost the other cases.
            error = masked(str(err) if isinstance(err, RaytrainError) else f"{type(err).__name__}: {err}")
            result["failed"].append({"case": name, "error": error})
            console.print(f"{name} failed: {error}", style="red", markup=False, highlight=False)
            continue
        result["cases"][name] = _kept(found, study.rolls[name])
        if found["failed"]:
            result["failed"].append({"case": name, "error": f"{len(found['failed'])} stages are missing: {found['failed'][0]['error']}"})
        # So far: a kill leaves what was found.
        write_report(Storage(storage.join(preset)), result)
    output = Storage(chosen.output or storage.join(preset))
    write_report(output, result)
    console.print(f"wrote {', '.join(masked(output.join(f'result.{kind}')) for kind in ('json', 'md', 'html'))}", highlight=False)
    return result


def check_study_of_rolls(path: str, preset: str, overrides: Sequence[str] = ()) -> None:
    """What can be refused of a study and its rolls before any data is prepared. Raises ConfigError."""
    _checked(path, preset, overrides)


def _checked(path: str, preset: str, overrides: Sequence[str]) -> tuple[StudyOfRolls, dict[str, _Planned]]:
    study, of_rolls = _load(path, overrides)
    if preset not in study.presets:
        raise ConfigError(f"--preset has to be one of the study's. Received: {preset}. {nearest(preset, study.presets)}")
    chosen, storage = study.presets[preset], Storage(study.directory)
    return study, {name: _planned(case, name, chosen, of_rolls, storage, Path(path).parent) for name, case in study.rolls.items()}


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


def _planned(case: RollCase, name: str, preset: RollPreset, overrides: Sequence[str], storage: Storage, beside: Path) -> _Planned:
    """(the roll's file, its overrides, what is prepared for it), once both have been checked.

    Raises:
        ConfigError: one is not right.
    """
    file = str(beside / case.roll)
    own = [f"name={name}", f"seeds={list(preset.seeds)}", f"output={storage.join(f'rolls/{name}')}"]
    data = None
    if case.prepare is not None:
        # Named by what is in it: cases share it, and one that changes leaves the old one alone.
        digest = hashlib.sha256(json.dumps([read_text(beside / case.prepare), case.recipe]).encode()).hexdigest()[:8]
        output = storage.join(f"data/{Path(case.prepare).stem.removeprefix('prepare_')}-{digest}")
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


def _roll(file: str, overrides: Sequence[str], console: Console, arms: Sequence[str]) -> dict[str, Any]:
    return run_roll(file, overrides, console, arms=arms)


def _kept(found: Mapping[str, Any], case: RollCase) -> dict[str, Any]:
    """Of roll.json what the study's tables show."""
    arms = found["arms"]
    return {
        "roll": case.roll,
        "overrides": list(case.overrides),
        "recipe": list(case.recipe),
        "num_days": arms[REFERENCE]["num_days"],
        "num_rows": arms[REFERENCE]["num_rows"],
        "arms": {
            name: {"changes": arm["changes"], "pooled": arm["pooled"], "spread": arm["spread"], "num_days": arm["num_days"]}
            for name, arm in arms.items()
        },
        "comparisons": found["comparisons"],
        "not_compared": found["not_compared"],
        "forgetting": found["forgetting"],
        "known_users": found["known_users"],
        "num_resamples": found["num_resamples"],
    }
