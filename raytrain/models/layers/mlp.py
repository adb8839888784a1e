"""Plain blocks shared by the models. Shapes: B rows, I inputs."""

from collections.abc import Sequence

from torch import nn


def mlp(num_inputs: int, hidden_units: Sequence[int], num_outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """[B, I] -> [B, num_outputs]: linear layers with ReLU and dropout after each hidden one."""
    layers: list[nn.Module] = []
    for units in hidden_units:
        layers += [nn.Linear(num_inputs, units), nn.ReLU(), nn.Dropout(dropout)]
        num_inputs = units
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))
