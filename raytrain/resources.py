"""What a job keeps busy at one time, as arithmetic. Torch-free: the cluster's preflight asks before anything starts."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from raytrain.config import JobConfig
from raytrain.errors import ResourceError

Nodes = Sequence[Mapping[str, float]]
"""What each living node of a cluster hands out, as Ray names it: CPU, GPU, memory."""


@dataclass(frozen=True)
class Needs:
    """What a job keeps busy at one time."""

    num_workers: int
    cpus_per_worker: float
    num_streams: int
    cpus_per_read_task: float
    num_gpus: int = 0
    wait_s: float = 0.0
    """How long a cluster that grows is given."""

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What a cluster that grows is asked for: a worker, or a read task, is on one node."""
        worker = {"CPU": self.cpus_per_worker} | ({"GPU": 1.0} if self.num_gpus else {})
        return [worker] * self.num_workers + [{"CPU": self.cpus_per_read_task}] * (self.num_streams if self.cpus_per_read_task else 0)

    def fits(self, nodes: Nodes) -> bool:
        """Whether the nodes hold it, each worker on one of them."""
        try:
            self.check_nodes(nodes)
        except ResourceError:
            return False
        return True

    def num_slots(self, nodes: Nodes) -> int:
        """Workers that the nodes have room for."""
        by_cpus = [int((node.get("CPU", 0.0) + 1e-6) / self.cpus_per_worker) for node in nodes]
        return sum(min(slots, int(node.get("GPU", 0.0))) if self.num_gpus else slots for slots, node in zip(by_cpus, nodes, strict=True))

    @property
    def total(self) -> float:
        return self.num_workers * self.cpus_per_worker + self.num_streams * self.cpus_per_read_task

    @property
    def arithmetic(self) -> str:
        if not self.num_streams:
            return f"scaling.in_process=true with {self.total:g} thread(s) = {self.total:g} CPUs"
        return (
            f"scaling.num_workers={self.num_workers} x scaling.cpus_per_worker={self.cpus_per_worker:g} + {self.num_streams} streams x "
            f"data.cpus_per_read_task={self.cpus_per_read_task:g} = {self.total:g} CPUs"
        )

    def advice(self, available: float) -> str:
        """A change after which the job fits."""
        left = available - self.num_streams * self.cpus_per_read_task
        # The billionth is for floats: 2 - 3 x 0.1 is not quite 1.7.
        fewer = int((left + 1e-9) / self.cpus_per_worker)
        smaller = int((left + 1e-9) * 100 / self.num_workers) / 100
        if smaller >= LEAST_CPUS_PER_WORKER:
            return f"Set scaling.cpus_per_worker={smaller:g}, or fewer workers."
        if fewer >= 1:
            return f"Set scaling.num_workers={fewer}."
        return "Lower data.cpus_per_read_task and scaling.cpus_per_worker, or use a machine with more CPUs."

    def check(self, available: float) -> None:
        """Ray would wait for ever for a read task that never fits, so this refuses first.

        Raises:
            ResourceError: with the arithmetic.
        """
        # Ray counts CPUs in ten-thousandths; a sum of floats may miss by less.
        if self.total > available + 1e-6:
            raise ResourceError(
                "Workers and read tasks have to fit on the cluster at the same time. "
                f"Received: {self.arithmetic}, and there are {available:g}. {self.advice(available)}"
            )

    def check_nodes(self, nodes: Nodes) -> None:
        """Raises ResourceError, with the arithmetic, where the nodes hold it neither together nor each worker on one of them."""
        self.check(offered(nodes, "CPU"))
        self.check_gpus(offered(nodes, "GPU"))
        if (num_slots := self.num_slots(nodes)) < self.num_workers:
            each = ", ".join(f"{node.get('CPU', 0.0):g}" for node in nodes if node.get("CPU"))
            gpus = ", ".join(f"{node.get('GPU', 0.0):g}" for node in nodes if node.get("CPU")) if self.num_gpus else ""
            raise ResourceError(
                f"Every worker has to fit on one node. Received: scaling.num_workers={self.num_workers} x "
                f"scaling.cpus_per_worker={self.cpus_per_worker:g}, and nodes of {each} CPUs{f' and {gpus} GPUs' if gpus else ''} = "
                f"{num_slots} workers. {self._advice_for_nodes(nodes)}"
            )

    def _advice_for_nodes(self, nodes: Nodes) -> str:
        """The most CPUs a worker with which all have room, else fewer workers."""
        if not self.num_streams:
            return f"Set scaling.threads_per_worker={int(max(node.get('CPU', 0.0) for node in nodes))} or less."
        shares = {int(node.get("CPU", 0.0) / number * 100) / 100 for node in nodes for number in range(1, self.num_workers + 1)}
        enough = [share for share in shares if share > 0 and replace(self, cpus_per_worker=share).num_slots(nodes) >= self.num_workers]
        fewer = f"scaling.num_workers={slots}" if (slots := self.num_slots(nodes)) else "fewer workers"
        return f"Set scaling.cpus_per_worker={max(enough):g}, or {fewer}." if enough else f"Set {fewer}."

    def check_gpus(self, available: float) -> None:
        """Raises ResourceError when there are fewer GPUs than workers that want one."""
        if self.num_gpus > available:
            raise ResourceError(
                f"Every worker needs a GPU. Received: scaling.use_gpu=true, scaling.num_workers={self.num_gpus}, and there are "
                f"{available:g} GPUs. Set scaling.use_gpu=false, or fewer workers."
            )


