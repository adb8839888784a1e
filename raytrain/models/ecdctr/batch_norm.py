"""The head of CPM and A-CTR, and what becomes of its batch norm when one starts from the other. Shapes: B rows of this rank, I inputs."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from raytrain.models.layers.weighted_batch_norm import PartitionedNorm, WeightedBatchNorm

Reset = Literal["keep", "reset_statistics", "reset"]


class BatchNormHead(nn.Module):
    """Linear layers with batch norm, PReLU and dropout after each hidden one."""

    def __init__(self, num_inputs: int, hidden_units: Sequence[int], input_dropout: float, dropout: float) -> None:
        super().__init__()
        self.input_dropout = nn.Dropout(input_dropout)
        self.linear, self.norm, self.activation = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for units in hidden_units:
            # The norm takes a bias out again.
            self.linear.append(nn.Linear(num_inputs, units, bias=False))
            self.norm.append(WeightedBatchNorm(units))
            self.activation.append(nn.PReLU())
            num_inputs = units
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(num_inputs, 1)

    def forward(self, inputs: Tensor, weight: Tensor, domain: Tensor) -> Tensor:
        """inputs [B, I], weight [B] -> [B, 1], whatever the domain. A collective while training."""
        hidden = self.input_dropout(inputs)
        for linear, norm, activation in zip(self.linear, self.norm, self.activation, strict=True):
            hidden = self.dropout(activation(norm(linear(hidden), weight)))
        logit: Tensor = self.output(hidden)
        return logit


def reset_batch_norm(network: nn.Module, mode: Reset) -> None:
    """What a network that starts from another's weights does with its batch norm, for rows of another distribution."""
    for module in network.modules():
        if mode != "keep" and isinstance(module, WeightedBatchNorm | PartitionedNorm):
            module.reinitialise(affine=mode == "reset")
