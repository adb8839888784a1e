"""What `raytrain bench` measures: the config, the stages, and the job of every stage. Torch-free, so the parent stays small."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import harmonic_mean
from typing import Self

from pydantic import NonNegativeFloat, PositiveInt

from raytrain.config import JobConfig, read_text
from raytrain.data.contract import Contract
from raytrain.data.synthetic import SyntheticSpec
from raytrain.errors import ConfigError
from raytrain.models.baselines.tabular import TABULAR_MODELS
from raytrain.resources import needs_of
from raytrain.settings import Section, parse_yaml, with_overrides
from raytrain.storage import Storage

MIN_WORKER_CPUS = 0.05
STAGES = ("compute", "parquet", "ray1", "ray2")
NUM_WINDOWS = 5
"""Measured windows of a run; one more before them warms up."""


class BenchConfig(JobConfig):
    """A job, and the data it is measured on where that is generated."""

    synthetic: SyntheticSpec | None = None
    """Generates ``data.path`` on first use, and data sets of the same rows for other table sizes."""

    @property
    def job(self) -> JobConfig:
        return JobConfig.model_validate(self.model_dump(exclude={"synthetic"}))

    def scaled(self, total_rows: int) -> Self:
        """The same job on tables of ``total_rows`` rows together: those that the spec gives no size share what the others leave.

        Raises:
            ConfigError: there is nothing to scale, or too little is left.
        """
        spec = self.synthetic
        if spec is None:
            raise ConfigError(
                "--table-rows scales generated data. Received: a config without a section synthetic. Add one, or leave it out."
            )
        fixed = [count + 1 for count in (spec.num_users, spec.num_items) if count is not None]
        num_scaled = spec.num_id_features - len(fixed)
        table_rows = (total_rows - sum(fixed)) // num_scaled if num_scaled else 0
        if table_rows < 2:
            raise ConfigError(
                f"--table-rows has to leave every table rows. Received: {total_rows:,} in all, {sum(fixed):,} of them in "
                f"{len(fixed)} tables of a fixed size and {num_scaled} tables to scale. Raise it, or set synthetic.num_users=null."
            )
        data = self.data.model_copy(update={"path": Storage(f"{self.data.path.rstrip('/')}-tables-{total_rows}").uri})
        return self.model_copy(update={"data": data, "synthetic": spec.model_copy(update={"table_rows": table_rows})})


@dataclass(frozen=True)
class Steps:
    """How long every stage trains: equal windows, the first of which warms up kernels and caches and is not counted."""

    window: int

    @property
    def num_steps(self) -> int:
        return self.window * (1 + NUM_WINDOWS)


class Request(Section):
    """What one process is to measure."""

    stage: str
    """compute | parquet | rayN"""
    job: JobConfig
    num_threads: PositiveInt
    window_steps: PositiveInt
    scratch: str
    """Directory of the run that a stage through Ray makes; deleted afterwards."""
    launched_at: float
    """Unix time, s."""

    @property
    def num_steps(self) -> int:
        return Steps(self.window_steps).num_steps


class Measured(Section):
    """What one process measured."""

    samples_per_s: tuple[NonNegativeFloat, ...]
    """Of each window after the first, over all workers."""
    data_wait_share: NonNegativeFloat
    """Time waited for batches after the first, over the time of all steps."""
    startup_s: float
    """From launch to the end of the first step; of "compute" without the reading of its batches."""
    peak_rss_mib: tuple[NonNegativeFloat, ...]
    """Of each worker."""
    table_mib: tuple[NonNegativeFloat, ...]
    """Weights held by each worker, without optimizer state."""
    loss: float
    """Mean over the last window: equal in every stage at one worker, since all train on the same rows."""
    num_steps: PositiveInt

    @property
    def rate(self) -> float:
        """Samples a second over all measured windows, which have equally many rows."""
        return harmonic_mean(self.samples_per_s)


def load_bench(path: str | Path, overrides: Sequence[str] = ()) -> BenchConfig:
    """Reads a job, with or without a section ``synthetic``, and applies ``section.key=value`` overrides.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, a value is out of range.
    """
    config = BenchConfig.parse(with_overrides(parse_yaml(read_text(path), str(path)), tuple(overrides)), str(path))
    if config.scaling.in_process:
        raise ConfigError("raytrain bench compares ways to run. Received: scaling.in_process=true. Set it to false.")
    if config.scaling.use_gpu:
        raise ConfigError("raytrain bench measures CPU workers. Received: scaling.use_gpu=true. Set it to false.")
    if config.model.name in TABULAR_MODELS:
        raise ConfigError(
            f"raytrain bench measures training steps. Received: model.name={config.model.name}, which has none. Choose another."
        )
    # A stage's directory is not the caller's.
    return config.model_copy(update={"data": config.data.model_copy(update={"path": Storage(config.data.path).uri})})


def parse_stages(text: str) -> tuple[str, ...]:
    """ "compute,ray1" -> names in that order.

    Raises:
        ConfigError: a name is unknown or repeated.
    """
    stages = tuple(name.strip() for name in text.split(","))
    for name in stages:
        if not re.fullmatch(r"compute|parquet|ray[1-9]\d*", name) or stages.count(name) > 1:
            raise ConfigError(
                "--stages has to name different ones of compute, parquet, and rayN for N workers. "
                f"Received: --stages={text}. Write for example {','.join(STAGES)}."
            )
    return stages


def parse_table_rows(text: str) -> tuple[int, ...]:
    """ "10000,1000000" -> numbers, ascending; none for an empty text.

    Raises:
        ConfigError: there is something else.
    """
    parts = [part.strip().replace("_", "") for part in text.split(",")] if text.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise ConfigError(f"--table-rows has to list whole numbers. Received: --table-rows={text}. Write for example 10000,1000000.")
    return tuple(sorted({int(part) for part in parts}))


def stage_job(job: JobConfig, contract: Contract, stage: str, steps: Steps, num_threads: int) -> JobConfig:
    """The job of one stage: same network, batches and threads; only workers differ, and steps are as many as are measured.

    Raises:
        ConfigError, ResourceError: that many workers get no row each, or do not fit on this machine.
    """
    num_workers = int(stage.removeprefix("ray")) if stage.startswith("ray") else 1
    steps_per_epoch = -(-contract.domains[contract.target].splits["train"].num_rows // job.data.batch_size)
    training = {
        "epochs": -(-steps.num_steps // steps_per_epoch),
        "max_steps": steps.num_steps,
        "evals_per_epoch": 1,
        "checkpoint_every_steps": None,
        "log_every_steps": steps.window,
        "early_stopping": job.training.early_stopping.model_copy(update={"patience": None}),
    }
    num_streams = 2 if job.data.source_batch_size else 1
    left = (os.cpu_count() or 1) - (num_streams + 1) * job.data.cpus_per_read_task
    scaling = {
        "num_workers": num_workers,
        "threads_per_worker": num_threads,
        "cpus_per_worker": min(job.scaling.cpus_per_worker, max(MIN_WORKER_CPUS, int(100 * left / num_workers) / 100)),
        "max_failures": 0,
    }
    made = job.model_copy(
        update={
            "training": job.training.model_copy(update=training),
            "scaling": job.scaling.model_copy(update=scaling),
            "run": job.run.model_copy(update={"tensorboard": False, "save_predictions": False}),
        }
    )
    checked = JobConfig.parse(made.model_dump(), f"stage {stage}")
    if "RAY_ADDRESS" not in os.environ:
        needs_of(checked, num_streams).check(os.cpu_count() or 1)
    return checked
