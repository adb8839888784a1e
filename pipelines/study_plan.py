"""What a study runs: STUDY.yaml -> variants (arms at the points of the grid) -> one checked job a cell. Runs nothing."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from raytrain.config import JobConfig, check_kind, read_text
from raytrain.data.contract import Contract, load_contract
from raytrain.errors import ConfigError
from raytrain.metrics.bootstrap import ClickMetric
from raytrain.settings import Section, nearest, parse_yaml, with_overrides

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

_OWN_KEYS = ("seed", "run.name", "run.storage_path", "run.save_predictions")


class Arm(Section):
    """What is compared: a model, or an ablation of one."""

    overrides: tuple[str, ...] = ()
    """Of the base job; ``model={name: logistic}`` replaces the whole section."""
    deterministic: bool = False
    """The seed changes nothing: run once, and paired with every seed of the other arm."""


class Preset(Section):
    """How large the study is."""

    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    overrides: tuple[str, ...] = ()
    """Set before an arm's own."""
    output: str | None = None
    """Directory of result.json, result.md and result.html; null puts them beside the runs."""


class Study(Section):
    """STUDY.yaml."""

    name: Name
    base: str | dict[str, Any]
    """The job that every arm starts from: written out, or a file's path, seen from the study file."""
    presets: dict[Name, Preset] = Field(min_length=1)
    arms: dict[Name, Arm] = Field(min_length=1)
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default={})
    """Dotted key of the job -> values; every arm runs at every combination."""
    metrics: tuple[ClickMetric, ...] = Field(default=("auc", "gauc", "logloss"), min_length=1)
    comparisons: tuple[tuple[str, str], ...] = ()
    """(a, b): a less b. With a grid, arms are compared point by point; full names (din-dim8) compare points."""
    reference: str | None = None
    """An arm that every other one is compared with, besides ``comparisons``."""
    unit: Literal["user"] = "user"
    """What the bootstrap draws: rows of one unit are not independent."""
    num_resamples: PositiveInt = 1000
    work_dir: str | None = None
    """Where the runs go, on any file system; null: runs/studies/<name>."""

    @property
    def directory(self) -> str:
        return self.work_dir or f"runs/studies/{self.name}"

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [variant.name for variant in variants_of(self)]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(
                "Arms at different points of the grid have to have different names. "
                f"Received: {', '.join(doubled)} more than once. Change grid or arms."
            )
        if self.reference is not None and self.reference not in self.arms:
            raise ValueError(f"reference has to be an arm. Received: reference={self.reference}. {nearest(self.reference, self.arms)}")
        for a, b in self.comparisons:
            unknown = next((name for name in (a, b) if name not in self.arms and name not in names), None)
            if unknown is not None:
                raise ValueError(
                    f"comparisons have to name arms. Received: [{a}, {b}], and {unknown} is none. {nearest(unknown, {*self.arms, *names})}"
                )
            if a == b or (a in names) != (b in names):
                raise ValueError(
                    "A comparison has to be of two arms, or of two arms at points of the grid. "
                    f"Received: [{a}, {b}]. Name both in full: {', '.join(names)}."
                )
        return self


@dataclass(frozen=True)
class Variant:
    """An arm at one point of the grid."""

    name: str
    arm: str
    point: str
    """Suffix that names the point; "" without a grid."""
    overrides: tuple[str, ...]
    deterministic: bool


@dataclass(frozen=True)
class Cell:
    """One run."""

    variant: str
    seed: int
    job: JobConfig
    key: str
    """Hash of what the outcome depends on: the resolved job without ``run``, and the data set's content."""
    domain: str
    """The target domain, whose test split is compared."""

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"


def load_study(path: str, overrides: Sequence[str] = ()) -> tuple[Study, tuple[str, ...]]:
    """Reads STUDY.yaml; returns it with the overrides that are the jobs' and not the study's.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, an arm that is compared does not exist.
    """
    own = [override for override in overrides if override.partition("=")[0].strip().split(".")[0] in Study.model_fields]
    values = parse_yaml(read_text(path), path)
    check_kind(values, path, "arms")
    study = Study.parse(with_overrides(values, own), path)
    return study, tuple(override for override in overrides if override not in own)


def preset_of(study: Study, name: str) -> Preset:
    """Raises ConfigError when there is none of that name."""
    if name not in study.presets:
        raise ConfigError(f"--preset has to be one of the study's. Received: --preset {name}. {nearest(name, study.presets)}")
    return study.presets[name]


def variants_of(study: Study) -> list[Variant]:
    """Every arm at every point of the grid; without a grid, the arms."""
    variants = []
    for arm, section in study.arms.items():
        for values in itertools.product(*study.grid.values()):
            point = "".join(f"-{_point_part(key, value)}" for key, value in zip(study.grid, values, strict=True))
            # JSON is YAML, the grammar of overrides.
            overrides = tuple(f"{key}={json.dumps(value)}" for key, value in zip(study.grid, values, strict=True))
            variants.append(Variant(f"{arm}{point}", arm, point, (*section.overrides, *overrides), section.deterministic))
    return variants


def pairs_of(study: Study) -> list[tuple[str, str]]:
    """Names of the variants to compare, (a, b), each pair once."""
    names = {variant.name for variant in variants_of(study)}
    asked = list(study.comparisons)
    if study.reference is not None:
        asked += [(arm, study.reference) for arm in study.arms if arm != study.reference]
    points = dict.fromkeys(variant.point for variant in variants_of(study))
    pairs = [[(a, b)] if a in names else [(f"{a}{point}", f"{b}{point}") for point in points] for a, b in asked]
    return list(dict.fromkeys(itertools.chain.from_iterable(pairs)))


def cells_of(study: Study, preset: Preset, overrides: Sequence[str], path: str) -> list[Cell]:
    """Every cell with its checked job, seed by seed, so that all arms are seen early.

    Overrides win in this order: the caller's, the grid's, the arm's, the preset's.

    Raises:
        ConfigError: a job is not right, or sets what the study itself sets.
        ContractError: data.path holds no prepared data set.
    """
    base = study.base
    values = base if isinstance(base, Mapping) else parse_yaml(read_text(Path(path).parent / base), base)
    variants = variants_of(study)
    contracts: dict[str, Contract] = {}
    cells = []
    for position, seed in enumerate(preset.seeds):
        for variant in variants:
            if variant.deterministic and position > 0:
                continue
            job = _job(values, (*preset.overrides, *variant.overrides, *overrides), seed, f"{path}, arm {variant.name}")
            if job.data.path not in contracts:
                contracts[job.data.path] = load_contract(job.data.path)
            contract = contracts[job.data.path]
            cells.append(Cell(variant.name, seed, job, _key(job, contract), contract.target))
    return cells


def _job(values: Mapping[str, Any], overrides: Sequence[str], seed: int, origin: str) -> JobConfig:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OWN_KEYS:
            raise ConfigError(
                f"{origin}: A study sets {', '.join(_OWN_KEYS)} itself. Received: {override}. Change presets.<name>.seeds or work_dir."
            )
    return JobConfig.parse(with_overrides(values, (*overrides, f"seed={seed}")), origin)


def _key(job: JobConfig, contract: Contract) -> str:
    described = {"job": job.model_dump(mode="json", exclude={"run"}), "data": contract.content_hash}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _point_part(key: str, value: Any) -> str:
    """tables.dim=16 -> dim16, fit for a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "_", f"{key.rpartition('.')[2]}{json.dumps(value)}").strip("_")
