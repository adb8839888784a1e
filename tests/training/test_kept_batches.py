"""A split that fits is read once and kept; one that does not is read each time, on every rank alike."""

from collections.abc import Iterator

import pytest
import torch

from raytrain.data.batch import Batch, Sequence
from raytrain.training.kept_batches import KeptBatches

NUM_BATCHES = 3


def batch(number: int) -> Batch:
    """40,000 numbers of 8 bytes in its history, 5 of 10 rows elsewhere and as many of 4 bytes."""
    ids = torch.full((10,), number)
    zeros = torch.zeros(10)
    history = Sequence(torch.zeros(10, 4000, dtype=torch.int64), ids)
    return Batch({"item": ids}, {}, {"target": history}, zeros, zeros, group=ids, time=ids, domain=ids)


class Reader:
    def __init__(self) -> None:
        self.num_passes = 0

    def __call__(self) -> Iterator[Batch]:
        self.num_passes += 1
        return (batch(number) for number in range(NUM_BATCHES))


def numbers(batches: Iterator[Batch]) -> list[int]:
    return [int(one.ids["item"][0]) for one in batches]


def test_bytes_of_a_batch_by_hand() -> None:
    assert batch(0).num_bytes == 8 * (40_000 + 5 * 10) + 4 * 2 * 10


@pytest.mark.parametrize(
    ("limit_mib", "others_fit", "num_passes"),
    [(1, True, 1), (1, False, 3), (0, True, 3)],
    ids=["it fits", "another rank's does not", "nothing is kept"],
)
def test_what_fits_everywhere_is_read_once(limit_mib: int, others_fit: bool, num_passes: int) -> None:
    read = Reader()
    kept = KeptBatches(read, limit_mib, lambda fits: fits and others_fit)
    assert [numbers(kept()) for _ in range(3)] == [[0, 1, 2]] * 3
    assert read.num_passes == num_passes


def test_what_is_too_large_is_not_held() -> None:
    asked: list[bool] = []
    kept = KeptBatches(lambda: (batch(number) for number in range(4)), 1, lambda fits: asked.append(fits) or fits)
    assert [numbers(kept()) for _ in range(2)] == [[0, 1, 2, 3]] * 2
    assert asked == [False], "four batches of 0.3 MiB; once is enough"
    assert kept._kept is None
