"""Signatures bit by bit, and the sums over buckets against a loop over events."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raytrain.models.layers import event_bags
from raytrain.models.layers.bucket_sums import pool_buckets
from raytrain.models.layers.sign_hash import SignHash, num_bits_set
from tests.models.histories import drawn_view


def test_a_signature_has_a_bit_for_every_positive_projection() -> None:
    sign_hash = SignHash(2, num_hashes=2, num_bits=2)
    # Hash 0 looks at x and y, hash 1 at x + y and -x.
    sign_hash.directions.copy_(torch.tensor([[1.0, 0.0, 1.0, -1.0], [0.0, 1.0, 1.0, 0.0]]))
    vectors = torch.tensor([[2.0, 3.0], [-2.0, 3.0], [1.0, -4.0], [0.0, 0.0]])
    assert sign_hash(vectors).tolist() == [[3, 1], [2, 3], [1, 0], [0, 0]]


def test_the_widest_signature_is_not_negative() -> None:
    sign_hash = SignHash(1, 1, 62)
    sign_hash.directions.fill_(1.0)
    assert sign_hash(torch.ones(1, 1)).tolist() == [[2**62 - 1]]


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=20))
def test_bits_are_counted(numbers: list[int]) -> None:
    assert num_bits_set(torch.tensor(numbers)).tolist() == [number.bit_count() for number in numbers]


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20], ids=["row by row", "at once"])
def test_bucket_sums_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    monkeypatch.setattr(event_bags, "_CHUNK_BYTES", chunk_bytes)
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(9, 3, dtype=torch.float64, generator=draw)
    signatures = torch.randint(0, 3, (9, 4), generator=draw).to(torch.uint8)
    wanted = torch.randint(0, 3, (5, 4), generator=draw).to(torch.uint8)
    view = drawn_view(values, [6, 0, 3, 1, 6], {})
    sums, share = pool_buckets(values, signatures, wanted, view.inverse, view.sequence.lengths)
    expected, expected_share = torch.zeros_like(sums), torch.zeros_like(share)
    for row in range(5):
        for hash_ in range(4):
            matching = [
                place
                for place in range(int(view.sequence.lengths[row]))
                if signatures[view.inverse[row, place], hash_] == wanted[row, hash_]
            ]
            for place in matching:
                expected[row, hash_] += values[view.inverse[row, place]]
                expected_share[row, place] += 1 / (4 * len(matching))
    torch.testing.assert_close(sums, expected)
    torch.testing.assert_close(share, expected_share)


def test_gradients_of_bucket_sums_agree_with_finite_differences() -> None:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(6, 2, dtype=torch.float64, generator=draw, requires_grad=True)
    signatures = torch.randint(0, 2, (6, 3), generator=draw).to(torch.uint8)
    wanted = torch.randint(0, 2, (3, 3), generator=draw).to(torch.uint8)
    view = drawn_view(values.detach(), [4, 0, 2], {})
    assert torch.autograd.gradcheck(lambda rows: pool_buckets(rows, signatures, wanted, view.inverse, view.sequence.lengths)[0], values)
