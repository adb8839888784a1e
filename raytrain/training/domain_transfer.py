"""One network on rows of two domains, in two stages: ``ltv``, and ``cdaf``, which draws their encodings together besides.

Stages and lines are functions of the step's number, so a run that goes on repeats them.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raytrain.data.batch import Batch
from raytrain.ltv_config import CdafModel, DomainWeights, LtvModel
from raytrain.models.adsnet.pair import domain_weights
from raytrain.models.baselines.cdaf import CdafNetwork, CdafOutput
from raytrain.models.layers.sliced_wasserstein import sliced_wasserstein, unit_directions
from raytrain.training.optimizers import copy_state
from raytrain.training.parallel import World, gather_rows, unwrapped
from raytrain.training.transfer import PlainLoss


class DomainTransfer(PlainLoss):
    """Weighs a mean loss of internal rows and one of external rows, each over all ranks.

    Rows of a domain that does not count have weight 0, so they move nothing of tables whose optimizer keeps no momentum
    (sgd, adagrad and rowwise_adagrad do not).
    """

    def __init__(self, model: LtvModel | CdafModel, network: nn.Module, world: World) -> None:
        super().__init__(network)
        self._weights_at, self._num_preparing, self._world, self._step = model.domain_weights, model.preparation_steps, world, 0

    def before_step(self, step: int) -> None:
        self._step = step

    def loss(self, output: Any, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """``output`` has a ``row_loss`` [B]."""
        totals = self._world.sum(domain_weights(batch))
        return domain_loss(output.row_loss, batch, totals, self._weights_at(self._step)), self._logs(output.row_loss, batch, totals)

    def counts(self, step: int) -> bool:
        """What external rows have taught is not measured against what internal ones add to it."""
        return step > self._num_preparing

    @torch.no_grad()
    def _logs(self, row_loss: Tensor, batch: Batch, totals: Tensor) -> dict[str, Tensor]:
        """Means over all ranks' rows, once they are averaged over ranks."""
        internal = batch.weight * (batch.domain == 0)
        num_internal, num_external = (totals.clamp(min=1.0) / self._world.size).unbind()
        return {
            "internal_loss": (internal * row_loss).sum() / num_internal,
            "external_loss": ((batch.weight - internal) * row_loss).sum() / num_external,
        }


class CdafTransfer(DomainTransfer):
    """Pre-training on external rows, then both domains and the distance of their encodings."""

    def __init__(self, model: CdafModel, network: nn.Module, optimizer: torch.optim.Optimizer, world: World, seed: int) -> None:
        super().__init__(model, network, world)
        cdaf = unwrapped(network)
        assert isinstance(cdaf, CdafNetwork)
        self._cdaf, self._model, self._optimizer, self._seed = cdaf, model, optimizer, seed

    def before_step(self, step: int) -> None:
        super().before_step(step)
        self._cdaf.is_dual = step >= self._model.pretrain_steps
        if step == self._model.pretrain_steps:
            self._cdaf.external.load_state_dict(self._cdaf.internal.state_dict())
            copy_state(self._optimizer, self._cdaf.internal, self._cdaf.external)

    def loss(self, output: CdafOutput, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, logs = super().loss(output, batch)
        distance = loss.new_zeros(())
        if self._model.distance_weight and self._cdaf.is_dual:
            distance = self._distance(output.encoded, batch)
            # Every rank computes the same distance and brings its share of it.
            loss = loss + self._model.distance_weight / self._world.size * distance
        return loss, logs | {"domain_distance": distance.detach()}

    def _distance(self, encoded: Tensor, batch: Batch) -> Tensor:
        """Of all ranks' rows: what is sent is their projections, [B, P]."""
        [seed] = np.random.SeedSequence((self._seed, self._step)).generate_state(1).tolist()
        directions = unit_directions(encoded.shape[1], self._model.num_directions, seed).to(encoded)
        projected, domain, counts = encoded @ directions, batch.domain, batch.weight > 0
        if self._world.size > 1:
            projected, domain, counts = (gather_rows(rows) for rows in (projected, domain, counts))
        internal, external = (rows.nonzero()[:, 0] for rows in (counts & (domain == 0), counts & (domain != 0)))
        return sliced_wasserstein(projected[internal], projected[external])


def domain_loss(row_loss: Tensor, batch: Batch, totals: Tensor, weights: DomainWeights) -> Tensor:
    """This rank's share of the step's loss, a scalar: weights[0] mean(internal) + weights[1] mean(external).

    Args:
        row_loss: [B], unweighted. totals: [2], ``domain_weights`` of all ranks.
    """
    internal = batch.weight * (batch.domain == 0)
    external = batch.weight - internal
    num_internal, num_external = totals.clamp(min=1.0).unbind()
    return weights[0] * (internal * row_loss).sum() / num_internal + weights[1] * (external * row_loss).sum() / num_external
