"""What a study runs: STUDY.yaml -> variants (arms at the points of the grid) -> one checked job a cell. Runs nothing."""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from pipelines.study_by_history_plan import HistoryPlan
from pipelines.study_cost_plan import CostPlan
from pipelines.study_metrics import SearchMetric, check_metrics
from raytrain.config import JobConfig, check_kind, read_text
from raytrain.data.contract import Contract
from raytrain.data.days import contract_of
from raytrain.errors import ConfigError
from raytrain.metrics.bootstrap import ComparedMetric
from raytrain.run import RESUME_KEYS
from raytrain.settings import Section, flat_keys, nearest, parse_yaml, with_overrides

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]

_OWN_KEYS = ("seed", "run.name", "run.storage_path", "run.save_predictions")


class Arm(Section):
    """What is compared: a model, or an ablation of one."""

    overrides: tuple[str, ...] = ()
    """Of the base job; ``model={name: logistic}`` replaces the whole section."""
    trials: tuple[tuple[str, ...], ...] = ()
    """Overrides tried besides the arm as it stands; its seeds run with the best of them on the validation split."""
    like: str | None = None
    """The arm that this one starts from, with its overrides and its best trial: for ablations."""
    deterministic: bool = False
    """The seed changes nothing: run once, and paired with every seed of the other arm."""


class Search(Section):
    """How an arm's best trial is chosen: on validation alone, every arm that is searched by as many trials."""

    metric: SearchMetric = "auc"
    seed: NonNegativeInt = 0


class Preset(Section):
    """How large the study is."""

    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    overrides: tuple[str, ...] = ()
    """Set before an arm's own."""
    search: bool = True
    """False runs every arm as it stands, without its trials."""
    output: str | None = None
    """Directory of result.json, result.md and result.html; null puts them beside the runs."""


class Study(Section):
    """STUDY.yaml."""

    name: Name
    base: str | dict[str, Any]
    """The job that every arm starts from: written out, or a file's path, seen from the study file."""
    presets: dict[Name, Preset] = Field(min_length=1)
    arms: dict[Name, Arm] = Field(min_length=1)
    search: Search = Search()
    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default={})
    """Dotted key of the job -> values; every arm runs at every combination."""
    metrics: tuple[ComparedMetric, ...] = Field(default=("auc", "gauc", "logloss"), min_length=1)
    """Of the data set's labels; arms are ordered by the first. Amounts: norm_gini, spearman, pay_auc, total_error."""
    comparisons: tuple[tuple[str, str], ...] = ()
    """(a, b): a less b. With a grid, arms are compared point by point; full names (din-dim8) compare points."""
    reference: str | None = None
    """An arm that every other one is compared with, besides ``comparisons``."""
    unit: Literal["user", "customer"] = "user"
    """What reports call the contract's group, which the bootstrap draws: rows of one unit are not independent."""
    num_resamples: PositiveInt = 1000
    cost: CostPlan | None = None
    """Measures what training and scoring cost, after the runs; null measures nothing."""
    by_history: HistoryPlan | None = None
    """Breaks the comparison down by the length of each test row's history; null does not."""
    work_dir: str | None = None
    """Where the runs go, on any file system; null: runs/studies/<name>."""

    @property
    def directory(self) -> str:
        return self.work_dir or f"runs/studies/{self.name}"

    @property
    def metrics_by_key(self) -> dict[str, tuple[str, ...]]:
        """Every key of this file that names metrics which will be read -> those."""
        asked: dict[str, tuple[str, ...]] = {"metrics": self.metrics}
        if any(arm.trials for arm in self.arms.values()):
            asked["search.metric"] = (self.search.metric,)
        if self.by_history is not None:
            asked["by_history.metrics"] = self.by_history.metrics
        return asked

    @model_validator(mode="after")
    def _check_search(self) -> Self:
        num_trials = {name: len(arm.trials) for name, arm in self.arms.items() if arm.trials}
        if len(set(num_trials.values())) > 1:
            raise ValueError(
                "Every arm that is searched has to get as many trials. "
                f"Received: {', '.join(f'{name}: {number}' for name, number in num_trials.items())}. Add or remove trials."
            )
        if num_trials and self.grid:
            raise ValueError("A study searches or runs a grid. Received: trials and grid. Make two studies of it.")
        for name, arm in self.arms.items():
            if arm.like is not None and (arm.like not in self.arms or self.arms[arm.like].like or arm.trials):
                raise ValueError(
                    "like has to name an arm that is like no other, and takes over its best trial instead of trials of its own. "
                    f"Received: arms.{name}.like={arm.like}. {nearest(arm.like, self.arms)}"
                )
        return self

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


Chosen = Mapping[str, tuple[str, ...]]
"""searched arm -> overrides of its best trial"""


@dataclass(frozen=True)
class Cell:
    """One run."""

    variant: str
    seed: int
    job: JobConfig
    key: str
    """Hash of what the outcome depends on: the resolved job without what only says how it is run, and the data set's content."""
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
    of_jobs = tuple(override for override in overrides if override not in own)
    for key in (one.partition("=")[0].strip() for one in of_jobs):
        if (root := key.split(".")[0]) not in JobConfig.model_fields:
            known = {*Study.model_fields, *JobConfig.model_fields}
            raise ConfigError(f"{path}: A key is of the study or of its jobs. Received: {key}. {nearest(root, known)}")
    return study, of_jobs


