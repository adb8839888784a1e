"""What each peer finds in a history, on numbers small enough to check by hand."""

import math

import pytest
import torch

from raytrain.model_config import EtaModel, MinetModel, SdimModel, SimModel, TwinModel
from raytrain.models.baselines.eta import EtaInterest
from raytrain.models.baselines.minet import ItemAttention, MinetInterest
from raytrain.models.baselines.sdim import SdimInterest
from raytrain.models.baselines.sim import HardSearch, SimInterest, SoftSearch
from raytrain.models.baselines.twin import TwinInterest
from raytrain.models.layers.sequence_network import HistoryShape
from raytrain.models.layers.top_events import top_events
from tests.models.histories import batch_of, drawn_view, view_of

SIDE = {"rating": 6, "age": 4}
SIGNS = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, -4.0], [-1.0, -1.0, -1.0, -1.0], [5.0, 5.0, 5.0, 5.0], [1.0, 1.0, -1.0, -1.0]])


def test_eta_scores_by_the_bits_that_differ_and_takes_the_newer_of_equals() -> None:
    eta = EtaInterest(EtaModel(hash_bits=4, num_events=2), HistoryShape("target", 4, {}))
    eta.hash.directions.copy_(torch.eye(4))
    # Bits of the candidate: 1111; of rows 1 to 4: 1110, 0000, 1111, 1100.
    query, view = torch.full((2, 4), 0.1), view_of(SIGNS, [[2, 1, 4, 1], [3]])
    scores = eta.scores(query, view)
    assert scores[0].tolist() == [-4.0, -1.0, -2.0, -1.0]
    assert scores[1].tolist() == [0.0, -math.inf, -math.inf, -math.inf]
    assert top_events(scores, 2)[0].tolist() == [1, 3]
    assert top_events(scores, 1)[0].tolist() == [3]


def test_eta_does_not_train_its_hash() -> None:
    eta = EtaInterest(EtaModel(), HistoryShape("target", 4, SIDE))
    assert "hash.directions" in eta.state_dict()
    assert "hash.directions" not in dict(eta.named_parameters())


def test_sdim_averages_the_normalised_sums_of_the_candidates_buckets() -> None:
    sdim = SdimInterest(SdimModel(num_hashes=2, hash_bits=1, recent_events=0), HistoryShape("target", 2, {"rating": 4}))
    sdim.hash.directions.copy_(torch.eye(2))  # hash 0: x > 0, hash 1: y > 0
    rows = torch.tensor([[9.0, 9.0], [3.0, -4.0], [3.0, 4.0], [-1.0, 2.0], [-5.0, -5.0]])
    view = view_of(rows, [[1, 2, 3, 4], [4]], {"rating": [[1, 2, 3, 3], [1]]})
    output = sdim(torch.tensor([[1.0, 1.0], [1.0, 1.0]]), view)
    # Hash 0: rows 1 + 2 = (6, 0), hash 1: rows 2 + 3 = (2, 6). Padding, whose row 0 would match both, is left out.
    second = torch.tensor([2.0, 6.0]) / math.sqrt(40.0)
    torch.testing.assert_close(output[0, :2], (torch.tensor([1.0, 0.0]) + second) / 2)
    # Half of each bucket and hash: rating 1 from row 1, rating 2 from row 2 twice, rating 3 from row 3.
    torch.testing.assert_close(output[0, 2:], torch.tensor([0.0, 0.25, 0.5, 0.25]))
    assert output[1].tolist() == [0.0] * 6


