"""CRP, cross representation production (LCN, arXiv 2312.06424, section 3.4 of our notes): items of all domains in one space.

Shapes: U rows, D embedding size, E size of an aligned vector.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from raytrain.models.layers.mlp import mlp


class CrossRepresentation(nn.Module):
    """A projection per domain on the shared embedding tables, of length one: what contrastive pairs pull together, and what the
    complete scope of the pyramid scores with (the paper's reuse of its vectors; a two-layer MLP is our choice)."""

    def __init__(self, domains: Sequence[str], dim: int, hidden_units: int, aligned_dim: int) -> None:
        super().__init__()
        self.of = nn.ModuleDict({domain: mlp(dim, (hidden_units,), aligned_dim) for domain in domains})
        for layer in self.modules():
            # Without biases a vector's direction depends on its row's direction alone. Rows start near zero, where biases would
            # give every item the same vector.
            if isinstance(layer, nn.Linear):
                layer.register_parameter("bias", None)

    def forward(self, domain: str, rows: Tensor) -> Tensor:
        """float32 [U, D] -> [U, E] of length one; a row of zeros stays zeros."""
        return normalize(self.of[domain](rows), dim=1)
