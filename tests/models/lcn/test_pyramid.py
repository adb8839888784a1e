"""The pyramid against the formulas row by row, by hand, and at its edges: short, empty, repeated and padded histories."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch.autograd import gradcheck

from raytrain.data.batch import Sequence
from raytrain.model_config import LEVELS, LcnModel
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.sequence_network import HistoryShape
from raytrain.models.lcn.pyramid import AttentionPyramid

B, L, D, E, U = 5, 7, 4, 3, 9
SIDE = {"rating": 4, "age": 5}
LENGTHS = [7, 3, 0, 1, 5]


def model(**options: object) -> LcnModel:
    small = {"median_events": 4, "focused_events": 2, "aligned_dim": E, "attention_dim": 4, "num_heads": 2, "side_dim": 2}
    return LcnModel.model_validate(small | options)


def pyramid(**options: object) -> AttentionPyramid:
    torch.manual_seed(0)
    return AttentionPyramid(model(**options), HistoryShape("source", D, SIDE)).double()


def view(lengths: list[int], width: int = L, seed: int = 1) -> HistoryView:
    generator = torch.Generator().manual_seed(seed)
    length = torch.tensor(lengths)
    mask = torch.arange(L) < length[:, None]
    items = torch.randint(1, U, (len(lengths), L), generator=generator) * mask
    codes = {name: torch.randint(1, size, items.shape, generator=generator) * mask for name, size in SIDE.items()}
    sequence = Sequence(items[:, :width], length, {name: code[:, :width] for name, code in codes.items()})
    rows = torch.randn(U, D, dtype=torch.float64, generator=generator)
    return HistoryView(rows, sequence.items, sequence)


def vectors(num_rows: int = B) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query [B, D], aligned query [B, E], aligned rows [U, E]"""
    generator = torch.Generator().manual_seed(2)
    query, aligned, rows = (
        torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((num_rows, D), (num_rows, E), (U, E))
    )
    return query, aligned, torch.nn.functional.normalize(rows, dim=1)


def naive(lap: AttentionPyramid, query: torch.Tensor, aligned: torch.Tensor, rows: torch.Tensor, events: HistoryView) -> torch.Tensor:
    """Section 3.3 of the notes, one row and level at a time."""
    outputs = []
    for b, num in enumerate(events.sequence.lengths.tolist()):
        if num == 0:
            outputs.append(lap.empty)
            continue
        items = events.inverse[b, :num]
        x, codes = events.rows[items], {name: events.sequence.side[name][b, :num] for name in SIDE}
        s1 = rows[items] @ (aligned[b] @ lap.complete)
        r1 = torch.softmax(s1, 0) @ x
        i1 = s1.topk(min(4, num)).indices
        s2 = x[i1] @ lap.median_item(query[b]) / math.sqrt(D) + s1[i1]
        for (name, size), of_code in zip(SIDE.items(), lap.median_side(query[b]).split(list(SIDE.values())), strict=True):
            s2 = s2 + torch.nn.functional.one_hot(codes[name][i1], size).double() @ of_code
        a2 = torch.softmax(s2, 0)
        r2 = torch.cat([a2 @ x[i1], *(a2 @ torch.nn.functional.one_hot(codes[name][i1], size).double() for name, size in SIDE.items())])
        i2 = i1[s2.topk(min(2, num)).indices]
        f = torch.cat([x[i2], *(table[codes[name][i2]] for name, table in zip(SIDE, lap.side_rows, strict=True))], dim=1)
        found = lap.focused(query[b : b + 1], f[None], torch.ones(1, len(i2), dtype=torch.bool))
        outputs.append(torch.cat([r1, r2, lap.norm(found + lap.feed_forward(found))[0]]))
    return torch.stack(outputs)


def test_it_equals_the_formulas_row_by_row() -> None:
    lap, events = pyramid(), view(LENGTHS)
    torch.nn.init.normal_(lap.empty)
    found = lap(*vectors(), events)
    torch.testing.assert_close(found.output, naive(lap, *vectors(), events))
    assert found.output.shape == (B, lap.num_outputs) == (B, D + (D + 9) + 4)


def test_levels_by_hand() -> None:
    # Three events of aligned cosines 1, 0 and -1: the complete scope keeps the first two, the median scope's residual the first.
    lap = pyramid(median_events=2, focused_events=1)
    for layer in (lap.median_item, lap.median_side):
        for parameter in layer.parameters():
            torch.nn.init.zeros_(parameter)
    events = HistoryView(
        torch.eye(4, D).double(),
        torch.tensor([[3, 2, 1]]),
        Sequence(torch.tensor([[3, 2, 1]]), torch.tensor([3]), {n: torch.ones(1, 3, dtype=torch.int64) for n in SIDE}),
    )
    rows = torch.tensor([[0, 0, 0], [-1, 0, 0], [0, 1, 0], [1, 0, 0]]).double()
    found = lap(torch.zeros(1, D).double(), torch.tensor([[1.0, 0, 0]]).double(), rows, events)
    assert found.complete_scores.tolist() == [[8.0, 0.0, -8.0]]
    assert sorted(found.median_index[0].tolist()) == [0, 1]
    assert found.focused_index.tolist() == [[0]]
    first = 1 / (1 + math.exp(-8) + math.exp(-16))
    assert found.output[0, :D].tolist() == pytest.approx([0.0, first * math.exp(-16), first * math.exp(-8), first])
    second = 1 / (1 + math.exp(-8))
    assert found.output[0, D : 2 * D].tolist() == pytest.approx([0.0, 0.0, 1 - second, second])