def offered(nodes: Nodes, resource: str) -> float:
    """By all of them together."""
    return sum(node.get(resource, 0.0) for node in nodes)


LEAST_CPUS_PER_WORKER = 0.05
"""Less is no advice: so many workers would take turns on one core."""


def needs_of(job: JobConfig, num_training_streams: int) -> Needs:
    """The training streams keep reading ahead while the validation stream is read.

    Of elastic workers the fewest have to fit, and their streams reserve nothing. A run in this process reads its own.
    """
    scaling = job.scaling
    if scaling.in_process:
        return Needs(1, 1.0, 0, 0.0)
    num_gpus = scaling.min_workers if scaling.use_gpu else 0
    cpus_per_read_task = 0.0 if scaling.elastic else job.data.cpus_per_read_task
    return Needs(
        scaling.min_workers, scaling.cpus_per_worker, num_training_streams + 1, cpus_per_read_task, num_gpus, scaling.wait_for_nodes_s
    )


def needs_beside_others(job: JobConfig) -> Needs:
    """What a run keeps busy as one of several; in a process of its own it takes as many cores as it has threads, 1 unless it says."""
    if job.scaling.in_process:
        return Needs(1, float(job.scaling.threads_per_worker or 1), 0, 0.0)
    return needs_of(job, num_training_streams(job))


def beside_others(job: JobConfig) -> JobConfig:
    """``job`` as one of several: in a process of its own it has one thread unless it says more. Each on all cores would have their
    threads wait for one another."""
    threads = job.scaling.threads_per_worker or (1 if job.scaling.in_process else None)
    return job.model_copy(update={"scaling": job.scaling.model_copy(update={"threads_per_worker": threads})})


def largest(needs: Iterable[Needs]) -> Needs:
    return max(needs, key=lambda one: (one.num_gpus, one.total))


def num_training_streams(job: JobConfig) -> int:
    """One per domain whose rows are trained on."""
    return 2 if job.data.source_batch_size else 1


def cluster_address() -> str | None:
    """Address of the cluster that a run joins: RAY_ADDRESS ("auto" for one that was started on this machine).

    null: a run starts a Ray of its own on this machine, whoever else has started one there. Inside a Ray job RAY_ADDRESS is set.
    """
    return os.environ.get("RAY_ADDRESS") or None


def is_alone() -> bool:
    """Whether a run would have this machine and no more: there is no cluster to join, and this process has started no Ray."""
    ray = sys.modules.get("ray")
    return cluster_address() is None and not (ray is not None and ray.is_initialized())
