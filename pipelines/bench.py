"""`raytrain bench CONFIG`: one net and batch, in memory, from a plain Parquet loop, and through Ray with 1 and 2 workers.

    raytrain bench pipelines/configs/bench_din.yaml --table-rows 10000,100000,1000000,10000000

Every measurement is a fresh process. Rounds go through the stages in turn: a machine that slows down slows all of them, so
ratios are taken inside a round. bench.json is written after every measurement.
"""

import os
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import distributions
from math import ceil
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines.bench_data import ready_data
from pipelines.bench_plan import NUM_WINDOWS, BenchConfig, Steps, load_bench, parse_stages, parse_table_rows, stage_job
from pipelines.bench_process import measure
from pipelines.bench_report import print_report, write_json, write_report
from pipelines.bench_summary import Run, summarise
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.errors import RunError

CALIBRATION_STEPS = 10
PACKAGES = ("raytrain", "ray", "torch", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu", "pyarrow", "numpy")
Record = dict[str, Any]


@dataclass(frozen=True)
class BenchOptions:
    """What the command line adds to a config."""

    stages: str = "compute,parquet,ray1,ray2"
    table_rows: str = ""
    """Total rows of the tables, comma-separated: a sweep of the stages through Ray."""
    num_threads: int = 1
    num_rounds: int = 3
    """The sweep takes half as many."""
    seconds: float = 12.0
    """What a stage trains for in a round: as many steps as take that long in memory."""
    num_steps: int | None = None
    """Measured steps of a stage in a round, instead of ``seconds``."""
    output: str = ""
    """New directory; a fresh one under runs/ when empty."""


QUICK = BenchOptions(num_rounds=2, seconds=5.0)


@dataclass(frozen=True)
class _Cell:
    """One measurement to make."""

    stage: str
    round: int
    table_rows: int | None
    job: JobConfig

    @property
    def name(self) -> str:
        return f"round {self.round}  {self.stage}" + (f"  {self.table_rows:,} table rows" if self.table_rows else "")

    @property
    def folder(self) -> str:
        return f"{self.stage}-{self.round}" + (f"-{self.table_rows}" if self.table_rows else "")


def run_bench(path: str, overrides: Sequence[str], options: BenchOptions, console: Console) -> Record:
    """Measures, prints a table, and writes bench.json, bench.md and bench.png.

    Returns:
        The content of bench.json. A measurement that failed is listed under ``failed`` and the others go on; the caller exits non-zero.

    Raises:
        RaytrainError: config or options are not right, or the net cannot be trained even in memory.
    """
    config, stages = load_bench(path, overrides), parse_stages(options.stages)
    sizes = parse_table_rows(options.table_rows)
    configs: dict[int | None, BenchConfig] = {None: config, **{rows: config.scaled(rows) for rows in sizes}}
    directory = _new_directory(options.output)
    data = {rows: (one, ready_data(one, console)) for rows, one in configs.items()}
    steps = _steps(config, data[None][1], options, directory)
    cells = list(_cells(data, stages, steps, options))
    header = _header(path, overrides, options, config, data[None][1], steps)
    console.print(
        f"{len(cells)} measurements of {steps.num_steps:,} steps x {config.data.batch_size:,} rows, the first {steps.window:,} to warm up; "
        f"{options.num_threads} torch thread(s) a worker on {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        highlight=False,
    )
    runs: list[Run] = []
    failed: list[Record] = []
    for number, cell in enumerate(cells, start=1):
        console.print(f"[{number}/{len(cells)}] {cell.name} ...", highlight=False, markup=False, end=" ")
        try:
            measured = measure(cell.stage, cell.job, steps, options.num_threads, directory / cell.folder)
        except RunError as err:
            failed.append({"stage": cell.stage, "round": cell.round, "table_rows": cell.table_rows, "error": str(err)})
            console.print(f"failed\n{err}", style="red", highlight=False, markup=False)
        else:
            runs.append(Run(cell.stage, cell.round, cell.table_rows, measured))
            console.print(f"{measured.rate:,.0f} samples/s, data wait {measured.data_wait_share:.1%}", highlight=False)
        result = _result(header, runs, failed)
        write_json(directory, result)
    if runs:
        print_report(result, console)
        write_report(directory, result)
    console.print(f"wrote {directory}", highlight=False)
    return result


def _cells(
    data: dict[int | None, tuple[BenchConfig, Contract]], stages: Sequence[str], steps: Steps, options: BenchOptions
) -> Iterator[_Cell]:
    """The config as it is, round by round; then the table sizes, round by round, through Ray alone where that is measured."""

    def cell(stage: str, number: int, rows: int | None) -> _Cell:
        config, contract = data[rows]
        return _Cell(stage, number, rows, stage_job(config.job, contract, stage, steps, options.num_threads))

    for number in range(1, options.num_rounds + 1):
        yield from (cell(stage, number, None) for stage in stages)
    swept = [stage for stage in stages if stage.startswith("ray")] or stages
    for number in range(1, ceil(options.num_rounds / 2) + 1):
        yield from (cell(stage, number, rows) for stage in swept for rows in data if rows is not None)


def _steps(config: BenchConfig, contract: Contract, options: BenchOptions, directory: Path) -> Steps:
    """As many steps as were asked for, or take the asked time in memory; raises RunError when the net cannot be trained there."""
    if options.num_steps is not None:
        return Steps(ceil(options.num_steps / NUM_WINDOWS))
    trial = Steps(CALIBRATION_STEPS // NUM_WINDOWS)
    job = stage_job(config.job, contract, "compute", trial, options.num_threads)
    rate = measure("compute", job, trial, options.num_threads, directory / "calibration").rate
    return Steps(ceil(options.seconds * rate / config.data.batch_size / NUM_WINDOWS))


def _new_directory(output: str) -> Path:
    """Raises RunError when it holds something."""
    directory = Path(output or f"runs/bench-{datetime.now(UTC):%Y%m%d-%H%M%S}").absolute()
    if directory.exists() and any(directory.iterdir()):
        raise RunError(f"--output has to be a new or empty directory. Received: {directory}, which is not empty. Choose another.")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _header(path: str, overrides: Sequence[str], options: BenchOptions, config: BenchConfig, contract: Contract, steps: Steps) -> Record:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    installed = {found.name: found.version for found in distributions()}
    return {
        "command": shlex.join(["raytrain", "bench", path, *overrides, *_flags(options)]),
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.machine(),
            "memory_gib": memory_bytes / 2**30,
            "load": os.getloadavg()[0],
        },
        "versions": {"python": platform.python_version()} | {name: installed[name] for name in PACKAGES if name in installed},
        "num_threads": options.num_threads,
        "batch_size": config.data.batch_size,
        "num_steps": steps.num_steps,
        "num_warmup_steps": steps.window,
        "dataset": contract.dataset,
        "content_hash": contract.content_hash,
        "config": config.model_dump(mode="json"),
    }


def _flags(options: BenchOptions) -> list[str]:
    """The options that are not the default, as they are typed."""
    flags = {
        "--stages": options.stages,
        "--table-rows": options.table_rows,
        "--threads": options.num_threads,
        "--rounds": options.num_rounds,
        "--seconds": options.seconds,
        "--steps": options.num_steps,
    }
    plain = dict(zip(flags, asdict(BenchOptions()).values(), strict=False))
    return [str(part) for name, value in flags.items() if value != plain[name] for part in (name, value)]


def _result(header: Record, runs: Sequence[Run], failed: Sequence[Record]) -> Record:
    made = [{**asdict(run), "measured": run.measured.model_dump(mode="json")} for run in runs]
    return header | {"summary": [asdict(line) for line in summarise(runs)], "runs": made, "failed": list(failed)}