def preset_of(study: Study, name: str) -> Preset:
    """Raises ConfigError when there is none of that name."""
    if name not in study.presets:
        raise ConfigError(f"--preset has to be one of the study's. Received: --preset {name}. {nearest(name, study.presets)}")
    return study.presets[name]


def variants_of(study: Study, chosen: Chosen = MappingProxyType({})) -> list[Variant]:
    """Every arm at every point of the grid; without a grid, the arms. ``chosen`` adds what the search found."""
    variants = []
    for arm, section in study.arms.items():
        parent = () if section.like is None else (*study.arms[section.like].overrides, *chosen.get(section.like, ()))
        own = (*parent, *section.overrides, *chosen.get(arm, ()))
        for values in itertools.product(*study.grid.values()):
            point = "".join(f"-{_point_part(key, value)}" for key, value in zip(study.grid, values, strict=True))
            # JSON is YAML, the grammar of overrides.
            overrides = tuple(f"{key}={json.dumps(value)}" for key, value in zip(study.grid, values, strict=True))
            variants.append(Variant(f"{arm}{point}", arm, point, (*own, *overrides), section.deterministic))
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


def cells_of(study: Study, preset: Preset, overrides: Sequence[str], path: str, chosen: Chosen = MappingProxyType({})) -> list[Cell]:
    """Every cell with its checked job, seed by seed, so that all arms are seen early.

    Overrides win in this order: the caller's, the grid's, the trial's, the arm's, the preset's.

    Raises:
        ConfigError: a job is not right, sets what the study itself sets, or has labels that a metric does not fit.
        ContractError: data.path holds no prepared data set.
    """
    make = _CellMaker(study, preset, overrides, path)
    return [
        make(variant.name, variant.overrides, seed)
        for position, seed in enumerate(preset.seeds)
        for variant in variants_of(study, chosen)
        if position == 0 or not variant.deterministic
    ]


def trials_of(study: Study, preset: Preset, overrides: Sequence[str], path: str) -> dict[str, list[Cell]]:
    """Searched arm -> its trials, the arm as it stands first; empty where the preset does not search. Raises as ``cells_of``."""
    make = _CellMaker(study, preset, overrides, path)
    return {
        name: [make(f"{name}.trial{number}", (*arm.overrides, *trial), study.search.seed) for number, trial in enumerate(((), *arm.trials))]
        for name, arm in study.arms.items()
        if arm.trials and preset.search
    }


def check_study(path: str, preset: str, overrides: Sequence[str] = ()) -> None:
    """What can be refused of a study and its cells without a look at their data sets.

    Raises:
        ConfigError: the study, or the job of any cell or trial, is not right.
    """
    study, of_jobs = load_study(path, overrides)
    chosen = preset_of(study, preset)
    make = _CellMaker(study, chosen, of_jobs, path)
    for variant in variants_of(study):
        make.job(variant.name, variant.overrides, chosen.seeds[0])
    for name, arm in study.arms.items():
        for number, trial in enumerate(arm.trials if chosen.search else (), 1):
            make.job(f"{name}.trial{number}", (*arm.overrides, *trial), study.search.seed)


class _CellMaker:
    """Checked cells of one study; a data set's contract is read once."""

    def __init__(self, study: Study, preset: Preset, overrides: Sequence[str], path: str) -> None:
        base = study.base
        self._values = base if isinstance(base, Mapping) else parse_yaml(read_text(Path(path).parent / base), base)
        self._preset, self._overrides, self._path = preset, overrides, path
        self._metrics = study.metrics_by_key
        self._contracts: dict[str, Contract] = {}

    def __call__(self, name: str, overrides: Sequence[str], seed: int) -> Cell:
        job = self.job(name, overrides, seed)
        if job.data.path not in self._contracts:
            self._contracts[job.data.path] = contract_of(job.data)
            check_metrics(self._metrics, self._contracts[job.data.path], job.data.path)
        contract = self._contracts[job.data.path]
        return Cell(name, seed, job, cell_key(job, contract), contract.target)

    def job(self, name: str, overrides: Sequence[str], seed: int) -> JobConfig:
        return _job(self._values, (*self._preset.overrides, *overrides, *self._overrides), seed, f"{self._path}, arm {name}")


def _job(values: Mapping[str, Any], overrides: Sequence[str], seed: int, origin: str) -> JobConfig:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in _OWN_KEYS:
            raise ConfigError(
                f"{origin}: A study sets {', '.join(_OWN_KEYS)} itself. Received: {override}. Change presets.<name>.seeds or work_dir."
            )
    return JobConfig.parse(with_overrides(values, (*overrides, f"seed={seed}")), origin)


def cell_key(job: JobConfig, contract: Contract) -> str:
    """16 hexadecimal digits; see ``Cell.key``."""
    flat = flat_keys(job.model_dump(mode="json", exclude={"run"}))
    # Of what a resumed run may change, only the number of workers is what an arm may be about.
    watched = [key for key in RESUME_KEYS if key != "scaling"] + ["scaling.start_limit_s"]
    described = {"job": {key: value for key, value in flat.items() if key not in watched}, "data": contract.content_hash}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def _point_part(key: str, value: Any) -> str:
    """tables.dim=16 -> dim16, fit for a file's name; a data set goes by the name of its directory."""
    if key == "data.path":
        return re.sub(r"[^A-Za-z0-9.]+", "_", str(value).rstrip("/").rpartition("/")[2])
    return re.sub(r"[^A-Za-z0-9.]+", "_", f"{key.rpartition('.')[2]}{json.dumps(value)}").strip("_")
