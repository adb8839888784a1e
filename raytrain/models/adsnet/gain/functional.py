"""Losses of a backbone as functions of its parameters: nothing here writes to a module or to a gradient.

Shapes: B rows, P numbers of all parameters together.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from raytrain.models.adsnet.backbone import BackboneInputs, LtvBackbone
from raytrain.models.adsnet.gain.rows import Reduce
from raytrain.models.adsnet.heads import Head

Parameters = dict[str, Tensor]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside: dropout would be louder than any gain."""
    before = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training


def parameters_of(module: nn.Module) -> Parameters:
    """Its parameters by name, detached; they share memory with it."""
    return {name: value.detach() for name, value in module.named_parameters()}


def backbone_row_loss(backbone: LtvBackbone, parameters: Mapping[str, Tensor], inputs: BackboneInputs, label: Tensor) -> Tensor:
    """Each row's loss under ``parameters`` instead of the backbone's own, [B]."""
    _, tower_inputs = functional_call(backbone.body, _below(parameters, "body."), (inputs.vectors, inputs.dense))
    loss: Tensor = functional_call(backbone.head, _below(parameters, "head."), (tower_inputs, label))
    return loss


def mean_loss(row_loss: Tensor, weight: Tensor, reduce: Reduce) -> Tensor:
    """The weighted mean over all ranks' rows, a scalar; 0 where there is none. A collective."""
    total, count = reduce(torch.stack([(row_loss * weight).sum(), weight.sum()])).unbind()
    return total / _above_zero(count)


def mean_gradient(row_loss: Tensor, weight: Tensor, parameters: Sequence[Tensor], reduce: Reduce) -> list[Tensor]:
    """The gradient of the weighted mean over all ranks' rows, a tensor a parameter; zeros where there is none. A collective."""
    found = torch.autograd.grad((row_loss * weight).sum(), parameters)
    flat = reduce(torch.cat([*(gradient.reshape(-1) for gradient in found), weight.sum()[None]]))
    mean = flat[:-1] / _above_zero(flat[-1])
    parts = torch.split(mean, [gradient.numel() for gradient in found])
    return [part.view_as(gradient) for part, gradient in zip(parts, found, strict=True)]


def directional_derivatives(
    head: Head, tower_inputs: Tensor, label: Tensor, direction: Parameters, derivative: Literal["jvp", "double_vjp"]
) -> tuple[Tensor, Tensor]:
    """Each row's loss, and <direction, its gradient by the head's parameters>, [B] each, in one pass for all rows.

    ``jvp`` is forward mode. ``double_vjp`` differentiates u -> <direction, sum_j u_j grad l_j> by u, for layers that lack it.
    """
    parameters = parameters_of(head)

    def row_loss(parameters: Parameters) -> Tensor:
        loss: Tensor = functional_call(head, parameters, (tower_inputs, label))
        return loss

    if derivative == "jvp":
        with torch.no_grad():
            found = jvp(row_loss, (parameters,), (direction,))
        return found[0], found[1]
    with torch.enable_grad():
        parameters = {name: value.requires_grad_() for name, value in parameters.items()}
        loss = row_loss(parameters)
        cotangent = torch.zeros_like(loss, requires_grad=True)
        pulled = torch.autograd.grad(loss, list(parameters.values()), cotangent, create_graph=True)
        along = torch.stack([(part * direction[name]).sum() for name, part in zip(parameters, pulled, strict=True)]).sum()
        return loss.detach(), torch.autograd.grad(along, cotangent)[0]


def _below(parameters: Mapping[str, Tensor], prefix: str) -> Parameters:
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


def _above_zero(weight: Tensor) -> Tensor:
    return torch.where(weight > 0, weight, 1.0)
