"""Whether a job fits where it would run: CPUs, GPUs, memory and Ray's object store against what the job says, as arithmetic."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from cluster.checks import Check, Status, attempt
from cluster.nodes import Node, Place
from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.footprint import PROCESS_BYTES, RUN_BYTES, Footprint, footprint_of
from raytrain.machine import size, this_machine
from raytrain.resources import Needs, needs_of, num_training_streams

FIX_MEMORY = "Lower tables.dim, data.batch_size or data.window_batches, hash ids to fewer rows, or use machines with more memory."


def ends(job: JobConfig) -> tuple[tuple[int, Status, str], ...]:
    """(workers, what it means if they do not fit, suffix of a check's name): one end, or of elastic workers both.

    A job that may start with the fewest runs; that the most do not fit means it will never grow so far.
    """
    scaling = job.scaling
    if not scaling.elastic:
        return ((scaling.min_workers, "fail", ""),)
    return ((scaling.min_workers, "fail", f" at {scaling.min_workers}"), (scaling.max_workers, "warn", f" at {scaling.max_workers}"))


def check_cores(job: JobConfig, place: Place) -> Iterator[Check]:
    """CPUs and GPUs, from the config alone."""
    if job.scaling.in_process:
        yield Check("CPUs", "ok", f"one worker in this process, and there are {this_machine().num_cpus:g}")
        return
    least = needs_of(job, num_training_streams(job))
    for num_workers, severity, suffix in ends(job):
        needs = replace(least, num_workers=num_workers, num_gpus=num_workers if job.scaling.use_gpu else 0)
        yield attempt(f"CPUs{suffix}", partial(_check_cpus, f"CPUs{suffix}", needs, place, severity), severity)
        if job.scaling.use_gpu:
            yield attempt(f"GPUs{suffix}", partial(_check_gpus, f"GPUs{suffix}", needs, place), severity)


def check_memory(job: JobConfig, contract: Contract, place: Place, num_dense: int = 0) -> Iterator[Check]:
    """Tables, batches and processes of a neural job; ``num_dense`` is 0 until somebody has built the network.

    Raises:
        ContractError, TablesError: as ``footprint_of``.
    """
    if job.scaling.in_process:
        yield _check_own_memory(footprint_of(job, contract, 1, num_dense), this_machine().memory_available)
        return
    for num_workers, severity, suffix in ends(job):
        footprint = footprint_of(job, contract, num_workers, num_dense)
        if job.scaling.use_gpu:
            yield _check_gpu_memory(f"GPU memory{suffix}", footprint, place, severity)
        yield _check_memory(f"memory{suffix}", job, footprint, place, severity)
        yield _check_store(f"object store{suffix}", footprint, place)


def check_tables(job: JobConfig, contract: Contract) -> Check:
    """The tables' bytes; raises ContractError or TablesError where model, data set and sharding do not fit each other."""
    footprint = footprint_of(job, contract, job.scaling.min_workers)
    fullest = f"{size(max(footprint.tables_per_rank))} on the fullest of {footprint.num_workers} rank(s)"
    return Check("tables", "ok", f"{footprint.table_arithmetic}: {fullest}")


def _check_cpus(name: str, needs: Needs, place: Place, severity: Status) -> Check:
    needs.check(place.num_cpus)
    slots = sum(node.slots(needs.cpus_per_worker, False) for node in place.nodes)
    found = f"{needs.arithmetic}, and there are {place.num_cpus:g}"
    if slots < needs.num_workers:
        largest = max((node.num_cpus for node in place.nodes), default=0)
        return Check(
            name,
            severity,
            f"{found}, but on nodes of at most {largest:g} CPUs, where {slots} such workers fit",
            f"Set scaling.cpus_per_worker to at most {largest:g}, or so that it divides a node's CPUs.",
        )
    if place.free_cpus is not None and needs.total > place.free_cpus:
        return Check(name, "warn", f"{found}, {place.free_cpus:g} of them free now", "The run waits until other jobs end.")
    return Check(name, "ok", found)


def _check_gpus(name: str, needs: Needs, place: Place) -> Check:
    needs.check_gpus(place.num_gpus)
    return Check(name, "ok", f"{needs.num_gpus} worker(s) of 1 GPU, and there are {place.num_gpus}")


def _check_memory(name: str, job: JobConfig, footprint: Footprint, place: Place, severity: Status) -> Check:
    """Workers are packed onto few nodes, as Ray does; where CPUs do not suffice they are shared out evenly, as if they did."""
    use_gpu, wanted = job.scaling.use_gpu, footprint.num_workers
    slots = [min(wanted, node.slots(job.scaling.cpus_per_worker, use_gpu)) for node in place.nodes]
    packed = slots if sum(slots) >= wanted else [-(-wanted // len(place.nodes))] * len(place.nodes)
    for_workers = [node.memory - footprint.a_node(node.starts_ray) for node in place.nodes]
    room = sum(max(0, min(num, left // footprint.a_worker(use_gpu))) for num, left in zip(packed, for_workers, strict=True))
    asked = [num * footprint.a_worker(use_gpu) + footprint.a_node(node.starts_ray) for num, node in zip(packed, place.nodes, strict=True)]
    num, need, node = min(zip(packed, asked, place.nodes, strict=True), key=lambda row: row[2].memory - row[1])
    found = f"{_arithmetic(footprint, use_gpu, node, num)} = {size(need)}, and {node.name} has {size(node.memory)} available"
    if room < wanted:
        return Check(name, severity, found, FIX_MEMORY)
    if need > node.memory:
        return Check(name, "warn", found, "Raise scaling.cpus_per_worker, so that fewer workers share a node.")
    return Check(name, "ok", found)


def _check_own_memory(footprint: Footprint, available: int) -> Check:
    """Of a run in this process: neither Ray nor an object store, and rows are read where they are trained on."""
    need = footprint.a_worker(False) + footprint.window
    rows = f"kept validation rows {size(footprint.kept_validation)} + a window of rows {size(footprint.window)}"
    parts = f"process {size(PROCESS_BYTES)} + {_model(footprint)} + {rows} + a checkpoint's copy {size(footprint.snapshot)}"
    found = f"{parts} = {size(need)}, and this machine has {size(available)} available"
    return Check("memory", "ok", found) if need <= available else Check("memory", "fail", found, FIX_MEMORY)


def _arithmetic(footprint: Footprint, use_gpu: bool, node: Node, num_workers: int) -> str:
    kept = f" + kept validation rows {size(footprint.kept_validation)}" if footprint.kept_validation else ""
    model = "" if use_gpu else f" + {_model(footprint)}"
    each = f"process {size(PROCESS_BYTES)}{model}{kept} + a checkpoint's copy {size(footprint.snapshot)}"
    parts = [f"{num_workers} worker(s) x ({each})", f"read tasks {size(footprint.window)}", f"object store {size(footprint.store)}"]
    return " + ".join([*parts, f"driver and Ray {size(RUN_BYTES)}"] if node.starts_ray else parts)


def _model(footprint: Footprint) -> str:
    """What stands where a worker computes."""
    parts = [f"tables {size(max(footprint.tables_per_rank))}", f"a step's vectors {size(footprint.activations)}"]
    return " + ".join([*parts, f"dense network {size(footprint.dense)}"] if footprint.num_dense else parts)


def _check_gpu_memory(name: str, footprint: Footprint, place: Place, severity: Status) -> Check:
    asked = f"{_model(footprint)} = {size(footprint.model_per_rank)}"
    least = min((node.gpu_memory for node in place.nodes if node.gpu_memory), default=0)
    if not least:
        return Check(name, "ok", f"{asked} on each; how much a GPU has is not known")
    if footprint.model_per_rank > least:
        return Check(name, severity, f"{asked}, and a GPU has {size(least)}", "Lower tables.dim or data.batch_size, or use more workers.")
    return Check(name, "ok", f"{asked}, and a GPU has {size(least)}")


def _check_store(name: str, footprint: Footprint, place: Place) -> Check:
    store = sum(node.store for node in place.nodes)
    found = (
        f"2 windows of {size(footprint.window)} + {footprint.num_workers} worker(s) x data.prefetch_batches="
        f"{footprint.prefetch_batches} x {size(footprint.micro_batch)} = {size(footprint.store)}, and Ray keeps {size(store)}"
    )
    if footprint.store > store:
        return Check(name, "warn", f"{found}; it will spill to disk", "Lower data.window_batches, data.prefetch_batches or history_length.")
    return Check(name, "ok", found)
