"""Plain blocks shared by the models. Shapes: B rows, I inputs."""

from collections.abc import Sequence

from torch import Tensor, nn


def mlp(num_inputs: int, hidden_units: Sequence[int], num_outputs: int, dropout: float = 0.0) -> nn.Sequential:
    """[B, I] -> [B, num_outputs]: linear layers with ReLU and dropout after each hidden one."""
    layers: list[nn.Module] = []
    for units in hidden_units:
        layers += [nn.Linear(num_inputs, units), nn.ReLU(), nn.Dropout(dropout)]
        num_inputs = units
    return nn.Sequential(*layers, nn.Linear(num_inputs, num_outputs))


class PlainHead(nn.Module):
    """A head that looks at each row alone, whatever the rows weigh and wherever they are from."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, weight: Tensor, domain: Tensor) -> Tensor:
        """inputs [B, I], weight [B], domain [B] -> [B, N]."""
        outputs: Tensor = self.layers(inputs)
        return outputs
