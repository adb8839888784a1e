"""The model protocol: a model declares its tables as data and maps looked-up rows and a batch to losses and predictions.

A network is single-process math. It imports no Ray, no ``torch.distributed``, no files and no clocks; DDP and the
sharded tables are applied from outside (``raytrain.training``).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor, nn

from raytrain.config import JobConfig
from raytrain.data.batch import Batch
from raytrain.data.contract import Contract
from raytrain.embeddings.tables import Embedded, TableConfig


@dataclass(frozen=True)
class ModelOutput:
    """What a network returns for B rows."""

    row_loss: Tensor
    """float32 [B], unweighted. The loop multiplies by ``batch.weight`` and divides by the weight of the *global* batch."""
    predictions: dict[str, Tensor]
    """name -> float32 [B]; "click" is the probability the metrics score."""
    logs: dict[str, Tensor] = field(default_factory=dict)
    """Scalars for the log, detached."""


class Network(Protocol):
    """An ``nn.Module`` whose forward is ``(embedded, batch) -> ModelOutput``."""

    def __call__(self, embedded: Embedded, batch: Batch) -> ModelOutput: ...


NetworkBuilder = Callable[..., nn.Module]
"""(its own config section, job, contract) -> a Network; parameters drawn from torch's global generator. A model that takes amounts has
a fourth argument, the ``LabelStats`` of the internal training rows, None where labels are clicks."""


@dataclass(frozen=True)
class NeuralModel:
    """An entry of the registry that is trained by gradient descent."""

    histories: Callable[[Any, Contract], tuple[str, ...]]
    """(its own config section, contract) -> the domains whose history it reads"""
    tables: Callable[[Any, JobConfig, Contract], tuple[TableConfig, ...]]
    """(its own config section, job, contract) -> the tables it needs"""
    network: NetworkBuilder