def test_padding_and_the_batch_around_it_change_nothing() -> None:
    lap, (query, aligned, rows) = pyramid(), vectors()
    wide = lap(query, aligned, rows, view([3, 2, 0, 1, 3])).output
    narrow = lap(query, aligned, rows, view([3, 2, 0, 1, 3], width=4)).output
    torch.testing.assert_close(wide, narrow)
    alone = view([3, 2, 0, 1, 3])
    one = HistoryView(
        alone.rows, alone.inverse[1:2], Sequence(alone.inverse[1:2], torch.tensor([2]), {n: c[1:2] for n, c in alone.sequence.side.items()})
    )
    torch.testing.assert_close(lap(query[1:2], aligned[1:2], rows, one).output, wide[1:2])


def test_events_of_one_item_and_code_count_each_and_tie_without_harm() -> None:
    lap = pyramid()
    items = torch.full((1, 6), 2)
    events = HistoryView(view([1]).rows, items, Sequence(items, torch.tensor([6]), {name: torch.ones_like(items) for name in SIDE}))
    query, aligned, rows = (part[:1] if len(part) == B else part for part in vectors())
    found = lap(query, aligned, rows, events)
    assert sorted(found.median_index[0].tolist()) == [2, 3, 4, 5], "ties go to the newer event"
    torch.testing.assert_close(found.output[0, :D], events.rows[2])
    torch.testing.assert_close(found.output[0, D : 2 * D], events.rows[2])


def test_a_user_without_events_gets_the_learned_vector_and_its_gradient() -> None:
    lap, events = pyramid(), view([0, 0])
    query, aligned, rows = vectors(2)
    lap(query, aligned, rows, events).output.sum().backward()
    assert lap.empty.grad.tolist() == [2.0] * lap.num_outputs
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in lap.parameters())


@pytest.mark.parametrize("left_out", LEVELS)
def test_without_a_level_the_next_one_sees_every_event(left_out: str) -> None:
    levels = tuple(level for level in LEVELS if level != left_out)
    lap = pyramid(levels=levels, outputs=levels)
    found = lap(*vectors(), view(LENGTHS))
    assert found.output.shape == (B, lap.num_outputs)
    assert found.output.isfinite().all()
    if left_out == "complete":
        assert found.complete_scores is None
        assert found.median_index.shape == (B, L)
    if left_out == "median":
        chosen = found.complete_scores.gather(1, found.focused_index)
        torch.testing.assert_close(chosen.sort(dim=1, descending=True).values, found.complete_scores.topk(2, dim=1).values)


@pytest.mark.parametrize("outputs", [("focused",), ("complete",), ("median", "focused")], ids="+".join)
def test_outputs_are_chosen_apart_from_levels(outputs: tuple[str, ...]) -> None:
    whole, part = pyramid(), pyramid(outputs=outputs)
    part.load_state_dict({name: value for name, value in whole.state_dict().items() if name != "empty"}, strict=False)
    found = part(*vectors(2), view([7, 3])).output
    expected = dict(zip(LEVELS, whole(*vectors(2), view([7, 3])).output.split([D, D + 9, 4], dim=1), strict=True))
    torch.testing.assert_close(found, torch.cat([expected[level] for level in LEVELS if level in outputs], dim=1))


def test_unselected_events_get_a_gradient_through_the_upper_levels_alone() -> None:
    """Why all three outputs are used: top-k passes none."""
    reached = {}
    for name, outputs in (("all", LEVELS), ("focused alone", ("focused",))):
        lap, events = pyramid(outputs=outputs, focused_events=1), view([7])
        rows = torch.arange(U)
        events = HistoryView(
            events.rows.requires_grad_(),
            rows[None, 1:8],
            Sequence(rows[None, 1:8], torch.tensor([7]), {n: torch.ones(1, 7, dtype=torch.int64) for n in SIDE}),
        )
        query, aligned, aligned_rows = (part[:1] if len(part) == B else part for part in vectors())
        lap(query, aligned, aligned_rows, events).output.square().sum().backward()
        reached[name] = int((events.rows.grad.abs().sum(1) > 0).sum())
    assert reached == {"all": 7, "focused alone": 1}


def test_gradients_equal_finite_differences() -> None:
    lap, events = pyramid(), view([5, 2, 0])
    query, aligned, rows = (part[:3] if len(part) == B else part for part in vectors())
    table = events.rows

    def value(*parts: torch.Tensor) -> torch.Tensor:
        return lap(*parts[:3], HistoryView(parts[3], events.inverse, events.sequence)).output

    assert gradcheck(value, [part.clone().requires_grad_() for part in (query, aligned, rows, table)])


def test_a_history_without_side_information_has_a_pyramid_too() -> None:
    lap = AttentionPyramid(model(), HistoryShape("source", D, {})).double()
    assert lap(*vectors(), view(LENGTHS)).output.shape == (B, 2 * D + 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outputs": ["complete"], "levels": ["focused"]}, "outputs has to name some of model.levels"),
        ({"median_events": 5, "focused_events": 6}, "scope has to narrow"),
        ({"attention_dim": 6, "num_heads": 4}, "has to divide"),
    ],
    ids=["output of no level", "scope widens", "heads"],
)
def test_pyramids_that_cannot_be_built_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model(**options)
