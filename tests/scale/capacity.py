"""What `raytrain plan` predicts against what is measured here: ``python -m tests.scale.capacity --output DIR``.

Real runs of two domains on 1 and 2 workers (about 5 minutes on 2 cores), and the plan of 10^7 row groups; ends with a table in
Markdown. Every measurement is a process of its own. Constants of cluster/measured.py come from the same figures.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import typer

from cluster.capacity import Capacity
from cluster.plan import plan_job
from cluster.stream_size import streams_of
from raytrain.config import JobConfig
from raytrain.data.contract import load_contract
from raytrain.data.synthetic import SyntheticSpec, generate
from raytrain.embeddings.plan import FLOAT_BYTES
from raytrain.machine import MIB
from tests.scale.step_cost import step_s_per_row

SPEC = SyntheticSpec(
    num_rows=60_000, num_source_rows=60_000, num_eval_rows=4_000, num_id_features=6, table_rows=400_000, num_users=5_000, events_per_user=80
)
ROW_GROUP_ROWS = 1_000
SAMPLE_S = 0.3
JOB = (
    "model.name=din",
    "data.batch_size=512",
    "data.source_batch_size=512",
    "data.history_length=50",
    "data.window_batches=8",
    "data.cpus_per_read_task=0.25",
    "scaling.cpus_per_worker=0.5",
    "training.evals_per_epoch=1",
    "training.checkpoint_every_steps=13",
    "training.keep_checkpoints=20",
    "training.keep_validation_mib=64",
    "run.tensorboard=false",
)
PLANS = ((1_000, 100, 65_536), (10_000, 100, 65_536), (10_000, 100, 1_024), (100_000, 100, 65_536))
"""(files, row groups of each, global batch)"""


@dataclass(frozen=True)
class Row:
    figure: str
    predicted: float
    measured: float
    unit: str

    def __str__(self) -> str:
        cells = [
            self.figure,
            f"{self.predicted:,.1f} {self.unit}",
            f"{self.measured:,.1f} {self.unit}",
            f"{self.predicted / self.measured:.2f}",
        ]
        return f"| {' | '.join(cells)} |"


def runs(directory: Path, workers: int) -> Iterator[Row]:
    """A finished run against its plan."""
    config = directory / "job.yaml"
    config.write_text(f"data: {{path: {directory / 'data'}}}\nmodel: {{name: din}}\nrun: {{storage_path: {directory / 'runs'}}}\n")
    overrides = (*JOB, f"run.name=r{workers}", f"scaling.num_workers={workers}")
    capacity = plan_job(str(config), overrides).capacity
    private_mib = _train(str(config), *overrides)
    run = directory / "runs" / f"r{workers}"
    result = json.loads((run / "result.json").read_text())
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    worker = next(record for record in records if record["kind"] == "worker")
    shards = [shard for planned in capacity.footprint.tables for shard in planned.shards]
    weights = [sum(one.num_rows * one.num_columns for one in shards if one.rank == rank) * FLOAT_BYTES for rank in range(workers)]
    on = f"{workers} worker(s)"
    yield Row(f"table weights of the fullest rank, {on}", max(weights) / MIB, max(worker["table_mib"]), "MiB")
    saved = [[file.stat().st_size for file in path.parent.iterdir()] for path in run.glob("checkpoints/*/*/cursor.parquet")]
    yield Row(f"a checkpoint's files, {on}", capacity.checkpoint / MIB, max(map(sum, saved)) / MIB, "MiB")
    cursors = [path.stat().st_size for path in run.glob("checkpoints/*/*/cursor.parquet")]
    yield Row(f"the largest of {len(cursors)} cursors, {on}", capacity.cursor / 1024, max(cursors) / 1024, "KiB")
    footprint = capacity.footprint
    predicted = (footprint.a_worker(False) + capacity.batch + capacity.dense.buffer_bytes) / MIB
    yield Row(f"a worker's memory, its share of shared pages counted, {on}", predicted, private_mib, "MiB")
    yield Row(f"the same with shared pages whole (peak RSS), {on}", predicted, max(worker["peak_rss_mib"]), "MiB")
    yield Row(f"training speed, {on}", capacity.samples_per_s or 0, result["train_samples_per_s"], "samples/s")


def histories(directory: Path) -> Iterator[Row]:
    """Bytes of history that the read tasks of every window decode."""
    config = str(directory / "job.yaml")
    capacity = plan_job(config, JOB).capacity
    measured = json.loads(_call("read_histories", config))
    for domain, predicted in capacity.history_bytes.items():
        yield Row(f"history decoded for a row of {domain}", predicted, measured[domain], "bytes")


def read_histories(config: str) -> None:
    """Prints domain -> bytes a row, over an epoch."""
    from raytrain.config import load_config
    from raytrain.data import reader
    from raytrain.models.declared import declared_histories
    from raytrain.training.specs import training_specs

    job = load_config(config, JOB)
    contract, found, load = load_contract(job.data.path), {}, reader.load_histories
    for spec in training_specs(job, contract, declared_histories(job, contract), ""):
        num_bytes: list[int] = []

        def loaded(*arguments: object, kept: list[int] = num_bytes) -> object:
            history = load(*arguments)  # type: ignore[arg-type]
            kept.append(history.num_bytes_read)
            return history

        reader.load_histories = loaded  # type: ignore[assignment]
        for task in spec.source(1).get_read_tasks(-1):
            list(task())
        found[spec.domain] = sum(num_bytes) / spec.expected_rows
    sys.stdout.write(json.dumps(found))


def plans() -> Iterator[Row]:
    """Peak memory of planning, less what the process takes before it."""
    for files, groups, batch_size in PLANS:
        predicted, measured = json.loads(_call("read_plan", str(files), str(groups), str(batch_size)))
        yield Row(f"plan of {files * groups:,} row groups in {files:,} files, batch {batch_size:,}", predicted / MIB, measured / MIB, "MiB")


def read_plan(files: str, groups: str, batch_size: str) -> None:
    """Prints (predicted, measured) bytes."""
    from cluster.data_size import DataSize, DomainSize
    from raytrain.data.fragments import FragmentPlan
    from raytrain.data.source import FragmentSource
    from raytrain.data.synthetic import synthetic_manifest
    from raytrain.training.process import peak_rss_mib

    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    manifest = synthetic_manifest(int(files), int(groups), 2000)
    plan = FragmentPlan(manifest, int(batch_size))
    tasks = FragmentSource(None, plan.remaining()).get_read_tasks(-1)  # type: ignore[arg-type]
    measured = peak_rss_mib() * MIB - before
    assert tasks
    job = JobConfig.model_validate({"data": {"path": "", "batch_size": plan.batch_size}, "model": {"name": "dnn"}})
    size = DomainSize(plan.num_rows, len(manifest.num_rows), int(files))
    [stream] = streams_of(job, DataSize(None, {"target": size}), 1)  # type: ignore[arg-type]
    assert stream.windows == len(tasks)
    sys.stdout.write(json.dumps([stream.plan_bytes, measured]))


def checkpoint_speed(directory: Path, capacity: Capacity) -> None:
    """Prints MiB/s of one rank's snapshot and of its copy, which are what ``cluster.measured`` has."""
    from raytrain.storage import Storage
    from raytrain.training.checkpoint import save_checkpoint
    from raytrain.training.loop import build_learner
    from raytrain.training.parallel import World

    job = capacity.job.model_copy(update={"tables": capacity.job.tables.model_copy(update={"backend": "local", "dim": 64})})
    learner = build_learner(job, capacity.size.contract, World.alone())
    for number in range(3):
        started, path = time.perf_counter(), directory / f"snapshot-{number}"
        save_checkpoint(path, learner.tables, learner.network, learner.optimizer)
        written, storage = time.perf_counter(), Storage(str(directory / f"upload-{number}"))
        num_bytes = 0
        for file in path.iterdir():
            data = file.read_bytes()
            num_bytes += len(data)
            storage.write_bytes(file.name, data)
        done = time.perf_counter()
        sys.stdout.write(
            f"checkpoint of {num_bytes / MIB:,.0f} MiB: written at {num_bytes / MIB / (written - started):,.0f} MiB/s, "
            f"copied at {num_bytes / MIB / (done - written):,.0f}\n"
        )


