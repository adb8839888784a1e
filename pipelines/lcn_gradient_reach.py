"""How far does the click's gradient reach into a history? With the outputs of all of LCN's levels, and with those of one alone.

Top-k passes no gradient: an event that no output holds teaches its item nothing. Every event of a batch gets a vector of its own
here, so that what one row's loss says of its event is not mixed with what other rows say of the same item. Tables and network are
left as they are.

Shapes: B rows, L events, U unique rows, D embedding size.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.lcn_run import interest_of, network_of
from raytrain.data.batch import Batch
from raytrain.embeddings.tables import Embedded, EmbeddedRows, history_feature
from raytrain.models.layers.sequence_network import SequenceNetwork
from raytrain.models.lcn.network import LcnInterest
from raytrain.models.lcn.pyramid import AttentionPyramid, Levels
from raytrain.training.loop import Learner

Reach = dict[str, dict[str, dict[str, float]]]
"""domain -> outputs that pass gradients ("all" or a level's name) -> {events_share, items_share, norm_share_outside_focus}"""


def gradient_reach(learner: Learner, batches: Iterable[Batch]) -> Reach:
    """Where the gradient of the click loss alone goes, as shares over all batches.

    ``events_share``: of the history events, those whose vector gets a gradient other than 0 from their own row's loss.
    ``items_share``: of the items in a batch's histories, those whose row of the table gets one from any row; larger, since
    batches repeat items. ``norm_share_outside_focus``: of the sum of the events' gradient norms, the part on events outside the
    focused scope, which has none without the other levels' outputs (only where the model has that scope).
    """
    network, interest = network_of(learner), interest_of(learner)
    ways: dict[str, tuple[str, ...]] = {"all": interest.model.outputs}
    ways.update((level, (level,)) for level in interest.model.outputs)
    sums: dict[tuple[str, str], Tensor] = defaultdict(lambda: torch.zeros(6, dtype=torch.float64))
    learner.network.eval()
    for batch in batches:
        for way, outputs in ways.items():
            with _only(network, interest, outputs) as focused:
                gradients = event_gradients(learner, batch)
            for domain, gradient in gradients.items():
                sums[domain, way] += _counted(gradient, focused.get(domain))
    reach: Reach = defaultdict(dict)
    for (domain, way), (reached, events, items_reached, items, outside, norm) in sums.items():
        found = {"events_share": float(reached / events.clamp(min=1)), "items_share": float(items_reached / items.clamp(min=1))}
        if "focused" in interest.model.levels:
            found["norm_share_outside_focus"] = float(outside / norm) if norm > 0 else 0.0
        reach[domain][way] = found
    return dict(reach)


@dataclass(frozen=True)
class EventGradients:
    """What the click loss says of one history's events."""

    of_event: Tensor
    """float32 [B, L, D], by each event's own row; 0 on padding"""
    inverse: Tensor
    """int64 [B, L], an event's item among the batch's"""
    mask: Tensor
    """bool [B, L]; rows of weight 0 have no events"""


def event_gradients(learner: Learner, batch: Batch) -> dict[str, EventGradients]:
    """domain -> gradient of the batch's mean click loss in its events' vectors."""
    network = network_of(learner)
    with torch.no_grad():
        looked_up = learner.tables(batch)
    embedded, leaves = _unshared(looked_up, network.history_table, batch)
    row_loss = network(embedded, batch).row_loss
    loss = (row_loss * batch.weight).sum() / batch.weight.sum().clamp(min=1.0)
    domains = list(leaves)
    found = torch.autograd.grad(loss, [leaves[domain] for domain in domains], materialize_grads=True)
    return {
        domain: EventGradients(
            gradient.view(*batch.histories[domain].items.shape, -1),
            looked_up[network.history_table[domain]].inverse[history_feature(domain)],
            batch.histories[domain].mask & (batch.weight > 0)[:, None],
        )
        for domain, gradient in zip(domains, found, strict=True)
    }


def _unshared(looked_up: Embedded, history_table: Mapping[str, str], batch: Batch) -> tuple[dict[str, EmbeddedRows], dict[str, Tensor]]:
    """The same look-up with a row of its own for every event, and those rows by domain, float32 [B * L, D], as leaves."""
    embedded, leaves = dict(looked_up), {}
    for domain, table in history_table.items():
        found = embedded[table]
        inverse = found.inverse[history_feature(domain)]
        leaf = found.of(history_feature(domain)).flatten(0, 1).detach().clone().requires_grad_()
        place = len(found.rows) + torch.arange(len(leaf)).view(inverse.shape)
        embedded[table] = EmbeddedRows(
            torch.cat([found.rows, leaf]),
            torch.cat([found.ids, batch.histories[domain].items.flatten()]),
            found.inverse | {history_feature(domain): place},
        )
        leaves[domain] = leaf
    return embedded, leaves


@contextmanager
def _only(network: SequenceNetwork, interest: LcnInterest, outputs: tuple[str, ...]) -> Iterator[dict[str, Tensor]]:
    """Cuts the gradient of every other level's output, its numbers left as they are; collects the events of the focused scope."""
    focused: dict[str, Tensor] = {}

    def cut(domain: str, pyramid: AttentionPyramid) -> Any:
        def hook(module: nn.Module, inputs: tuple[object, ...], levels: Levels) -> Levels:
            if levels.focused_index is not None:
                focused[domain] = levels.focused_index
            sizes = _sizes(pyramid, network.shapes[domain].dim)
            parts = torch.split(levels.output, list(sizes.values()), dim=1)
            kept = [part if name in outputs else part.detach() for name, part in zip(sizes, parts, strict=True)]
            return replace(levels, output=torch.cat(kept, dim=1))

        return hook

    handles = []
    try:
        for domain, pyramid in interest.pyramid.items():
            assert isinstance(pyramid, AttentionPyramid)
            handles.append(pyramid.register_forward_hook(cut(domain, pyramid)))
        yield focused
    finally:
        for handle in handles:
            handle.remove()


def _sizes(pyramid: AttentionPyramid, dim: int) -> dict[str, int]:
    """level -> how many numbers of the pyramid's output are its own, in their order."""
    model = pyramid.model
    sizes = {"complete": dim, "median": dim + sum(pyramid.side.values()), "focused": model.attention_dim}
    return {level: size for level, size in sizes.items() if level in model.outputs}


def _counted(gradients: EventGradients, focused_index: Tensor | None) -> Tensor:
    """float64 [6]: events reached, events; items reached, items; gradient norm outside the focused scope, and in all."""
    mask = gradients.mask
    norm = gradients.of_event.double().norm(dim=2) * mask  # [B, L]
    of_item = gradients.of_event.new_zeros(int(gradients.inverse.max()) + 1, gradients.of_event.shape[2])
    of_item.index_add_(0, gradients.inverse[mask], gradients.of_event[mask])
    items = torch.unique(gradients.inverse[mask])
    outside = norm if focused_index is None else norm.scatter(1, focused_index, 0.0)
    numbers = [(norm > 0).sum(), mask.sum(), (of_item[items] != 0).any(1).sum(), len(items), outside.sum(), norm.sum()]
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
