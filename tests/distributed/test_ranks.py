"""The rank runner itself: results by rank, and failures that name their rank."""

import os

import pytest
import torch
import torch.distributed as dist

from tests.distributed.ranks import run_ranks


def sum_of_ranks(offset: int) -> tuple[int, int, int]:
    total = torch.tensor(dist.get_rank() + offset)
    dist.all_reduce(total)
    return dist.get_rank(), int(total), torch.get_num_threads()


def fail_on_rank_1() -> None:
    if dist.get_rank() == 1:
        raise KeyError("planted")
    dist.barrier()


def die_on_rank_1() -> None:
    if dist.get_rank() == 1:
        os._exit(3)
    dist.barrier()


def test_results_come_back_by_rank() -> None:
    assert run_ranks(sum_of_ranks, 3, 10) == [(0, 33, 1), (1, 33, 1), (2, 33, 1)]


def test_a_failing_rank_raises_its_own_error_with_its_traceback() -> None:
    with pytest.raises(KeyError, match="planted") as caught:
        run_ranks(fail_on_rank_1, 2)
    assert "on rank 1" in caught.value.__notes__[0]
    assert "fail_on_rank_1" in caught.value.__notes__[0]


def test_a_dying_rank_is_an_error() -> None:
    with pytest.raises((ChildProcessError, RuntimeError)):
        run_ranks(die_on_rank_1, 2)