def steps(directory: Path) -> Iterator[Row]:
    """Training steps of one rank in memory, by the CPU time of the fastest: what else the machine does hardly counts."""
    for model in ("din", "dnn", "lcn"):
        config = directory / f"{model}.yaml"
        config.write_text(f"data: {{path: {directory / 'data'}}}\nmodel: {{name: {model}}}\n")
        arguments = [one for one in JOB if not one.startswith("model.")]
        capacity = plan_job(str(config), arguments).capacity
        measured = 1 / step_s_per_row(str(config), *arguments)
        yield Row(f"training steps of {model} in memory", capacity.samples_per_s or 0, measured, "samples/s")


def _train(config: str, *overrides: str) -> float:
    """A run in processes of its own; returns the largest PSS in MiB of a worker, looked at now and then."""
    command = [sys.executable, "-c", "from raytrain.cli import main; main()", "train", config, *overrides]
    largest = 0
    with tempfile.TemporaryFile("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        while process.poll() is None:
            largest = max([largest, *map(_pss_kib, _workers_below(process.pid))])
            time.sleep(SAMPLE_S)
        if process.returncode:
            log.seek(0)
            raise RuntimeError(log.read()[-4000:])
    return largest / 1024


def _workers_below(pid: int) -> list[int]:
    """Ray Train's workers among the descendants of ``pid``."""
    parents, names = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, _, after = stat.read_text().rpartition(")")
            names[int(stat.parent.name)] = (stat.parent / "cmdline").read_text()
        except OSError:
            continue
        parents[int(before.split(" ")[0])] = int(after.split()[1])
    ours = {pid}
    while found := {child for child, parent in parents.items() if parent in ours} - ours:
        ours |= found
    return [child for child in ours if names.get(child, "").startswith("ray::RayTrainWorker")]


def _pss_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def _call(function: str, *arguments: str) -> str:
    """What a function of this file prints, in a process of its own."""
    return _own(f"import sys, tests.scale.capacity as here; here.{function}(*sys.argv[1:])", *arguments)


def _own(code: str, *arguments: str) -> str:
    """Standard output of Python in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise RuntimeError(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


def main(output: Path = Path("runs/capacity"), only: str = "plan,step,run,history,checkpoint") -> None:
    output.mkdir(parents=True, exist_ok=True)
    if not (output / "data").exists():
        generate(SPEC, str(output / "data"), lambda text: None, row_group_rows=ROW_GROUP_ROWS)
    parts = only.split(",")
    sys.stdout.write("| figure | predicted | measured | predicted / measured |\n|---|---:|---:|---:|\n")
    rows = [plans] if "plan" in parts else []
    rows += [lambda: steps(output.absolute())] if "step" in parts else []
    rows += [lambda workers=workers: runs(output.absolute(), workers) for workers in (1, 2)] if "run" in parts else []
    rows += [lambda: histories(output.absolute())] if "history" in parts else []
    for part in rows:
        for row in part():
            sys.stdout.write(f"{row}\n")
            sys.stdout.flush()
    if "checkpoint" in parts:
        checkpoint_speed(output, plan_job(str(output / "job.yaml"), JOB).capacity)


if __name__ == "__main__":
    typer.run(main)
