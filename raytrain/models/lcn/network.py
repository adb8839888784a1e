"""``lcn``: a candidate of the target domain attends to a user's whole life in both domains (LCN, arXiv 2312.06424).

Histories -> projections that contrastive pairs align (CRP) -> a pyramid for each history (LAP) -> the head every sequence model
has. Loss: cross-entropy of the click + ``contrast.weight`` x the contrastive loss, end to end.

Shapes: B rows, U unique rows, D embedding size, E size of an aligned vector.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import gathered
from raytrain.model_config import LcnModel
from raytrain.models.layers.sequence_network import HistoryShape, Interests, SequenceNetwork, Views
from raytrain.models.lcn.cross_domain_contrast import CrossDomainContrast, TargetEvents
from raytrain.models.lcn.cross_representation import CrossRepresentation
from raytrain.models.lcn.pairs import draw_events
from raytrain.models.lcn.pyramid import AttentionPyramid, Levels


def lcn_network(model: LcnModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    item_table = next(feature.table for feature in contract.features if feature.name == contract.item)
    tables = {name: domain.history.table for name, domain in contract.domains.items() if domain.history is not None}
    sharing = frozenset(name for name, table in tables.items() if table == item_table)
    return SequenceNetwork(model, job, contract, lambda shapes: LcnInterest(model, shapes, contract.target, contract.item, sharing))


class LcnInterest(nn.Module):
    """Pyramids over aligned histories, and the loss that aligns them."""

    def __init__(
        self, model: LcnModel, shapes: dict[str, HistoryShape], target: str, item: str, sharing: frozenset[str] = frozenset()
    ) -> None:
        """``sharing``: domains whose items have the same ids as the target's."""
        super().__init__()
        self.model, self.target, self.item = model, target, item
        dim = next(iter(shapes.values())).dim
        self.align = CrossRepresentation(tuple(dict.fromkeys((target, *shapes))), dim, model.aligned_units, model.aligned_dim)
        self.pyramid = nn.ModuleDict({name: AttentionPyramid(model, shape) for name, shape in shapes.items()})
        self.num_outputs = sum(int(pyramid.num_outputs) for pyramid in self.pyramid.values())  # type: ignore[arg-type, misc]
        sources = [name for name in shapes if name != target] if model.contrast.weight else []
        self.contrast = nn.ModuleDict({name: CrossDomainContrast(model.contrast, name in sharing) for name in sources})
        scored = [name for name, pyramid in self.pyramid.items() if pyramid.trains_complete_scores]
        trained = {*scored, *sources, *((target,) if scored or sources else ())}
        for name, projection in self.align.of.items():
            projection.requires_grad_(name in trained)

    def forward(self, query: Tensor, views: Views, batch: Batch) -> Interests:
        aligned_query = self.align(self.target, query)  # [B, E]
        aligned = {name: self.align(name, view.rows) for name, view in views.items()}  # [U, E] each
        outputs = torch.cat([found.output for found in self.levels(query, views, aligned_query, aligned).values()], dim=1)
        if not self.training or not self.contrast:
            return Interests(outputs)
        targets = self._target_events(aligned_query, views, aligned, batch)
        losses = [contrast(targets, aligned[name], views[name], batch) for name, contrast in self.contrast.items()]
        row_loss = torch.stack(losses).mean(0)  # [B]
        mean = (row_loss.detach() * batch.weight).sum() / batch.weight.sum().clamp(min=1.0)
        return Interests(outputs, self.model.contrast.weight * row_loss, {"contrastive_loss": mean})

    def levels(self, query: Tensor, views: Views, aligned_query: Tensor, aligned: dict[str, Tensor]) -> dict[str, Levels]:
        """Each history's pyramid, by domain."""
        return {name: pyramid(query, aligned_query, aligned[name], views[name]) for name, pyramid in self.pyramid.items()}

    def _target_events(self, aligned_query: Tensor, views: Views, aligned: dict[str, Tensor], batch: Batch) -> TargetEvents:
        """Each row's candidate, and events of its target history where the model sees that."""
        section, item = self.model.contrast, batch.ids[self.item]
        # Rows of a source domain, where the batch holds any, are no candidates of the target's.
        present = (batch.weight > 0) & (batch.domain == 0)
        events = TargetEvents(
            aligned=aligned_query[:, None],
            item=item[:, None],
            age_s=torch.zeros_like(item)[:, None],
            is_positive=((batch.label > 0.5) & present)[:, None],
            is_present=present[:, None],
        )
        if self.target not in views:
            return events
        view, rows = views[self.target], aligned[self.target]
        if section.passed_over_side:
            places, valid = draw_events(view.sequence, 1, section.recent_events, section.passed_over_side, section.random_pairs)
            events = replace(
                events,
                passed_over=gathered(rows, view.inverse.gather(1, places))[:, 0] * valid,
                passed_over_item=view.sequence.items.gather(1, places)[:, 0],
            )
        if section.target_events:
            places, valid = draw_events(
                view.sequence, section.target_events, section.recent_events, section.pair_side, section.random_pairs
            )
            assert view.sequence.age_s is not None
            valid = valid & present[:, None]
            events = replace(
                events,
                aligned=torch.cat([events.aligned, gathered(rows, view.inverse.gather(1, places))], dim=1),
                item=torch.cat([events.item, view.sequence.items.gather(1, places)], dim=1),
                age_s=torch.cat([events.age_s, view.sequence.age_s.gather(1, places)], dim=1),
                is_positive=torch.cat([events.is_positive, valid], dim=1),
                is_present=torch.cat([events.is_present, valid], dim=1),
            )
        return events
