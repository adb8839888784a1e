"""Where the loop meets the other ranks: device, DDP, and the sums every rank has to agree on."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process among its ranks."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def current(cls, device: torch.device | None = None) -> "World":
        """Read off the process group; one rank when there is none."""
        device = device or torch.device("cpu")
        return cls(dist.get_rank(), dist.get_world_size(), device) if dist.is_initialized() else cls(device=device)

    @classmethod
    def alone(cls) -> "World":
        """One rank in this process, with the process group that sharded tables ask for; no port, no environment."""
        if not dist.is_initialized():
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
        return cls()

    def wrap(self, network: nn.Module) -> nn.Module:
        """DDP above one rank. DDP averages gradients over ranks, which the loop's loss makes up for."""
        network = network.to(self.device)
        if self.size == 1:
            return network
        return DistributedDataParallel(network, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks, on every rank; a collective."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, data: bytes) -> list[bytes]:
        """Bytes of every rank by rank on rank 0, nothing elsewhere; a collective."""
        if self.size == 1:
            return [data]
        received: list[bytes] | None = [b""] * self.size if self.rank == 0 else None
        dist.gather_object(data, received)
        return received or []

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable value on every rank; a collective."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=self.device)
        return values[0]


def unwrapped(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network
