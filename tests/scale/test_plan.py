"""The plan's cost grows with its row groups, and stays far below the bounds at a tenth of the largest size."""

from tests.scale.plan import measure


def test_a_million_row_groups_are_planned_in_seconds():
    figures = measure(10_000, 100, num_open=2_000, batch_size=1024)
    assert figures["row_groups"] == 1_000_000
    # A tenth of what 10^7 may take: 60 s, 50 MiB.
    assert figures["remaining_s"] < 6
    assert figures["cursor_mib"] < 5
