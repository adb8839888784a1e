"""The gain ledger in TensorBoard and in the report's table: bounded, worst first."""

from typing import Any

from raytrain.training.figures import figure
from raytrain.training.gain_log import last_ledger
from raytrain.training.gain_report import MAX_ROWS, draw_accepted, draw_gain, draw_surprise, is_surprise_known, ledger_table
from raytrain.training.progress import MAX_BOARD_SLICES, scalars


def ledger_of(num_slices: int) -> dict[str, Any]:
    """Slice n gains n hundredths less than nothing, of 10 + n rows; every other one is let in."""
    numbers = list(range(1, num_slices + 1))
    return {
        "kind": "gain",
        "step": 10,
        "threshold": -0.3,
        "entry_threshold": -0.3,
        "accepted_share": 0.5,
        "num_slices": num_slices,
        "num_accepted": num_slices // 2,
        "num_hurting": 0,
        "num_barred": 0,
        "slice": numbers,
        "gain": [-number / 100 for number in numbers],
        "surprise": [None] * num_slices,
        "barred": [False] * num_slices,
        "volume": [10.0 + number for number in numbers],
        "accepted": [(10.0 + number) / 2 for number in numbers],
        "weight": [float(number % 2) for number in numbers],
    }


def test_tensorboard_draws_the_ledger_and_each_slice() -> None:
    record, slices = ledger_of(2), list[int]()
    assert scalars(record, slices) == {
        "gain/threshold": -0.3,
        "gain/entry_threshold": -0.3,
        "gain/accepted_share": 0.5,
        "gain_of_slice/1": -0.01,
        "accepted_of_slice/1": 0.5,
        "gain_of_slice/2": -0.02,
        "accepted_of_slice/2": 0.5,
    }
    assert slices == [2, 1], "the largest first"


def test_tensorboard_keeps_to_the_slices_it_began_with() -> None:
    slices: list[int] = []
    found = scalars(ledger_of(MAX_BOARD_SLICES + 30), slices)
    assert sum(name.startswith("gain_of_slice/") for name in found) == MAX_BOARD_SLICES
    before = list(slices)
    again = scalars(ledger_of(MAX_BOARD_SLICES + 60), slices)
    assert slices == before, "a line does not break off because others have grown"
    assert again.keys() == found.keys()


def test_other_records_are_drawn_as_they_are() -> None:
    assert scalars({"kind": "train", "step": 3, "loss": 0.5, "note": "x"}, []) == {"train/loss": 0.5}


def test_a_slice_that_nothing_is_known_of_has_no_gain_to_draw() -> None:
    record = ledger_of(1) | {"gain": [None]}
    assert "gain_of_slice/1" not in scalars(record, [])


def test_a_mixture_is_let_in_without_a_gain() -> None:
    ledger = last_ledger([ledger_of(2) | {"gain": [None, None], "weight": [1.0, 1.0]}]) | {"name": [None, None]}
    table = ledger_table(ledger)
    assert table is not None
    assert [row["now"] for row in table["rows"]] == ["let in", "let in"]
    assert "No gain is known." in table["note"]


def test_a_long_run_draws_some_of_its_records_and_the_last() -> None:
    records = [ledger_of(1) | {"step": step} for step in range(1, 1002)]
    axes = figure().axes[0]
    draw_gain(axes, records, steps_per_epoch=10.0)
    epochs = axes.lines[-1].get_xdata()
    assert len(epochs) == 91, "every eleventh, from the last"
    assert epochs[-1] == 100.1
    draw_accepted(axes, records[:2], 10.0)
    # Nothing came between the two records, which hold the same volumes: the first one's window is all there was.
    assert axes.lines[-1].get_ydata().tolist() == [0.5]


def test_surprise_is_drawn_where_it_decides() -> None:
    known = ledger_of(2) | {"surprise": [0.1, None], "max_surprise": 0.25}
    assert is_surprise_known(known)
    assert not is_surprise_known(ledger_of(2) | {"max_surprise": 0.25}), "nothing is known yet"
    assert not is_surprise_known(ledger_of(2) | {"surprise": [0.1, 0.2]}), "nothing is kept out for it"
    axes = figure().axes[0]
    draw_surprise(axes, [known, known | {"step": 20}], 10.0)
    limit, line = axes.lines
    assert limit.get_ydata() == [0.25, 0.25]
    assert line.get_xydata().tolist() == [[1.0, 0.1], [2.0, 0.1]]


def test_the_table_ends_and_says_what_it_leaves_out() -> None:
    num_slices = MAX_ROWS + 5
    ledger = last_ledger([ledger_of(num_slices) | {"harm": 0.0}]) | {"name": [None] * (num_slices - 1) + ["x" * 50]}
    table = ledger_table(ledger)
    assert table is not None
    assert len(table["rows"]) == MAX_ROWS
    assert table["rows"][0]["cells"][:2] == ["x" * 39 + f"\u2026 ({num_slices})", f"-0.{num_slices}0"]
    assert table["rows"][1]["cells"][0] == str(num_slices - 1)
    assert f"There are {num_slices}; the {MAX_ROWS} worst are shown." in table["note"]


def test_gains_are_shares_or_losses_and_written_as_such() -> None:
    for harm, text, meaning in (({"harm": 0.0}, "-0.010", "0 is as good as that"), ({}, "-1.0e-02", "the loss on held-out internal rows")):
        table = ledger_table(last_ledger([ledger_of(1) | harm]) | {"name": [None]})
        assert table is not None
        assert table["rows"][0]["cells"][1] == text
        assert meaning in table["note"]


def test_what_surprises_most_is_listed_first_whatever_its_gain() -> None:
    known = {"gain": [-0.9, 0.5, 0.1], "surprise": [0.0, 0.4, 0.9], "barred": [False, True, True], "num_barred": 2, "max_surprise": 0.25}
    table = ledger_table(last_ledger([ledger_of(3) | known]) | {"name": [None] * 3})
    assert table is not None
    assert [row["cells"][0] for row in table["rows"]] == ["3", "2", "1"]
    assert [row["now"] for row in table["rows"]] == ["left out, surprising", "left out, surprising", "let in"]
    assert "Left out whatever their gain: 2, whose surprise is above 0.25" in table["note"]