def test_soft_search_takes_the_largest_products_and_learns_from_their_weighted_sum() -> None:
    model = SimModel(num_events=2, auxiliary_units=(3,))
    search = SoftSearch(model, 2)
    rows = torch.tensor([[50.0, 50.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    query, view = torch.tensor([[1.0, 2.0], [1.0, 2.0]]), view_of(rows, [[1, 2, 3, 1], []])
    found = search(query, view, batch_of(torch.zeros(2)))
    # Products are 1, 4, 5, 1: the interest is (1 x (1, 0) + 4 x (0, 2) + 5 x (3, 1) + 1 x (1, 0)) / 4 events.
    assert found.index[0].tolist() == [1, 2]
    assert found.mask.tolist() == [[True, True], [False, False]]
    interest = torch.tensor([[17.0, 13.0], [0.0, 0.0]]) / 4
    torch.testing.assert_close(found.logit, search.auxiliary(torch.cat([query, interest], dim=1))[:, 0])
    assert search.eval()(query, view, batch_of(torch.zeros(2))).logit is None


def test_soft_search_is_trained_by_its_own_loss() -> None:
    torch.manual_seed(0)
    model = SimModel(num_events=2, auxiliary_weight=0.5)
    interest = SimInterest(model, {"target": HistoryShape("target", 4, {}), "source": HistoryShape("source", 4, {})})
    query, views = torch.randn(3, 4), {name: drawn_view(torch.randn(9, 4), [5, 2, 0], {}) for name in ("target", "source")}
    found = interest(query, views, batch_of(torch.tensor([1.0, 0.0, 1.0])))
    assert found.row_loss is not None
    torch.testing.assert_close(found.logs["search_loss"], 2.0 * found.row_loss.detach().mean())
    found.row_loss.sum().backward()
    assert all(search.projection.grad.abs().sum() > 0 for search in interest.search.values())
    assert interest.eval()(query, views, batch_of(torch.zeros(3))).row_loss is None


def test_hard_search_takes_the_newest_events_of_the_candidates_category() -> None:
    search = HardSearch(SimModel(search="hard", category="genre", num_events=2))
    view = view_of(torch.zeros(2, 4), [[1, 1, 1, 1, 1], [1, 1], [1], []], {"genre": [[2, 1, 2, 2, 1], [1, 2], [3], []]})
    batch = batch_of(torch.zeros(4), {"genre": torch.tensor([2, 2, 0, 1])})
    found = search(torch.zeros(4, 4), view, batch)
    assert [places[mask].tolist() for places, mask in zip(found.index, found.mask, strict=True)] == [[2, 3], [1], [], []]


def test_twins_search_scores_are_its_attentions_summed_over_heads() -> None:
    torch.manual_seed(0)
    model = TwinModel(num_events=3, num_heads=2, attention_dim=8)
    twin = TwinInterest(model, HistoryShape("target", 4, SIDE))
    for score in twin.side_score:
        torch.nn.init.normal_(score)
    rows, query = torch.randn(9, 4), torch.randn(2, 4)
    view = drawn_view(rows, [6, 4], SIDE)
    attention, keys = twin.attention, view.events()
    bias = sum(score[view.sequence.side[name]] for score, name in zip(twin.side_score, SIDE, strict=True))
    wanted, offered = attention.query(query).view(2, 2, 4), attention.key(keys).view(2, 6, 2, 4)
    by_head = torch.einsum("bha,blha->bhl", wanted, offered) / math.sqrt(4) + bias[:, None]
    scores = twin.search_scores(query, view)
    torch.testing.assert_close(scores[view.mask], by_head.sum(1)[view.mask])
    assert torch.equal(scores.isinf(), ~view.mask)
    assert top_events(scores, 3)[0].tolist() == by_head.sum(1)[0].topk(3).indices.sort().values.tolist()


@pytest.mark.parametrize("is_source", [True, False], ids=["source", "target"])
def test_minets_item_attention_is_that_of_the_concatenation_after_the_transfer(is_source: bool) -> None:
    torch.manual_seed(0)
    model = MinetModel(side_dim=2, attention_units=5, recent_events=4)
    attention = ItemAttention(model, HistoryShape("domain", 3, {"rating": 6}), is_source).double()
    if is_source:
        torch.nn.init.normal_(attention.transfer)
    query, long_term = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    view = drawn_view(torch.randn(9, 3, dtype=torch.float64), [6, 2], {"rating": 6})
    rows = []
    for row, num_events in enumerate((4, 2)):
        first = int(view.sequence.lengths[row]) - num_events
        events = attention.vectors(view, torch.arange(first, first + num_events).expand(2, -1))[row]
        moved = events @ attention.transfer if is_source else events[:, :3]
        both = torch.cat([query[row], long_term[row]]).expand(num_events, -1)
        weight = torch.cat([attention.event, attention.candidate.weight.t(), attention.product])
        hidden = torch.cat([events, both, moved * query[row]], dim=1) @ weight + attention.candidate.bias
        rows.append(attention.score(hidden.relu())[:, 0].softmax(0) @ events)
    torch.testing.assert_close(attention(query, long_term, view), torch.stack(rows))
    assert ("transfer" in dict(attention.named_parameters())) == is_source


def test_minet_learns_source_rows_by_the_auxiliary_loss_alone() -> None:
    torch.manual_seed(0)
    shapes = {name: HistoryShape(name, 4, SIDE) for name in ("target", "source")}
    minet = MinetInterest(MinetModel(source_weight=0.25), shapes, "target")
    views = {name: drawn_view(torch.randn(9, 4), [5, 2, 0], SIDE) for name in shapes}
    query, label = torch.randn(3, 4), torch.tensor([1.0, 0.0, 1.0])
    mixed = minet(query, views, batch_of(label, domain=torch.tensor([0, 1, 1])))
    assert mixed.head_weight.tolist() == [1.0, 0.0, 0.0]
    assert (mixed.row_loss > 0).tolist() == [False, True, True]
    torch.testing.assert_close(mixed.logs["source_loss"], 4.0 * mixed.row_loss.detach().sum() / 2)
    alone = minet(query, views, batch_of(label))
    assert alone.row_loss.tolist() == [0.0] * 3
    assert minet.eval()(query, views, batch_of(label)).row_loss is None


def test_minet_starts_with_every_interest_as_it_is() -> None:
    torch.manual_seed(0)
    shapes = {name: HistoryShape(name, 4, {}) for name in ("target", "source")}
    minet = MinetInterest(MinetModel(), shapes, "target").eval()
    for weigh in minet.weigh:
        torch.nn.init.zeros_(weigh[2].weight)
        torch.nn.init.constant_(weigh[2].bias, math.log(2.0))
    views = {name: drawn_view(torch.randn(9, 4), [5], {}) for name in shapes}
    outputs = minet(torch.randn(1, 4), views, batch_of(torch.zeros(1))).outputs
    assert minet.num_outputs == outputs.shape[1] == 12
    # exp(log 2) twice each interest, whatever the others are: the weights are not normalised.
    long_term = minet.long_term(torch.tensor([[math.log1p(5.0), math.log1p(5.0)]]))
    torch.testing.assert_close(outputs[:, :4], 2.0 * long_term)
