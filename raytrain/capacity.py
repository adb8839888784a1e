"""How many runs go on at one time, trials of a sweep or stages of a roll, as arithmetic. Torch-free."""

from dataclasses import dataclass, replace

from raytrain.errors import ResourceError
from raytrain.machine import MIB, size
from raytrain.resources import Needs, Nodes, offered

DRIVER_BYTES = 700 * MIB
"""Memory that a run's own process asks Ray for: Python, torch and Ray, 560 MiB seen. It asks for no CPU: it waits, or its share of them
is counted here (scaling.in_process). Tables and rows of a run come on top."""


@dataclass(frozen=True)
class Capacity:
    """What one run keeps busy, and what the cluster has."""

    needs: Needs
    num_cpus: float
    num_gpus: float
    memory: float
    """Bytes that Ray hands out."""
    what: str = "trial"
    """What messages call a run."""
    memory_each: int = DRIVER_BYTES
    """Bytes that a run's process asks for."""
    num_slots: int | None = None
    """Workers that have room, each on one node; null where there is one node."""
    num_processes: int | None = None
    """Processes of runs that have room, each on one node; null where there is one node."""

    @classmethod
    def of_cluster(cls, needs: Needs, nodes: Nodes, what: str = "trial", memory_each: int = DRIVER_BYTES) -> "Capacity":
        num_cpus, num_gpus, memory = (offered(nodes, resource) for resource in ("CPU", "GPU", "memory"))
        found = cls(needs, num_cpus, num_gpus, memory, what, memory_each)
        if len(nodes) <= 1:
            return found
        # A run that computes in its process has to find its CPUs and its memory on one node.
        rooms = [int(node.get("memory", 0.0) / memory_each) for node in nodes]
        if not needs.num_streams:
            rooms = [min(room, needs.num_slots([node])) for room, node in zip(rooms, nodes, strict=True)]
        return replace(found, num_slots=needs.num_slots(nodes), num_processes=sum(rooms))

    @property
    def limits(self) -> dict[str, int]:
        """Runs that each kind of resource has room for."""
        # Ray counts in ten-thousandths; a quotient of floats may miss a whole number by less.
        found = {"CPUs": int(self.num_cpus / self.needs.total + 1e-6), "memory": int(self.memory / self.memory_each)}
        if self.num_processes is not None:
            found["memory"] = self.num_processes
        if self.needs.num_gpus:
            found["GPUs"] = int(self.num_gpus / self.needs.num_gpus + 1e-6)
        return found if self.num_slots is None else found | {"nodes": self.num_slots // self.needs.num_workers}

    def concurrency(self, asked: int | None) -> int:
        """Runs at one time.

        Args:
            asked: the most that the user wants.

        Raises:
            ResourceError: not even one fits, or fewer than are asked for.
        """
        if self.limits["CPUs"] < 1:
            raise ResourceError(
                f"A {self.what} has to fit on the cluster. Received: {self.needs.arithmetic}, and there are {self.num_cpus:g}. "
                f"{self.needs.advice(self.num_cpus)}"
            )
        room = min(self.limits.values())
        if room < 1:
            raise ResourceError(
                f"A {self.what} has to fit on the cluster. Received: {self.arithmetic}. Free some, or make the {self.what} smaller."
            )
        if asked is not None and asked > room:
            raise ResourceError(
                f"{self.what.capitalize()}s at one time have to fit on the cluster. Received: max_concurrent={asked}; {self.arithmetic}. "
                f"Set max_concurrent={room}, or leave it out."
            )
        return asked or room

    @property
    def arithmetic(self) -> str:
        least, room = min(self.limits.items(), key=lambda limit: limit[1])
        needs = self.needs
        parts = {
            "CPUs": f"{needs.arithmetic} a {self.what}, {self.num_cpus:g} CPUs",
            "memory": f"{size(self.memory_each)} a {self.what}, {size(self.memory)} of memory"
            + (", each on one node" if self.num_processes is not None else ""),
            "GPUs": f"{needs.num_gpus} GPUs a {self.what}, {self.num_gpus:g} GPUs",
            "nodes": f"{needs.num_workers} x {needs.cpus_per_worker:g} CPUs a {self.what}, nodes have room for {self.num_slots} of these",
        }
        return f"{parts[least]}: room for {room} at one time"
