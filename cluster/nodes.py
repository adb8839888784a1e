"""The machines a job would run on: this one, or those of the cluster that is addressed.

``python -m cluster.nodes OUTPUT`` asks Ray, apart from the preflight, which stays free of Ray's seconds and noise.
"""

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.apart import run_apart
from cluster.machine_checks import STORE_SHARE
from raytrain.errors import ResourceError
from raytrain.machine import Machine
from raytrain.resources import cluster_address

TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Node:
    """What one machine offers to workers, read tasks and Ray's object store."""

    name: str
    num_cpus: float
    memory: int
    """Bytes, object store included."""
    store: int
    """Bytes of the object store."""
    num_gpus: int = 0
    gpu_memory: int = 0
    """Of its smallest GPU; 0 where unknown."""
    starts_ray: bool = False
    """Whether the driver and Ray's own processes are still to come."""

    def slots(self, cpus_per_worker: float, use_gpu: bool) -> int:
        """Workers that fit on it by CPUs and GPUs."""
        by_cpu = int((self.num_cpus + 1e-6) / cpus_per_worker)
        return min(by_cpu, self.num_gpus) if use_gpu else by_cpu


@dataclass(frozen=True)
class Place:
    """Where a job would run."""

    nodes: tuple[Node, ...]
    free_cpus: float | None = None
    """What other jobs leave of the cluster now; null where no cluster was asked."""

    @property
    def num_cpus(self) -> float:
        return sum(node.num_cpus for node in self.nodes)

    @property
    def num_gpus(self) -> int:
        return sum(node.num_gpus for node in self.nodes)


def this_place(machine: Machine) -> Place:
    """This machine alone, with the Ray that a run would start on it."""
    store, gpu_memory = int(STORE_SHARE * machine.memory_available), min((gpu.memory for gpu in machine.gpus), default=0)
    return Place((Node("this machine", machine.num_cpus, machine.memory_available, store, len(machine.gpus), gpu_memory, starts_ray=True),))


def cluster_place() -> Place:
    """The living nodes of the cluster that RAY_ADDRESS names.

    Raises:
        ResourceError: it cannot be reached.
    """
    outcome = run_apart("cluster.nodes", {}, TIMEOUT_S)
    if outcome.ended or not outcome.records:
        raise ResourceError(
            f"The cluster has to be there. Received: RAY_ADDRESS={cluster_address()}, and asking it {outcome.ended or 'gave nothing'} "
            f"({outcome.last_words.rstrip('.')}). Start the cluster, or unset RAY_ADDRESS to run on this machine alone."
        )
    answer = outcome.records[0]
    return Place(tuple(Node(**node) for node in answer["nodes"]), answer["free_cpus"])


def main(output: str) -> None:
    """Writes the nodes and the free CPUs as one line of JSON."""
    import logging

    import ray

    ray.init(address=cluster_address(), log_to_driver=False, logging_level=logging.ERROR)
    nodes = []
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        offered = node["Resources"]
        if node["Alive"]:
            store = int(offered.get("object_store_memory", 0))
            memory = int(offered.get("memory", 0)) + store
            nodes.append(Node(node["NodeManagerAddress"], offered.get("CPU", 0.0), memory, store, int(offered.get("GPU", 0))))
    available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    answer = {"nodes": [asdict(node) for node in nodes], "free_cpus": available.get("CPU", 0.0)}
    Path(output).write_text(json.dumps(answer) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
