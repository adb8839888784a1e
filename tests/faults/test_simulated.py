"""The fast harness: a sample of its seeds, and that it can fail."""

from functools import partial

import numpy as np
import pytest

from raytrain.data.cursor import Cursor, trained_mask
from raytrain.data.window import Window
from raytrain.training import commit
from tests.faults import simulated


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_every_row_is_counted_once_whatever_dies(first):
    for seed in range(first, first + 50):
        simulated.run_seed(seed)


def serve_open_fragments_again(monkeypatch):
    monkeypatch.setattr("raytrain.data.fragments.trained_mask", lambda *args: np.zeros_like(trained_mask(*args)))


def trust_every_directory(monkeypatch):
    monkeypatch.setattr(commit, "missing_files", lambda storage, checkpoint: [])


def forget_what_other_ranks_trained(monkeypatch):
    monkeypatch.setattr(Cursor, "merge", lambda self, other: None)


def count_what_was_read_ahead(monkeypatch):
    monkeypatch.setattr(simulated, "window_rows", lambda window, whole=simulated.window_rows: whole(window)[:, ::-1])


def drop_the_last_row_of_an_epoch(monkeypatch):
    order = Window.order

    def shortened(self, shuffle, seed):
        served = order(self, shuffle, seed)
        return served[:-1] if len(served) % 7 == 1 else served

    monkeypatch.setattr(Window, "order", shortened)
    monkeypatch.setattr(simulated, "arriving", partial(unchecked, simulated.arriving))


def unchecked(arriving, *args):
    """Without the plan's own arithmetic, which would notice first."""
    try:
        yield from arriving(*args)
    except AssertionError:
        return


def run_seeds() -> None:
    for seed in range(100):
        simulated.run_seed(seed)


@pytest.mark.parametrize(
    "spoil",
    [
        drop_the_last_row_of_an_epoch,
        serve_open_fragments_again,
        trust_every_directory,
        forget_what_other_ranks_trained,
        count_what_was_read_ahead,
    ],
)
def test_the_harness_notices(monkeypatch, spoil):
    spoil(monkeypatch)
    with pytest.raises((AssertionError, ValueError, OSError)):
        run_seeds()
