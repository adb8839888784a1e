"""Which events are paired: the newest, of the right codes, and never padding."""

import torch

from raytrain.data.batch import Sequence
from raytrain.models.lcn.item_frequency import ItemFrequency
from raytrain.models.lcn.pairs import draw_before, draw_events

HISTORY = Sequence(
    items=torch.tensor([[11, 12, 13, 14, 15], [21, 22, 0, 0, 0], [0, 0, 0, 0, 0]]),
    lengths=torch.tensor([5, 2, 0]),
    side={
        "rating": torch.tensor([[5, 1, 5, 1, 4], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]),
    },
    age_s=torch.tensor([[50, 40, 30, 20, 10], [7, 3, 0, 0, 0], [0, 0, 0, 0, 0]]),
)


def items(**options: object) -> list[list[int]]:
    settings = {"num_events": 2, "num_recent": 5, "side": {}, "randomly": False} | options
    places, valid = draw_events(HISTORY, **settings)
    return [HISTORY.items[row, places[row]][valid[row]].tolist() for row in range(3)]


def test_the_newest_events_come_first() -> None:
    assert items() == [[15, 14], [22, 21], []]
    assert items(num_events=9) == [[15, 14, 13, 12, 11], [22, 21], []]


def test_only_events_with_the_wanted_codes_are_paired() -> None:
    assert items(side={"rating": (4, 5)}) == [[15, 13], [], []]


def before(ages: list[list[int]], **options: object) -> list[list[list[int]]]:
    settings = {"num_events": 2, "num_recent": 3, "window_s": None, "side": {}, "randomly": False} | options
    places, valid = draw_before(HISTORY, torch.tensor(ages), **settings)
    return [[HISTORY.items[row, places[row, t]][valid[row, t]].tolist() for t in range(len(ages[row]))] for row in range(3)]


def test_partners_lie_strictly_before_a_moment_and_come_newest_first() -> None:
    # A moment 0, 20 and 99 s ago: an event of the same second is no partner, and nothing lies before the last.
    assert before([[0, 20, 99]] * 3) == [[[15, 14], [13, 12], []], [[22, 21], [], []], [[], [], []]]


def test_partners_lie_within_the_window_and_have_the_wanted_codes() -> None:
    assert before([[0, 20]] * 3, window_s=15) == [[[15], [13]], [[22, 21], []], [[], []]]
    assert before([[0, 20]] * 3, side={"rating": (4, 5)}) == [[[15, 13], [13, 11]], [[], []], [[], []]]
    assert before([[0, 20]] * 3, side={"rating": (4, 5)}, num_recent=1) == [[[15], [13]], [[], []], [[], []]]


def test_drawn_partners_are_among_the_newest() -> None:
    torch.manual_seed(0)
    seen = [before([[0, 20]] * 3, randomly=True, num_events=1) for _ in range(50)]
    assert {item for rows in seen for item in rows[0][0]} == {13, 14, 15}
    assert {item for rows in seen for item in rows[0][1]} == {11, 12, 13}


def test_draws_stay_among_the_newest_and_never_repeat() -> None:
    torch.manual_seed(0)
    seen = [items(randomly=True, num_recent=3) for _ in range(50)]
    assert {item for rows in seen for item in rows[0]} == {13, 14, 15}
    assert all(len(set(rows[0])) == 2 for rows in seen)
    assert all(sorted(rows[1]) == [21, 22] for rows in seen)
    assert all(rows[2] == [] for rows in seen)


def test_shares_of_items_follow_what_was_counted() -> None:
    frequency = ItemFrequency(num_buckets=1 << 10, horizon_steps=10**6)
    for _ in range(10):
        frequency.add(torch.tensor([1, 1, 1, 2]))
    torch.testing.assert_close(frequency.log_share(torch.tensor([1, 2])).exp(), torch.tensor([0.75, 0.25]), rtol=1e-3, atol=0)
    assert frequency.log_share(torch.tensor([999])) < frequency.log_share(torch.tensor([2]))


def test_the_past_fades() -> None:
    frequency = ItemFrequency(num_buckets=1 << 10, horizon_steps=2)
    frequency.add(torch.tensor([1]))
    assert frequency.log_share(torch.tensor([1])).exp() == 1
    for _ in range(20):
        frequency.add(torch.tensor([2]))
    torch.testing.assert_close(frequency.log_share(torch.tensor([2])).exp(), torch.tensor([1.0]), rtol=1e-4, atol=0)


def test_counts_are_saved_with_the_network() -> None:
    frequency = ItemFrequency(8, 10)
    frequency.add(torch.tensor([3]))
    other = ItemFrequency(8, 10)
    other.load_state_dict(frequency.state_dict())
    assert other.log_share(torch.tensor([3])) == frequency.log_share(torch.tensor([3]))
