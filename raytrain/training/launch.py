"""Connecting to Ray: an existing cluster where there is one, else a quiet local one."""

import logging
import os
import time
from collections.abc import Callable
from functools import partial

import ray
from ray.autoscaler.sdk import request_resources
from rich.console import Console

from raytrain.config import JobConfig
from raytrain.resources import Needs, Nodes, cluster_address, offered


def connect(needs: Needs, console: Console) -> None:
    """Connects to the cluster (RAY_ADDRESS, or inside a Ray job) or starts a local one, and checks the arithmetic.

    Raises:
        ResourceError: the job does not fit, also after ``scaling.wait_for_nodes_s`` where a cluster may grow.
    """
    if not ray.is_initialized():
        local = cluster_address() is None
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # A run is a dozen processes, most of them idle: below 4 the raylet warns about that on a laptop.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "4")
        if local:
            # Nobody preempts a Ray of one's own; the watcher is one more process to start.
            os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        # A task's warnings would interleave with progress lines; failures reach the driver as exceptions.
        # Without an address Ray would join whatever cluster somebody has started on this machine.
        ray.init("local" if local else None, include_dashboard=False if local else None, log_to_driver=False, logging_level=logging.ERROR)
    if needs.wait_s and cluster_address() is not None:
        wait_for_nodes(needs, living_nodes, request_resources, partial(console.print, markup=False, highlight=False))
    needs.check_nodes(living_nodes())


def living_nodes() -> Nodes:
    """What the nodes of the cluster that this process has joined hand out, whatever others have taken of it."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def wait_for_nodes(
    needs: Needs,
    nodes: Callable[[], Nodes],
    request: Callable[..., None],
    say: Callable[[str], None],
    poll_s: float = 1.0,
    say_every_s: float = 10.0,
) -> None:
    """Asks the cluster's autoscaler for what is missing and waits until it is there, or ``needs.wait_s`` are over.

    Args:
        nodes: what the cluster has now.
        request: ``ray.autoscaler.sdk.request_resources``.
        say: gets what is missing and the time left, at once and every ``say_every_s``.
    """
    if needs.fits(nodes()):
        return
    request(bundles=needs.bundles)
    now = next_line = time.monotonic()
    limit = now + needs.wait_s
    try:
        while not needs.fits(there := nodes()) and now < limit:
            if now >= next_line:
                next_line += say_every_s
                wanted = needs.arithmetic + (f" and {needs.num_gpus} GPUs" if needs.num_gpus else "")
                found = f"{offered(there, 'CPU'):g} CPUs and {offered(there, 'GPU'):g} GPUs on {len(there)} nodes"
                say(f"waiting for nodes: the job needs {wanted}, and there are {found}; {limit - now:.0f} s left")
            time.sleep(poll_s)
            now = time.monotonic()
    finally:
        # A request stands until it is taken back; nodes that came stay a while, and then hold the workers.
        request(bundles=[])


def threads_per_worker(job: JobConfig) -> int:
    """Torch threads of a worker: as configured, else its share of this machine's cores after one is left to read tasks; all of them for a
    run in this process, which reads between steps.

    The core matters: OpenMP threads wait for each other by spinning, and a worker with two threads on two cores fell from
    6,100 to 650 samples/s whenever a read task ran, where one thread held 4,000.
    """
    if job.scaling.threads_per_worker is not None:
        return job.scaling.threads_per_worker
    num_cpus = os.cpu_count() or 1
    return num_cpus if job.scaling.in_process else max(1, (num_cpus - 1) // job.scaling.max_workers)
