"""The sections ``model`` of E-CDCTR (arXiv 2408.16238): its monthly model, and the one network of its weekly and daily ones. Torch-free.

The paper names no sizes: defaults are our choice.
"""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from raytrain.sequence_config import SequenceModel
from raytrain.settings import DropoutRate, Section

Aggregator = Literal["self_attention", "mean", "max", "concat", "additive", "last"]


class TpmModel(Section):
    """TPM: a shallow MLP on a few basic features, trained for its user and item vectors. Their size is ``tables.dim``."""

    name: Literal["tpm"] = "tpm"
    features: tuple[str, ...] | None = None
    """Basic features, user and item among them; null takes every id feature."""
    hidden_units: tuple[PositiveInt, ...] = (64, 32)
    dropout: DropoutRate = 0.0


class FusionSection(Section):
    """How a user's, or an item's, vectors of several months become one."""

    aggregator: Aggregator = "self_attention"
    """self_attention over the months, the paper's. mean, max: over the months that know the id. concat: side by side. additive:
    weighted by a learned score. last: of the newest month alone."""
    attention_dim: PositiveInt = 16
    """d_a, of self_attention and additive."""
    num_outputs: PositiveInt = 16
    """d_r: what the head sees, of users and of items each."""


class EcdctrModel(SequenceModel):
    """CPM and A-CTR, one network: target attention over histories, fused monthly vectors, and an MLP with batch norm.

    The monthly vectors come from the runs that ``start.snapshots`` names, oldest first, and are never trained here.
    """

    name: Literal["ecdctr"] = "ecdctr"
    attention_units: tuple[PositiveInt, ...] = Field(default=(32,), min_length=1)
    """Hidden layers of DIN's activation unit."""
    num_heads: PositiveInt = 4
    months: NonNegativeInt = 3
    """Monthly vectors of an id that a row sees, the latest before it; 0 leaves them out. Where there are fewer, the others know no id."""
    month_dim: Annotated[int, Field(ge=4, multiple_of=4)] = 16
    """d_T, which the monthly runs have as ``tables.dim``."""
    fusion: FusionSection = FusionSection()
    batch_norm: bool = True
    """After every hidden layer of the head, with moments over the rows of all ranks."""
