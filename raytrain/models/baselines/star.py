"""``star``: one network for several domains, whose every layer has weights of its own for each beside those that all share.

Sheng et al., CIKM 2021, arXiv 2101.11580: partitioned normalisation; star topology, in which a domain's weights multiply the shared ones
element by element and biases add; an auxiliary network that is told the domain. Ours: it reads histories by target attention, as
``ecdctr`` does, and the shared scale of the normalisation multiplies the domains' shifts too.

Shapes: B rows, I inputs, O outputs, P domains.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.model_config import DinModel, StarModel
from raytrain.models.baselines.din import DinInterest
from raytrain.models.layers.mlp import mlp
from raytrain.models.layers.sequence_network import PerHistory, SequenceNetwork
from raytrain.models.layers.weighted_batch_norm import PartitionedNorm


class StarLinear(nn.Module):
    """(shared weights * the domain's) x + shared bias + the domain's, which begin at 1 and 0."""

    def __init__(self, num_domains: int, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.shared = nn.Linear(num_inputs, num_outputs)
        self.weight = nn.Parameter(torch.ones(num_domains, num_outputs, num_inputs))
        self.bias = nn.Parameter(torch.zeros(num_domains, num_outputs))

    def forward(self, inputs: Tensor, domain: Tensor) -> Tensor:
        """inputs [B, I], domain int64 [B] -> [B, O]; every domain's layer sees every row, since picking rows would wait for the device."""
        outputs = torch.zeros(len(inputs), self.bias.shape[1], dtype=inputs.dtype, device=inputs.device)
        for number, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            own = linear(inputs, self.shared.weight * weight, self.shared.bias + bias)
            outputs = torch.where((domain == number)[:, None], own, outputs)
        return outputs


class StarHead(nn.Module):
    """Partitioned norm, star layers with ReLU and dropout between, and the auxiliary network's logit on top."""

    def __init__(self, model: StarModel, num_domains: int, num_inputs: int) -> None:
        super().__init__()
        self.norm = PartitionedNorm(num_domains, num_inputs)
        self.input_dropout = nn.Dropout(model.input_dropout)
        sizes: Sequence[int] = (num_inputs, *model.hidden_units, 1)
        self.layers = nn.ModuleList(StarLinear(num_domains, before, after) for before, after in pairwise(sizes))
        self.dropout = nn.Dropout(model.dropout)
        self.indicator = nn.Embedding(num_domains, model.domain_dim)
        self.auxiliary = mlp(num_inputs + model.domain_dim, model.auxiliary_units, 1, model.dropout)

    def forward(self, inputs: Tensor, weight: Tensor, domain: Tensor) -> Tensor:
        """inputs [B, I], weight [B], domain int64 [B] -> [B, 1]. A collective while training."""
        normed = self.input_dropout(self.norm(inputs, weight, domain))
        hidden = normed
        for layer in self.layers[:-1]:
            hidden = self.dropout(torch.relu(layer(hidden, domain)))
        logit: Tensor = self.layers[-1](hidden, domain) + self.auxiliary(torch.cat([normed, self.indicator(domain)], dim=1))
        return logit


def star_network(model: StarModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    unit = DinModel(attention_units=model.attention_units, num_heads=model.num_heads)
    return SequenceNetwork(
        model,
        job,
        contract,
        lambda shapes: PerHistory(shapes, lambda shape: DinInterest(unit, shape)),
        head=lambda num_inputs: StarHead(model, len(contract.domains), num_inputs),
    )
