"""Both ways of scoring and pooling events against a plain gather, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from raytrain.models.layers import event_bags, event_scores
from raytrain.models.layers.event_bags import EventBags
from raytrain.models.layers.event_scores import pool_events, score_events


@pytest.fixture(params=["all pairs", "gathered", "gathered in many chunks"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(event_scores, "ALL_PAIRS_PER_EVENT", 10**6 if request.param == "all pairs" else 0)
    if request.param == "gathered in many chunks":
        monkeypatch.setattr(event_bags, "_CHUNK_BYTES", 100)
    return str(request.param)


def inputs(lengths: list[int], num_unique: int = 6, size: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    length = max(1, *lengths)
    tensor = torch.tensor(lengths)
    mask = torch.arange(length) < tensor[:, None]
    inverse = torch.randint(0, num_unique, (len(lengths), length), generator=generator) * mask
    query = torch.randn(len(lengths), size, dtype=torch.float64, generator=generator)
    rows = torch.randn(num_unique, size, dtype=torch.float64, generator=generator)
    weights = torch.rand(len(lengths), length, dtype=torch.float64, generator=generator) * mask
    return query, rows, inverse, tensor, weights, mask


@pytest.mark.parametrize("lengths", [[5, 0, 3, 1, 4], [1], [0, 0], [2, 2, 2]], ids=["mixed", "one event", "all empty", "equal"])
def test_scores_and_sums_equal_a_plain_gather(way: str, lengths: list[int]) -> None:
    query, rows, inverse, length, weights, mask = inputs(lengths)
    scores = score_events(query, rows, EventBags(inverse, length))
    expected = (rows[inverse] * query[:, None]).sum(2)
    torch.testing.assert_close(scores[mask], expected[mask])
    assert scores.isfinite().all()
    torch.testing.assert_close(pool_events(weights, rows, EventBags(inverse, length)), (rows[inverse] * weights[:, :, None]).sum(1))


def test_gradients_equal_finite_differences(way: str) -> None:
    query, rows, inverse, length, weights, mask = inputs([5, 0, 3, 1])
    query, rows, weights = query.requires_grad_(), rows.requires_grad_(), weights.requires_grad_()
    assert gradcheck(lambda q, r: score_events(q, r, EventBags(inverse, length)) * mask, (query, rows))
    assert gradcheck(lambda w, r: pool_events(w * mask, r, EventBags(inverse, length)), (weights, rows))


@settings(max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(1, 12), st.integers(1, 300))
def test_the_two_ways_agree_at_any_shape(lengths: list[int], num_unique: int, chunk_bytes: int) -> None:
    query, rows, inverse, length, weights, mask = inputs(lengths, num_unique)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for limit in (0, 10**6):
            patch.setattr(event_scores, "ALL_PAIRS_PER_EVENT", limit)
            patch.setattr(event_bags, "_CHUNK_BYTES", chunk_bytes)
            found.append(
                (score_events(query, rows, EventBags(inverse, length))[mask], pool_events(weights, rows, EventBags(inverse, length)))
            )
    torch.testing.assert_close(found[0], found[1])


def test_the_cheaper_way_is_chosen_by_pairs_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    # 2 x 40 pairs for 8 events.
    query, rows, inverse, length, _, _ = inputs([4, 4], num_unique=40)
    monkeypatch.setattr(event_scores, "ALL_PAIRS_PER_EVENT", 10)
    query.requires_grad_()
    assert "Gather" in type(score_events(query, rows, EventBags(inverse, length)).grad_fn).__name__
    assert "GatheredScores" in type(score_events(query, torch.cat([rows, rows]), EventBags(inverse, length)).grad_fn).__name__
