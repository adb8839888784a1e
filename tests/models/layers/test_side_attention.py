"""Attention without projected keys against the textbook's, and what events look like to it."""

import math

import torch

from raytrain.models.layers.multi_head_attention import MultiHeadTargetAttention
from raytrain.models.layers.side_attention import EventVectors, RecentAttention, SideAttention, code_mass
from tests.models.histories import drawn_view, view_of

SIDE = {"rating": 6, "age": 4}


def test_it_is_attention_with_projected_keys_and_values() -> None:
    torch.manual_seed(0)
    attention = MultiHeadTargetAttention(3, 4, 8, 2, 5, value_dim=6).double()
    query, keys, values = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3), (2, 7, 4), (2, 7, 6)))
    bias, mask = torch.randn(2, 7, dtype=torch.float64), torch.arange(7) < torch.tensor([[7], [3]])
    rows = []
    for row in range(2):
        heads = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            wanted = attention.query(query[row])[part]
            scores = attention.key(keys[row])[:, part] @ wanted / math.sqrt(4) + bias[row]
            weights = scores[mask[row]].softmax(0)
            heads.append(weights @ attention.value(values[row])[mask[row]][:, part])
        rows.append(attention.output(torch.cat(heads)))
    torch.testing.assert_close(attention(query, keys, mask, bias, values), torch.stack(rows))


def test_an_event_is_its_item_beside_the_rows_of_its_codes() -> None:
    vectors = EventVectors(2, {"rating": 3}, 1)
    with torch.no_grad():
        vectors.side_rows[0].copy_(torch.tensor([[0.0], [10.0], [20.0]]))
    view = view_of(torch.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]]), [[2, 1]], {"rating": [[1, 2]]})
    assert vectors(view, torch.tensor([[1, 0]])).tolist() == [[[1.0, 2.0, 20.0], [3.0, 4.0, 10.0]]]


def test_recent_attention_sees_the_newest_events_alone() -> None:
    torch.manual_seed(0)
    rows, query = torch.randn(9, 4), torch.randn(1, 4)
    recent = RecentAttention(4, {}, 2, 8, 2, num_events=2)
    newest, other = view_of(rows, [[1, 2, 3, 4]]), view_of(rows, [[7, 3, 4]])
    torch.testing.assert_close(recent(query, newest), recent(query, other))
    assert not torch.allclose(recent(query, newest), recent(query, view_of(rows, [[3, 5]])))
    assert RecentAttention(4, {}, 2, 8, 2, num_events=0)(query, newest).shape == (1, 0)


def test_side_information_changes_what_is_seen() -> None:
    torch.manual_seed(0)
    rows, query = torch.randn(9, 4), torch.randn(1, 4)
    attention = SideAttention(4, SIDE, 2, 8, 2)
    index, mask = torch.arange(5)[None], torch.ones(1, 5, dtype=torch.bool)
    first, second = (attention(query, drawn_view(rows, [5], SIDE, seed=3), index, mask) for _ in range(2))
    torch.testing.assert_close(first, second)
    other = drawn_view(rows, [5], SIDE, seed=3)
    other.sequence.side["rating"].copy_(other.sequence.side["rating"] % 5 + 1)
    assert not torch.allclose(first, attention(query, other, index, mask))


def test_mass_adds_up_by_code() -> None:
    mass = code_mass(torch.tensor([[0.5, 0.2, 0.3]]), torch.tensor([[2, 1, 2]]), 4)
    torch.testing.assert_close(mass, torch.tensor([[0.0, 0.2, 0.8, 0.0]]))
