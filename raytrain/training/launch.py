"""Connecting to Ray: an existing cluster where there is one, else a quiet local one; and the arithmetic of CPUs."""

import logging
import os
from dataclasses import dataclass

import ray

from raytrain.config import JobConfig
from raytrain.errors import ResourceError


@dataclass(frozen=True)
class Needs:
    """What a job keeps busy at one time."""

    num_workers: int
    cpus_per_worker: float
    num_streams: int
    cpus_per_read_task: float
    num_gpus: int = 0

    @property
    def total(self) -> float:
        return self.num_workers * self.cpus_per_worker + self.num_streams * self.cpus_per_read_task

    def check(self, available: float) -> None:
        """Ray would wait for ever for a read task that never fits, so this refuses first.

        Raises:
            ResourceError: with the arithmetic.
        """
        if self.total <= available:
            return
        left = available - self.num_streams * self.cpus_per_read_task
        fitting = max(0.05, int(100 * left / self.num_workers) / 100)
        raise ResourceError(
            f"Workers and read tasks have to fit on the cluster at the same time. Received: scaling.num_workers={self.num_workers} x "
            f"scaling.cpus_per_worker={self.cpus_per_worker:g} + {self.num_streams} streams x "
            f"data.cpus_per_read_task={self.cpus_per_read_task:g} = {self.total:g} CPUs, and there are {available:g}. "
            f"Set scaling.cpus_per_worker={fitting:g}, or fewer workers."
        )


def needs_of(job: JobConfig, num_training_streams: int) -> Needs:
    """The training streams keep reading ahead while the validation stream is read."""
    scaling = job.scaling
    num_gpus = scaling.num_workers if scaling.use_gpu else 0
    return Needs(scaling.num_workers, scaling.cpus_per_worker, num_training_streams + 1, job.data.cpus_per_read_task, num_gpus)


def connect(needs: Needs) -> None:
    """Checks the arithmetic, then connects to the cluster (RAY_ADDRESS, or inside a Ray job) or starts a local one.

    Raises:
        ResourceError: the job does not fit.
    """
    if not ray.is_initialized():
        local = "RAY_ADDRESS" not in os.environ
        if local:
            needs.check(os.cpu_count() or 1)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # A run is a dozen processes, most of them idle: below 4 the raylet warns about that on a laptop.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "4")
        # A task's warnings would interleave with progress lines; failures reach the driver as exceptions.
        ray.init(include_dashboard=False if local else None, log_to_driver=False, logging_level=logging.ERROR)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    needs.check(resources.get("CPU", 0.0))
    if needs.num_gpus > resources.get("GPU", 0.0):
        raise ResourceError(
            f"Every worker needs a GPU. Received: scaling.use_gpu=true, scaling.num_workers={needs.num_gpus}, and there are "
            f"{resources.get('GPU', 0.0):g} GPUs. Set scaling.use_gpu=false, or fewer workers."
        )


def threads_per_worker(job: JobConfig) -> int:
    """Torch threads of a worker: as configured, else its share of this machine's cores after one is left to read tasks.

    The core matters: OpenMP threads wait for each other by spinning, and a worker with two threads on two cores fell from
    6,100 to 650 samples/s whenever a read task ran, where one thread held 4,000.
    """
    if job.scaling.threads_per_worker is not None:
        return job.scaling.threads_per_worker
    return max(1, ((os.cpu_count() or 1) - 1) // job.scaling.num_workers)
