"""Which events are chosen: the highest scores, the newer of equal ones, never padding before an event."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from raytrain.models.layers.top_events import newest_events, top_events

scores_of_a_row = st.lists(st.sampled_from([0.0, 1.0, 1.5, -2.0, math.inf, math.nan]), min_size=1, max_size=12)


def test_equal_scores_go_to_the_newer_event() -> None:
    scores = torch.tensor([[3.0, 1.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    assert top_events(scores, 3).tolist() == [[0, 3, 4], [2, 3, 4]]


def test_padding_is_chosen_last() -> None:
    scores = torch.tensor([[5.0, 4.0, -math.inf, -math.inf], [1.0, 2.0, 3.0, -math.inf]])
    assert top_events(scores, 2).tolist() == [[0, 1], [1, 2]]
    assert set(top_events(scores, 3)[0].tolist()) >= {0, 1}


def test_a_history_shorter_than_the_choice_is_taken_whole() -> None:
    assert top_events(torch.tensor([[1.0, 3.0], [2.0, -math.inf]]), 5).tolist() == [[0, 1], [0, 1]]


@given(st.lists(scores_of_a_row, min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 5))
def test_the_choice_is_that_of_a_sort_at_any_width(rows: list[list[float]], num_events: int, extra: int) -> None:
    width = max(map(len, rows)) + extra
    scores = torch.tensor([row + [-math.inf] * (width - len(row)) for row in rows])
    chosen = top_events(scores, num_events)
    assert chosen.shape == (len(rows), min(num_events, width))
    for row, places in zip(rows, chosen.tolist(), strict=True):
        assert places == sorted(set(places))
        ranked = sorted((-math.inf if math.isnan(score) else score, place) for place, score in enumerate(row))
        wanted = {place for score, place in ranked[-num_events:] if score > -math.inf}
        assert wanted <= set(places)


def test_newest_events_come_newest_first_and_masked_where_there_are_none() -> None:
    index, mask = newest_events(torch.tensor([4, 1, 0]), 5, 2)
    assert index.tolist() == [[3, 2], [0, 0], [0, 0]]
    assert mask.tolist() == [[True, True], [True, False], [False, False]]
    assert newest_events(torch.tensor([1]), 1, 3)[0].shape == (1, 1)
