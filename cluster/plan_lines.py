"""A plan's figures, each with the arithmetic it comes from: values that print as tables or as JSON."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich import box
from rich.table import Table

from cluster.capacity import Capacity
from cluster.plan import MAX_WORKERS, Plan, gpu_bytes
from raytrain.footprint import ACTIVATION_COPIES, PROCESS_BYTES, RUN_BYTES
from raytrain.machine import MIB, size

KIB = 2**10
Unit = Literal["bytes", "bytes/sample", "s", "samples/s"]


@dataclass(frozen=True)
class Line:
    """One figure."""

    part: str
    """Title of the table that it stands in."""
    key: str
    """Of the JSON object."""
    name: str
    value: float
    unit: Unit
    arithmetic: str


def lines_of(plan: Plan) -> tuple[Line, ...]:
    """Every figure, table by table."""
    capacity = plan.capacity
    return (*_worker_lines(capacity), *_step_lines(capacity), *_run_lines(capacity), *_speed_lines(capacity))


def tables_of(plan: Plan) -> Iterator[Table]:
    """One table a part."""
    lines = lines_of(plan)
    for title in dict.fromkeys(line.part for line in lines):
        table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        table.add_column("what", no_wrap=True)
        table.add_column("takes", no_wrap=True, justify="right")
        table.add_column("because", overflow="fold", ratio=1)
        for line in lines:
            if line.part == title:
                table.add_row(line.name, shown(line), line.arithmetic.replace("[", r"\["))
        yield table


def verdict(plan: Plan) -> str:
    """Whether it fits, with how many workers it would, and what is not known of GPUs; "" where there is nothing to say."""
    is_held = plan.memory is not None or plan.gpu_memory is not None
    return "\n".join([*([_fits(plan)] if is_held else []), *notes_of(plan)])


def notes_of(plan: Plan) -> Iterator[str]:
    """What no figure says of a job on GPUs."""
    if not plan.capacity.job.scaling.use_gpu:
        return
    if plan.gpu_memory is None:
        yield f"GPU memory is held against nothing: one GPU would hold {size(gpu_bytes(plan.capacity))}. Pass --gpu-memory."
    if plan.capacity.assumed.samples_per_s is None:
        yield "No speed: what a step costs was measured on CPUs alone. Pass --rate."


def json_of(plan: Plan) -> dict[str, Any]:
    """{"workers", "memory_bytes", "gpu_memory_bytes", "fits", "least_workers", "notes": [text], "lines": [{"part", "key", "name", "value",
    "unit", "arithmetic"}]}.
    """
    return {
        "workers": plan.capacity.num_workers,
        "memory_bytes": plan.memory,
        "gpu_memory_bytes": plan.gpu_memory,
        "fits": plan.fits,
        "least_workers": plan.least_workers,
        "notes": list(notes_of(plan)),
        "lines": [asdict(line) for line in lines_of(plan)],
    }


def shown(line: Line) -> str:
    """Its value as a person reads it."""
    if line.unit == "samples/s":
        return f"{line.value:,.0f} samples/s"
    if line.unit == "s":
        days, hours = line.value / 86_400, line.value / 3600
        return f"{days:,.1f} days" if days >= 2 else f"{hours:,.1f} h" if hours >= 1 else f"{line.value:,.3g} s"
    return size(line.value) if line.value >= KIB else f"{line.value:,.0f} bytes"


def _fits(plan: Plan) -> str:
    capacity, need = plan.capacity, []
    apart = ", GPUs left aside" if capacity.job.scaling.use_gpu and plan.gpu_memory is None else ""
    if plan.memory is not None:
        there = size(plan.memory)
        need.append(f"a worker's machine needs {size(capacity.worker)}, the driver's {size(capacity.driver)}, and each has {there}")
    if plan.gpu_memory is not None:
        need.append(f"a worker's GPU needs {size(gpu_bytes(capacity))}, and has {size(plan.gpu_memory)}")
    fits = f"{capacity.num_workers} worker(s) {'fit' if plan.fits else 'do not fit'}{apart}: {'; '.join(need)}."
    if plan.memory is not None and capacity.driver > plan.memory:
        own = f"give it more than the {size(RUN_BYTES)} of Ray and its own" if plan.memory <= RUN_BYTES else "or give it more memory"
        smaller = "" if plan.memory <= RUN_BYTES else "raise data.batch_size or the rows of a row group, "
        return f"{fits} No number of workers helps the driver: {smaller}{own}."
    if plan.least_workers is None:
        last = min(MAX_WORKERS, capacity.job.data.batch_size)
        return f"{fits} Up to {last:,} workers none do: lower tables.dim, data.window_batches or data.history_length, or hash ids."
    return f"{fits} The least that do: {plan.least_workers:,}."


def _worker_lines(capacity: Capacity) -> Iterator[Line]:
    part, footprint, job, rows = "on each worker", capacity.footprint, capacity.job, capacity.rows_per_rank
    fullest, least = max(footprint.tables_per_rank), min(footprint.tables_per_rank)
    uneven = f"{size(fullest)} on the fullest of {capacity.num_workers} rank(s), {size(least)} on the emptiest"
    yield Line(part, "tables", "tables", fullest, "bytes", f"{footprint.table_arithmetic}: {uneven}")
    copies = 2 + (capacity.num_workers > 1)
    dense = f"{capacity.dense.num_parameters:,} parameters x 4 bytes x ({'weights, gradients, DDP' if copies > 2 else 'weights, gradients'}"
    states = f" + {footprint.dense_state_floats} of {job.optimizer.name})"
    yield Line(part, "dense", "dense network", footprint.dense, "bytes", dense + states)
    per_rank = " + ".join(f"{stream.batch_size:,} {stream.domain}" for stream in capacity.streams)
    batch = f"({per_rank}) / {capacity.num_workers} = {rows:,} rows, every history at its longest, ids as int64"
    yield Line(part, "batch", "a step's batch", capacity.batch, "bytes", batch)
    pairs = ", and LCN's pairs" if capacity.exchange.negatives else ""
    kept = f"an estimate: {ACTIVATION_COPIES} copies of {capacity.exchange.num_ids:,} vectors of {job.tables.dim} floats{pairs}"
    yield Line(part, "activations", "a step's vectors", footprint.activations, "bytes", kept)
    snapshot = f"tables {size(max(capacity.saved_tables))} + network {size(capacity.saved_dense)}, copied while a checkpoint is written"
    yield Line(part, "snapshot", "a snapshot", capacity.snapshot, "bytes", snapshot)
    window = f"{job.data.window_batches} batches of every stream and of validation, as Arrow"
    yield Line(part, "window", "read tasks", footprint.window, "bytes", window)
    store = f"2 windows / {capacity.num_workers} + data.prefetch_batches={job.data.prefetch_batches} batches"
    yield Line(part, "store", "object store", -(-footprint.store // capacity.num_workers), "bytes", store)
    validation = f" + validation rows {size(footprint.kept_validation)}" if footprint.kept_validation else ""
    where = "; tables, network and vectors are the GPU's" if job.scaling.use_gpu else ""
    yield Line(part, "worker", "its machine", capacity.worker, "bytes", f"process {size(PROCESS_BYTES)}{validation} + all above{where}")
    if job.scaling.use_gpu:
        yield Line(part, "gpu", "its GPU", gpu_bytes(capacity), "bytes", "tables + network and its buffers + a step's batch and vectors")


def _step_lines(capacity: Capacity) -> Iterator[Line]:
    part, found, job = "sent by each worker in a step", capacity.exchange, capacity.job
    away = f"{capacity.num_workers - 1}/{capacity.num_workers}"
    distinct = f"{found.num_distinct:,.0f} distinct of {found.num_ids:,} ids (each travels once) x {away}"
    yield Line(part, "ids", "ids out", found.ids, "bytes", f"{distinct} x 8 bytes; ids as if uniform, skewed ones are fewer")
    vectors = f"the same x {job.tables.dim} floats x 4 bytes"
    yield Line(part, "vectors", "vectors back", found.vectors, "bytes", vectors)
    yield Line(part, "gradients", "gradients out", found.gradients, "bytes", f"{vectors}, frozen tables left out")
    if found.negatives:
        negatives = "LCN's candidates to every other rank, and a ring all-reduce of their vectors"
        yield Line(part, "negatives", "negatives", found.negatives, "bytes", negatives)
    ring = f"2 x {away} x {capacity.dense.num_parameters:,} parameters x 4 bytes, a ring all-reduce"
    yield Line(part, "all_reduce", "dense gradients", found.dense, "bytes", ring)
    if found.buffers:
        yield Line(part, "buffers", "buffers", found.buffers, "bytes", f"{size(capacity.dense.buffer_bytes)} of rank 0's to the others")
    total = f"{found.total:,.0f} bytes / {8 * capacity.assumed.network_bytes_per_s / 1e9:g} Gbit/s (assumed) = "
    yield Line(part, "sent", "all", found.total, "bytes", f"{total}{found.total / capacity.assumed.network_bytes_per_s:.3g} s")


def _run_lines(capacity: Capacity) -> Iterator[Line]:
    part, job, assumed = "driver and storage", capacity.job, capacity.assumed
    for stream in capacity.streams:
        held = f"{stream.size.num_row_groups:,} row groups in {stream.size.num_files:,} files, {stream.windows:,} windows of "
        rows = f"{stream.window_rows:,} rows for {stream.rows_in_all:,} rows"
        yield Line(part, f"plan/{stream.domain}", f"plan of {stream.domain}", stream.plan_bytes, "bytes", held + rows)
    driver = f"{' + '.join(size(stream.plan_bytes) for stream in capacity.streams)} + Ray and the driver {size(RUN_BYTES)}"
    yield Line(part, "driver", "its machine", capacity.driver, "bytes", driver)
    open_ones = " + ".join(f"{stream.open_fragments:,}" for stream in capacity.streams)
    groups = " + ".join(f"{stream.size.num_row_groups:,}" for stream in capacity.streams)
    cursor = f"at most: a bit for each of {groups} row groups, and bitmaps of {open_ones} that are open"
    yield Line(part, "cursor", "cursor", capacity.cursor, "bytes", cursor)
    tables, dense = size(sum(capacity.saved_tables)), size(capacity.saved_dense)
    saved = f"tables {tables} + network {dense} + headers of {capacity.saved_tensors:,} tensors + cursor"
    yield Line(part, "checkpoint", "checkpoint", capacity.checkpoint, "bytes", saved)
    rates = f"written at {assumed.write_bytes_per_s / MIB:,.0f} MiB/s, uploaded at {assumed.upload_bytes_per_s / MIB:,.0f}"
    fullest = size(capacity.snapshot)
    yield Line(part, "checkpoint_s", "its time", capacity.checkpoint_s, "s", f"{fullest} of the fullest rank {rates}, all ranks at a time")
    for stream in capacity.streams:
        files, in_a_window = stream.buckets_opened(job, capacity.size.contract), min(stream.window_rows, stream.size.num_rows)
        because = f"{files} history file(s) of each domain / {in_a_window:,} rows of a window, before compression"
        name, value = f"histories, {stream.domain}", capacity.history_bytes[stream.domain]
        yield Line(part, f"history/{stream.domain}", name, value, "bytes/sample", because)


def _speed_lines(capacity: Capacity) -> Iterator[Line]:
    part, one, step_s, rate = "speed", capacity.samples_per_s_of_one, capacity.step_s, capacity.samples_per_s
    if one is None or step_s is None or rate is None:
        return
    if capacity.job.scaling.use_gpu and capacity.assumed.samples_per_s is None:
        return
    cost = capacity.cost
    if capacity.assumed.samples_per_s is None and cost is not None:
        formula = f"1 / ({cost.row:g} + {cost.event:g} x {capacity.events} events + {cost.id:g} x {capacity.ids_per_sample:.0f} ids) us"
        origin = f"{formula}, of {cost.origin}"
    else:
        origin = "as given"
    yield Line(part, "one_worker", "one worker", one, "samples/s", origin)
    efficiency = 1.0 if capacity.num_workers == 1 else capacity.assumed.efficiency
    network = f"{capacity.exchange.total / capacity.assumed.network_bytes_per_s:.3g} s of network"
    step = f"{capacity.rows_per_rank:,} rows / ({one:,.0f} x efficiency {efficiency:g}, assumed) + {network}"
    yield Line(part, "step_s", "a step", step_s, "s", step if capacity.num_workers > 1 else f"{capacity.rows_per_rank:,} rows / {one:,.0f}")
    rows = sum(stream.batch_size for stream in capacity.streams)
    yield Line(part, "samples_per_s", "all workers", rate, "samples/s", f"{rows:,} rows / {step_s:.3g} s")
    in_all = sum(stream.rows_in_all for stream in capacity.streams)
    trained = f"{in_all:,} rows of {' and '.join(stream.domain for stream in capacity.streams)}"
    epochs = f"{trained}, {capacity.job.training.epochs} epoch(s) of the target, no validation"
    yield Line(part, "run_s", "the run", in_all / rate, "s", epochs)
