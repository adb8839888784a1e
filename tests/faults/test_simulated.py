"""The fast harness: a sample of its seeds, and that it can fail."""

import numpy as np
import pytest

from raytrain.data.cursor import Cursor, trained_mask
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


def run_seeds() -> None:
    for seed in range(100):
        simulated.run_seed(seed)


@pytest.mark.parametrize(
    "spoil", [serve_open_fragments_again, trust_every_directory, forget_what_other_ranks_trained, count_what_was_read_ahead]
)
def test_the_harness_notices(monkeypatch, spoil):
    spoil(monkeypatch)
    with pytest.raises((AssertionError, ValueError, OSError)):
        run_seeds()
