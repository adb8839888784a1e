"""A storage that hangs does not hold a run for ever."""

import threading

import pytest

from raytrain.training.session import within


def test_an_answer_and_an_error_pass_through() -> None:
    assert within(5.0, lambda: 7) == 7
    with pytest.raises(OSError, match="disk is full"):
        within(5.0, lambda: (_ for _ in ()).throw(OSError("disk is full")))


def test_a_call_that_hangs_ends_with_its_limit_named() -> None:
    with pytest.raises(TimeoutError, match=r"not done after 0 s \(training.storage_timeout_s\)"):
        within(0.05, threading.Event().wait)


def test_a_time_out_of_the_storage_itself_keeps_its_words() -> None:
    with pytest.raises(TimeoutError, match="connection timed out"):
        within(5.0, lambda: (_ for _ in ()).throw(TimeoutError("connection timed out")))
