"""What every model over histories has in common, so that models differ in nothing but how they read a history.

Features, a pooled interest per history and each history's profile go into one MLP; dense features have a linear path to the
logit besides. Shapes: B rows, L events, D embedding size, C codes of a side information, N pooled numbers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from raytrain.config import JobConfig
from raytrain.data.batch import Batch, Sequence
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded, history_feature
from raytrain.models.base import ModelOutput
from raytrain.models.baselines.declarations import sequence_histories, side_of
from raytrain.models.layers.feature_inputs import FeatureInputs
from raytrain.models.layers.history_view import HistoryView
from raytrain.models.layers.mlp import PlainHead, mlp
from raytrain.sequence_config import SequenceModel

Views = Mapping[str, HistoryView]
"""history's domain -> its events"""


@dataclass(frozen=True)
class Interests:
    """What the histories say of the candidates."""

    outputs: Tensor
    """float32 [B, N], into the head"""
    row_loss: Tensor | None = None
    """float32 [B], added to the click loss while training: an auxiliary task, weighted already"""
    logs: dict[str, Tensor] = field(default_factory=dict)
    """Scalars, detached"""
    head_weight: Tensor | None = None
    """float32 [B], a factor on the head's own loss: 0 for rows that an auxiliary task alone learns from"""


@dataclass(frozen=True)
class HistoryShape:
    """What a module has to know of a history before it sees one."""

    domain: str
    dim: int
    """D"""
    side: dict[str, int]
    """side information that is used -> number of its codes; 0 pads"""


class PerHistory(nn.Module):
    """One module of its own for each history; each maps (query [B, D], view) -> [B, ``num_outputs``]."""

    def __init__(self, shapes: Mapping[str, HistoryShape], build: Callable[[HistoryShape], nn.Module]) -> None:
        super().__init__()
        self.of = nn.ModuleDict({name: build(shape) for name, shape in shapes.items()})
        self.num_outputs = sum(int(module.num_outputs) for module in self.of.values())  # type: ignore[arg-type, misc]

    def forward(self, query: Tensor, views: Views, batch: Batch) -> Interests:
        # A model may be asked to look at no history at all.
        return Interests(torch.cat([query[:, :0], *(module(query, views[name]) for name, module in self.of.items())], dim=1))


class SequenceNetwork(nn.Module):
    """Features + interests + profiles -> MLP -> click probability.

    The profile (share of every side code, log length) is ours: it tells the network a user's own habit, the bias that a plain
    sequence model has to learn per user id. So is the linear path of the dense features (the wide half of Wide & Deep,
    arXiv 1606.07792), by which biases that were computed beforehand reach the logit undisturbed.
    """

    def __init__(
        self,
        model: SequenceModel,
        job: JobConfig,
        contract: Contract,
        build: Callable[[dict[str, HistoryShape]], nn.Module],
        more: nn.Module | None = None,
        head: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """Every module here has an attribute ``num_outputs``.

        Args:
            build: makes the module (query [B, D], views, batch) -> ``Interests``.
            more: (embedded, batch) -> float32 [B, N], into the head besides; None for nothing.
            head: number of inputs -> the module (inputs [B, I], weight [B], domain [B]) -> [B, 1]; None takes an MLP.
        """
        super().__init__()
        dim = job.tables.dim
        self.features = FeatureInputs(contract, model.skip_features, dim)
        self.item = contract.item
        self.user = contract.user if contract.user in self.features.table_of else None
        self.history_table: dict[str, str] = {}
        self.shapes: dict[str, HistoryShape] = {}
        num_inputs = self.features.num_inputs + (dim if self.user else 0)
        for name in sequence_histories(model, contract):
            history = contract.domains[name].history
            assert history is not None, name
            self.history_table[name] = history.table
            self.shapes[name] = HistoryShape(name, dim, side_of(model, history))
            num_inputs += sum(self.shapes[name].side.values()) + 1
        self.interests = build(self.shapes)
        num_inputs += int(self.interests.num_outputs)  # type: ignore[arg-type]
        self.more = more
        num_inputs += 0 if more is None else int(more.num_outputs)  # type: ignore[arg-type]
        if head is None:
            self.head: nn.Module = PlainHead(nn.Dropout(model.input_dropout), mlp(num_inputs, model.hidden_units, 1, model.dropout))
        else:
            self.head = head(num_inputs)
        self.wide = nn.Linear(len(self.features.dense), 1, bias=False) if self.features.dense else None
        if self.wide is not None:
            nn.init.zeros_(self.wide.weight)

    def forward(self, embedded: Embedded, batch: Batch) -> ModelOutput:
        vectors = self.features.vectors(embedded, batch)
        query = vectors[self.item]  # [B, D]
        numbers = self.features.numbers(batch)
        views = {name: view_of(embedded, table, batch, name) for name, table in self.history_table.items()}
        found: Interests = self.interests(query, views, batch)
        inputs = [*vectors.values(), *numbers, found.outputs]
        if self.user:
            inputs.append(query * vectors[self.user])
        inputs += [profile(views[name].sequence, shape.side) for name, shape in self.shapes.items()]
        if self.more is not None:
            inputs.append(self.more(embedded, batch))
        logit = self.head(torch.cat(inputs, dim=1), batch.weight, batch.domain)[:, 0]
        if self.wide is not None:
            logit = logit + self.wide(torch.cat(numbers, dim=1))[:, 0]
        row_loss = binary_cross_entropy_with_logits(logit, batch.label, reduction="none")
        if found.head_weight is not None:
            row_loss = row_loss * found.head_weight
        logs = found.logs
        if found.row_loss is not None:
            # Beside the sum of losses, so that training and validation can be compared.
            click_loss = (row_loss.detach() * batch.weight).sum() / batch.weight.sum().clamp(min=1.0)
            row_loss, logs = row_loss + found.row_loss, {"click_loss": click_loss} | logs
        return ModelOutput(row_loss=row_loss, predictions={"click": torch.sigmoid(logit)}, logs=logs)


def view_of(embedded: Embedded, table: str, batch: Batch, name: str) -> HistoryView:
    found = embedded[table]
    return HistoryView(found.rows, found.inverse[history_feature(name)], batch.histories[name])


def profile(history: Sequence, sizes: Mapping[str, int]) -> Tensor:
    """[B, sum of C + 1]: the log of the number of events, and the share of every side code among them."""
    num_events = history.lengths.float()[:, None]
    parts = [torch.log1p(num_events)]
    for name, size in sizes.items():
        code = history.side[name]
        counts = torch.zeros(len(code), size, device=code.device)
        counts.scatter_add_(1, code, history.mask.float())
        parts.append(counts / num_events.clamp(min=1.0))
    return torch.cat(parts, dim=1)
