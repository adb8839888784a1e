"""The split first layer against the concatenation it replaces, and what padding may not change."""

import torch
from torch import nn

from raytrain.data.batch import Sequence
from raytrain.models.layers.target_attention import TargetAttention

B, L, D, H, A = 5, 7, 4, 6, 2
SIZES = {"rating": 6, "age": 8}


def history(lengths: list[int], width: int = L) -> Sequence:
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(L) < torch.tensor(lengths)[:, None]
    codes = {name: torch.randint(1, size, (len(lengths), L), generator=generator) * mask for name, size in SIZES.items()}
    items = torch.randint(1, 9, (len(lengths), L), generator=generator) * mask
    return Sequence(items[:, :width], torch.tensor(lengths), {name: code[:, :width] for name, code in codes.items()})


def naive(attention: TargetAttention, query: torch.Tensor, keys: torch.Tensor, events: Sequence) -> torch.Tensor:
    """The paper's form: one linear layer on [q, k, q * k] concatenated per event (q - k is in the span of q and k)."""
    linear = torch.cat([attention.query.weight, attention.key.t(), attention.product.t()], dim=1)  # [H, 3D]
    rows = []
    for b in range(len(query)):
        num = int(events.lengths[b])
        if num == 0:
            rows.append(torch.zeros(attention.num_outputs, dtype=query.dtype))
            continue
        q, k = query[b].expand(num, -1), keys[b, :num]
        scores = attention.score(torch.cat([q, k, q * k], dim=1) @ linear.t() + attention.query.bias)  # [num, A]
        for table, name in zip(attention.side_score, SIZES, strict=True):
            scores = scores + table[events.side[name][b, :num]]
        weights = scores.softmax(dim=0)  # [num, A]
        parts = [(weights.t() @ k).flatten()]
        for name, size in SIZES.items():
            parts.append((weights.t() @ nn.functional.one_hot(events.side[name][b, :num], size).to(query.dtype)).flatten())
        rows.append(torch.cat(parts))
    return torch.stack(rows)


def attention_of(dtype: torch.dtype = torch.float64) -> TargetAttention:
    torch.manual_seed(0)
    attention = TargetAttention(D, (H,), A, SIZES).to(dtype)
    for table in attention.side_score:
        nn.init.normal_(table)
    return attention


def test_split_first_layer_equals_the_concatenation() -> None:
    attention, events = attention_of(), history([7, 3, 0, 1, 5])
    query, keys = torch.randn(B, D, dtype=torch.float64), torch.randn(B, L, D, dtype=torch.float64)
    torch.testing.assert_close(attention(query, keys, events), naive(attention, query, keys, events))


def test_padding_and_wider_batches_change_nothing() -> None:
    attention = attention_of()
    query, keys = torch.randn(2, D, dtype=torch.float64), torch.randn(2, L, D, dtype=torch.float64)
    wide = attention(query, keys, history([3, 2]))
    torch.testing.assert_close(attention(query, keys[:, :4], history([3, 2], width=4)), wide)
    other = keys.clone()
    other[0, 3:], other[1, 2:] = 99.0, -99.0
    torch.testing.assert_close(attention(query, other, history([3, 2])), wide)


def test_an_empty_history_gives_zeros_and_finite_gradients() -> None:
    attention = attention_of()
    query = torch.randn(2, D, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(2, L, D, dtype=torch.float64, requires_grad=True)
    pooled = attention(query, keys, history([0, 4]))
    pooled.square().sum().backward()
    assert torch.equal(pooled[0], torch.zeros_like(pooled[0]))
    assert query.grad is not None
    assert keys.grad is not None
    assert torch.isfinite(query.grad).all()
    assert torch.equal(keys.grad[0], torch.zeros_like(keys.grad[0]))


def test_gradients_agree_with_finite_differences() -> None:
    attention, events = attention_of(), history([7, 3, 0, 1, 5])
    query = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(B, L, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, k: attention(q, k, events), (query, keys))
