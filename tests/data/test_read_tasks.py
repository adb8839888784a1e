"""How many read tasks training may run at once: a scored split always finds room for one."""

import pytest

from raytrain.data.stream import tasks_at_once


@pytest.mark.parametrize(
    ("num_cpus", "training", "expected"),
    [(1.0, [0.5], 1), (1.5, [0.25, 0.25], 2), (1.0, [0.1], 9), (63.0, [0.5], 125), (1.0, [0.25, 0.25], 1), (0.2, [0.5], 1)],
    ids=["a laptop", "two domains", "tenths do not round down", "a cluster", "what is left goes to nobody", "never none"],
)
def test_training_leaves_room_for_a_task_of_a_scored_split(num_cpus: float, training: list[float], expected: int) -> None:
    assert tasks_at_once(num_cpus, training) == expected
    if num_cpus >= 2 * sum(training):
        assert expected * sum(training) + max(training) <= num_cpus + 1e-9
