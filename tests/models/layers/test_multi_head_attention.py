"""Multi-head attention of one query against torch's own, its mask, and users without events."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from raytrain.models.layers.multi_head_attention import MultiHeadTargetAttention, masked_softmax

B, K, Q, D, A, H = 3, 5, 4, 6, 8, 2


def attention() -> MultiHeadTargetAttention:
    torch.manual_seed(0)
    return MultiHeadTargetAttention(Q, D, A, H, 3).double()


def test_it_equals_torch_multi_head_attention() -> None:
    ours = attention()
    theirs = nn.MultiheadAttention(A, H, bias=False, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.eye(A).repeat(3, 1))
        theirs.out_proj.weight.copy_(torch.eye(A))
    query, keys = torch.randn(B, Q).double(), torch.randn(B, K, D).double()
    mask = torch.arange(K) < torch.tensor([5, 2, 1])[:, None]
    expected, _ = theirs(ours.query(query)[:, None], ours.key(keys), ours.value(keys), key_padding_mask=~mask)
    torch.testing.assert_close(ours(query, keys, mask), ours.output(expected[:, 0]))


def test_masked_events_and_their_number_change_nothing() -> None:
    ours, query, keys = attention(), torch.randn(B, Q).double(), torch.randn(B, K, D).double()
    mask = torch.arange(K) < 3
    torch.testing.assert_close(ours(query, keys, mask.expand(B, K)), ours(query, keys[:, :3], mask[:3].expand(B, 3)))


def test_a_user_without_events_gets_zeros_and_finite_gradients() -> None:
    ours, query, keys = attention(), torch.randn(B, Q).double(), torch.randn(B, K, D).double().requires_grad_()
    mask = torch.zeros(B, K, dtype=torch.bool)
    mask[1, 0] = True
    found = ours(query, keys, mask)
    assert (found[0] == 0).all()
    assert (found[1] != 0).any()
    found.sum().backward()
    assert keys.grad is not None
    assert keys.grad.isfinite().all()
    assert (keys.grad[0] == 0).all()


def test_a_bias_is_added_to_the_scores_of_every_head() -> None:
    ours, query, keys = attention(), torch.randn(B, Q).double(), torch.randn(B, K, D).double()
    mask, bias = torch.ones(B, K, dtype=torch.bool), torch.zeros(B, K).double()
    bias[:, 2] = 1e9
    torch.testing.assert_close(ours(query, keys, mask, bias), ours(query, keys[:, 2:3], mask[:, 2:3]))


def test_gradients_equal_finite_differences() -> None:
    ours = attention()
    query, keys = torch.randn(B, Q).double().requires_grad_(), torch.randn(B, K, D).double().requires_grad_()
    mask = torch.arange(K) < torch.tensor([5, 2, 0])[:, None]
    assert gradcheck(lambda q, k: ours(q, k, mask), (query, keys))


def test_softmax_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0, 7.0], [1.0, 2.0, 3.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert masked_softmax(scores, mask).tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]


def test_heads_that_do_not_divide_the_size_are_refused() -> None:
    with pytest.raises(ValueError, match="num_heads=3"):
        MultiHeadTargetAttention(Q, D, A, 3, 3)
