"""Locality-sensitive hashes of vectors: the signs of fixed random projections (Charikar, STOC 2002).

Shapes: N vectors, D their size, H signatures of M bits.
"""

import torch
from torch import Tensor, nn

# Bits of every pair, of every four and of every eight are added up in place, then all bytes by one product (Hacker's Delight, 5-1).
_PAIRS, _FOURS, _BYTES, _ONES = 0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101


class SignHash(nn.Module):
    """Two vectors share a bit with probability 1 - angle / pi. Projections are drawn once and saved as a buffer, never trained."""

    directions: Tensor

    def __init__(self, dim: int, num_hashes: int, num_bits: int) -> None:
        """``num_bits`` up to 62, so that a signature fits an int64."""
        super().__init__()
        self.num_hashes, self.num_bits = num_hashes, num_bits
        self.register_buffer("directions", torch.randn(dim, num_hashes * num_bits))

    @torch.no_grad()
    def forward(self, vectors: Tensor) -> Tensor:
        """float [N, D] -> int64 [N, H], each signature's bits as a number."""
        bits = (vectors @ self.directions > 0).view(len(vectors), self.num_hashes, self.num_bits)
        return (bits.long() << torch.arange(self.num_bits, device=vectors.device)).sum(2)


def num_bits_set(numbers: Tensor) -> Tensor:
    """int64, 0 or more, of any shape -> how many bits of each are 1."""
    count = numbers - (numbers >> 1 & _PAIRS)
    count = (count & _FOURS) + (count >> 2 & _FOURS)
    count = count + (count >> 4) & _BYTES
    return count * _ONES >> 56
