"""What metrics ask of torch.distributed; without a process group there is one rank, and nothing is sent.

Every function is a collective: all ranks call it equally often, in the same order. Shapes: B rows of this rank, R ranks.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, distributed


def world_size() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own_rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def gather(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [N], equally long on every rank -> float64 [R, N] by rank, the same on every rank."""
    num_ranks = world_size()
    if num_ranks == 1:
        return values[None]
    sent = _to_device(values)
    received = [torch.empty_like(sent) for _ in range(num_ranks)]
    distributed.all_gather(received, sent)
    return torch.stack(received).cpu().numpy()


def all_sum(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 sum over ranks, of any one shape; for arrays too long for R copies of them."""
    if world_size() == 1:
        return values
    summed = _to_device(values.copy())
    distributed.all_reduce(summed)
    return summed.cpu().numpy()


def exchange(columns: Sequence[npt.NDArray[Any]], owner: npt.NDArray[np.intp]) -> list[npt.NDArray[Any]]:
    """Sends row i of every column to rank ``owner[i]``; returns the columns of the rows this rank owns.

    columns: [B] each, any numeric type but the same one on every rank. owner: [B], ranks.
    """
    num_ranks = world_size()
    if num_ranks == 1:
        return list(columns)
    order = np.argsort(owner, kind="stable")
    num_sent = np.bincount(owner, minlength=num_ranks)
    num_received = _all_to_all(num_sent, [1] * num_ranks, [1] * num_ranks)
    return [_all_to_all(column[order], num_sent.tolist(), num_received.tolist()) for column in columns]


def _all_to_all(values: npt.NDArray[Any], num_sent: list[int], num_received: list[int]) -> npt.NDArray[Any]:
    sent = _to_device(values)
    received = sent.new_empty(sum(num_received))
    distributed.all_to_all_single(received, sent, num_received, num_sent)
    return received.cpu().numpy()


def _to_device(values: npt.NDArray[Any]) -> Tensor:
    # NCCL moves CUDA tensors only; a group with a backend for each device takes the CPU's.
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    return torch.from_numpy(values).to(device)
