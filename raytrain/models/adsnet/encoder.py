"""The FwFM encoder: feature vectors and their weighted pairwise products side by side.

Definition of FwFM: Pan et al., WWW 2018. ADSNet (arXiv 2406.10517) encodes with it and does not say how; summing the products to
one vector, or keeping one number a pair (``inner``), is our choice. RecBole's FwFM draws the pair weights afresh in every
forward pass, so that they are never trained: it is no reference.

Shapes: B rows, F fields, D embedding size, N dense features, I outputs.
"""

from typing import Literal

import torch
from torch import Tensor, nn


class FwfmEncoder(nn.Module):
    """h = [e_1 ... e_F ; sum_{i<j} r_ij e_i * e_j ; dense], r symmetric, trained, 1 at start (a plain FM)."""

    pair: Tensor
    off_diagonal: Tensor
    first: Tensor
    second: Tensor

    def __init__(self, num_fields: int, dim: int, num_dense: int = 0, variant: Literal["fwfm", "inner"] = "fwfm") -> None:
        super().__init__()
        self.variant = variant
        num_pairs = num_fields * (num_fields - 1) // 2
        self.num_outputs = num_fields * dim + (dim if variant == "fwfm" else num_pairs) + num_dense
        self.field_weight = nn.Parameter(torch.ones(num_pairs))
        first, second = torch.triu_indices(num_fields, num_fields, offset=1)
        pair = torch.zeros(num_fields, num_fields, dtype=torch.int64)
        pair[first, second] = pair[second, first] = torch.arange(num_pairs)
        self.register_buffer("pair", pair, persistent=False)
        self.register_buffer("off_diagonal", 1.0 - torch.eye(num_fields), persistent=False)
        self.register_buffer("first", first, persistent=False)
        self.register_buffer("second", second, persistent=False)

    def forward(self, vectors: Tensor, dense: Tensor) -> Tensor:
        """vectors [B, F, D], dense [B, N] -> [B, I]: I is F D + D + N, or F D + F (F - 1) / 2 + N for ``inner``."""
        return torch.cat([vectors.flatten(1), self._products(vectors), dense], dim=1)

    def _products(self, vectors: Tensor) -> Tensor:
        if self.variant == "inner":
            products = torch.bmm(vectors, vectors.transpose(1, 2))  # [B, F, F]
            return products[:, self.first, self.second] * self.field_weight
        if not len(self.field_weight):
            return torch.zeros_like(vectors[:, 0])
        # sum_{i<j} r_ij e_i * e_j = 1/2 sum_i e_i * (R e)_i: no tensor of F (F - 1) / 2 pairs.
        weights = self.field_weight[self.pair] * self.off_diagonal  # [F, F]
        return 0.5 * (vectors * torch.matmul(weights, vectors)).sum(1)
