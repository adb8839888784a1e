"""``sdim``: sums of the events that fall into the candidate's hash buckets, in place of a search and an attention.

Cao et al., CIKM 2022, arXiv 2205.10249. Each hash's sum is scaled to length one and the hashes are averaged, as in FuxiCTR's
present SDIM: older copies give every row the next one's events and sum up padding. Ours: items are hashed once a step, and the share
of the buckets that has each side code joins the output, since the sums know of no side information.

Shapes: B rows, L events, U unique rows, D embedding size, H hashes, C codes of a side information.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from raytrain.config import JobConfig
from raytrain.data.contract import Contract
from raytrain.model_config import SdimModel
from raytrain.models.layers.bucket_sums import pool_buckets
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.sequence_network import HistoryShape, PerHistory, SequenceNetwork
from raytrain.models.layers.side_attention import RecentAttention, code_mass
from raytrain.models.layers.sign_hash import SignHash


class SdimInterest(nn.Module):
    """The candidate's buckets in one history."""

    def __init__(self, model: SdimModel, shape: HistoryShape) -> None:
        super().__init__()
        self.side = shape.side
        self.hash = SignHash(shape.dim, model.num_hashes, model.hash_bits)
        self.recent = RecentAttention(shape.dim, shape.side, model.side_dim, model.attention_dim, model.num_heads, model.recent_events)
        self.num_outputs = shape.dim + sum(shape.side.values()) + self.recent.num_outputs

    def forward(self, query: Tensor, view: HistoryView) -> Tensor:
        """query [B, D] -> [B, D + sum of C + the newest events']."""
        signatures, wanted = self.hash(view.rows).to(torch.uint8), self.hash(query).to(torch.uint8)
        sums, share = pool_buckets(view.rows, signatures, wanted, view.inverse, view.sequence.lengths)  # [B, H, D], [B, L]
        outputs = [normalize(sums, dim=2, eps=1e-6).mean(1)]
        outputs += [code_mass(share, view.sequence.side[name], size) for name, size in self.side.items()]
        return torch.cat([*outputs, self.recent(query, view)], dim=1)


def sdim_network(model: SdimModel, job: JobConfig, contract: Contract) -> SequenceNetwork:
    return SequenceNetwork(model, job, contract, lambda shapes: PerHistory(shapes, lambda shape: SdimInterest(model, shape)))
