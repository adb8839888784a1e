"""Where the loop meets the other ranks: device, DDP, and the sums every rank has to agree on."""

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from raytrain.models.layers.across_ranks import AcrossRanks


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
        """DDP above one rank, and its ``AcrossRanks`` connected. DDP averages gradients over ranks, which the loop's loss makes up for."""
        network = network.to(self.device)
        if self.size == 1:
            return network
        for module in network.modules():
            if isinstance(module, AcrossRanks):
                module.gather = gather_rows
        return DistributedDataParallel(network, device_ids=[self.device.index] if self.device.type == "cuda" else None)

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks, on every rank; a collective."""
        if self.size > 1:
            dist.all_reduce(value)
        return value

    def all(self, value: bool) -> bool:
        """Whether it is so on every rank; a collective."""
        return not self.sum(torch.tensor(0.0 if value else 1.0, device=self.device)).item()

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


def gather_rows(rows: Tensor) -> Tensor:
    """[b, ...] of this rank -> [B, ...] of all ranks in their order, with gradients; a collective, b may differ among ranks."""
    gathered: Tensor = _GatherRows.apply(rows)  # type: ignore[no-untyped-call]
    return gathered


class _GatherRows(torch.autograd.Function):
    """Backward adds up what every rank's loss says of a row, and keeps this rank's own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        num_rows = torch.zeros(dist.get_world_size(), dtype=torch.int64, device=rows.device)
        num_rows[dist.get_rank()] = len(rows)
        dist.all_reduce(num_rows)
        counts = num_rows.tolist()
        # gloo gathers equal shapes alone, and no bool.
        sent = rows.new_zeros(max(counts), *rows.shape[1:], dtype=torch.uint8 if rows.dtype == torch.bool else rows.dtype)
        sent[: len(rows)] = rows
        received = [torch.empty_like(sent) for _ in counts]
        dist.all_gather(received, sent)
        ctx.begin, ctx.num_rows = sum(counts[: dist.get_rank()]), len(rows)
        return torch.cat([part[:count] for part, count in zip(received, counts, strict=True)]).to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.begin : ctx.begin + ctx.num_rows]


def unwrapped(network: nn.Module) -> nn.Module:
    return network.module if isinstance(network, DistributedDataParallel) else network
