"""Connecting to Ray: an existing cluster where there is one, else a quiet local one."""

import logging
import os

import ray

from raytrain.config import JobConfig
from raytrain.resources import Needs, cluster_address


def connect(needs: Needs) -> None:
    """Checks the arithmetic, then connects to the cluster (RAY_ADDRESS, or inside a Ray job) or starts a local one.

    Raises:
        ResourceError: the job does not fit.
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
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needs.check(resources.get("CPU", 0.0))
    needs.check_gpus(resources.get("GPU", 0.0))


def threads_per_worker(job: JobConfig) -> int:
    """Torch threads of a worker: as configured, else its share of this machine's cores after one is left to read tasks.

    The core matters: OpenMP threads wait for each other by spinning, and a worker with two threads on two cores fell from
    6,100 to 650 samples/s whenever a read task ran, where one thread held 4,000.
    """
    if job.scaling.threads_per_worker is not None:
        return job.scaling.threads_per_worker
    return max(1, ((os.cpu_count() or 1) - 1) // job.scaling.max_workers)
