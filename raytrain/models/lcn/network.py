"""``lcn``: a candidate of the target domain attends to a user's whole life in both domains (LCN, arXiv 2312.06424).

Histories -> projections that contrastive pairs align (CRP) -> a pyramid for each history (LAP) -> the head every sequence model
has. Loss: cross-entropy of the click + ``contrast.weight`` x the contrastive loss, end to end.

Shapes: B rows, U unique rows, D embedding size, E size of an aligned vector.
"""

import torch
from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import gathered
from raytrain.model_config import LcnModel
from raytrain.models.layers.sequence_network import HistoryShape, Interests, SequenceNetwork, Views
from raytrain.models.lcn.cross_domain_contrast import CrossDomainContrast
from raytrain.models.lcn.cross_representation import CrossRepresentation
from raytrain.models.lcn.pairs import draw_events
from raytrain.models.lcn.pyramid import AttentionPyramid, Levels


def lcn_network(model: LcnModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: LcnInterest(model, shapes, contract.target, contract.item))


class LcnInterest(nn.Module):
    """Pyramids over aligned histories, and the loss that aligns them."""

    def __init__(self, model: LcnModel, shapes: dict[str, HistoryShape], target: str, item: str) -> None:
        super().__init__()
        self.model, self.target, self.item = model, target, item
        dim = next(iter(shapes.values())).dim
        self.align = CrossRepresentation(tuple(dict.fromkeys((target, *shapes))), dim, model.aligned_units, model.aligned_dim)
        self.pyramid = nn.ModuleDict({name: AttentionPyramid(model, shape) for name, shape in shapes.items()})
        self.num_outputs = sum(int(pyramid.num_outputs) for pyramid in self.pyramid.values())  # type: ignore[arg-type, misc]
        sources = [name for name in shapes if name != target] if model.contrast.weight else []
        self.contrast = nn.ModuleDict({name: CrossDomainContrast(model.contrast) for name in sources})

    def forward(self, query: Tensor, views: Views, batch: Batch) -> Interests:
        aligned_query = self.align(self.target, query)  # [B, E]
        aligned = {name: self.align(name, view.rows) for name, view in views.items()}  # [U, E] each
        outputs = torch.cat([found.output for found in self.levels(query, views, aligned_query, aligned).values()], dim=1)
        if not self.training or not self.contrast:
            return Interests(outputs)
        passed_over = self._passed_over(views, aligned)
        losses = [
            contrast(aligned_query, aligned[name], views[name], batch, batch.ids[self.item], passed_over)
            for name, contrast in self.contrast.items()
        ]
        row_loss = torch.stack(losses).mean(0)  # [B]
        mean = (row_loss.detach() * batch.weight).sum() / batch.weight.sum().clamp(min=1.0)
        return Interests(outputs, self.model.contrast.weight * row_loss, {"contrastive_loss": mean})

    def levels(self, query: Tensor, views: Views, aligned_query: Tensor, aligned: dict[str, Tensor]) -> dict[str, Levels]:
        """Each history's pyramid, by domain."""
        return {name: pyramid(query, aligned_query, aligned[name], views[name]) for name, pyramid in self.pyramid.items()}

    def _passed_over(self, views: Views, aligned: dict[str, Tensor]) -> Tensor | None:
        """[B, E]: a target item that each row's user was shown and did not take, zeros where there is none; None if not configured."""
        section = self.model.contrast
        if not section.passed_over_side or self.target not in views:
            return None
        view = views[self.target]
        places, valid = draw_events(view.sequence, 1, section.recent_events, section.passed_over_side, None, section.random_pairs)
        return gathered(aligned[self.target], view.inverse.gather(1, places))[:, 0] * valid
