"""The section ``model`` of what ADSNet is measured against on amounts; torch-free. Defaults are our choice."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from raytrain.adsnet_config import BackboneModel
from raytrain.settings import Section

DomainWeights = tuple[float, float]
"""Of the internal rows' mean loss, and of the external rows'."""


class LtvModel(BackboneModel):
    """One half of ADSNet's pair on its own: the same backbone, one set of tables, and every external row or none.

    Without source rows (data.source_batch_size=0) it is the internal-only baseline.
    """

    name: Literal["ltv"] = "ltv"
    external: Literal["mix", "pretrain"] = "mix"
    """mix: both domains all the time. pretrain: external rows count in the first ``pretrain_steps`` alone."""
    pretrain_on: Literal["external", "both"] = "external"
    """Rows that count until then."""
    pretrain_steps: NonNegativeInt = 500
    """Optimizers and schedule go on from it as they are; early stopping begins after it."""
    external_weight: PositiveFloat = 1.0
    """Of the external rows' mean loss beside the internal rows'."""

    def domain_weights(self, step: int) -> DomainWeights:
        """At 0-based ``step``."""
        if self.external == "mix":
            return 1.0, self.external_weight
        if step >= self.pretrain_steps:
            return 1.0, 0.0
        return (1.0 if self.pretrain_on == "both" else 0.0), self.external_weight

    @property
    def preparation_steps(self) -> int:
        """Steps that make no model of the internal domain yet."""
        return self.pretrain_steps if self.external == "pretrain" else 0

    @property
    def needs_source(self) -> bool:
        """Whether it is nothing without external rows."""
        return self.preparation_steps > 0


class CdafModel(BackboneModel):
    """CDAF (Su et al., AAAI 2023), as its abstract tells it: see ``raytrain/models/baselines/cdaf.py``."""

    name: Literal["cdaf"] = "cdaf"
    pretrain_steps: NonNegativeInt = 500
    """Steps on external rows alone; early stopping begins after them."""
    external_weight: NonNegativeFloat = 1.0
    """Of the external rows' mean loss beside the internal rows', after it."""
    distance_weight: NonNegativeFloat = 0.1
    """Of the distance of the domains' encodings, after it."""
    num_directions: PositiveInt = 64
    """Lines that encodings are compared on, drawn afresh for each step."""

    def domain_weights(self, step: int) -> DomainWeights:
        """At 0-based ``step``."""
        return (0.0, 1.0) if step < self.pretrain_steps else (1.0, self.external_weight)

    @property
    def preparation_steps(self) -> int:
        """Steps that make no model of the internal domain yet."""
        return self.pretrain_steps

    @property
    def needs_source(self) -> bool:
        """Whether it is nothing without external rows."""
        return True


class PlainLtvModel(Section):
    """What plain baselines of amounts share: they work in memory on the columns of the data set."""

    max_memory_mib: PositiveInt = 16384
    """More than this is refused before a row is read."""

    @property
    def reads_source(self) -> bool:
        """Whether it is fitted on external training rows."""
        return False

    @property
    def reads_target(self) -> bool:
        """Whether it is fitted on internal training rows."""
        return True


class SpendModel(PlainLtvModel):
    """What a user has spent goes on: a number of the data set times a factor, floored at 0. It learns nothing."""

    name: Literal["spend"] = "spend"
    feature: str
    """A dense feature."""
    factor: PositiveFloat = 1.0
    """The label's days over the feature's, as 90 / 365 = 0.2466."""
    transform: Literal["none", "log1p"] = "none"
    """What the recipe has written the feature as, which is undone; online_retail and complete_journey write log1p."""


class LightGbmLtvModel(PlainLtvModel):
    """Gradient boosted trees of amounts on the data set's own columns, ids as categories."""

    name: Literal["lightgbm_ltv"] = "lightgbm_ltv"
    objective: Literal["tweedie", "two_stage"] = "tweedie"
    """tweedie: one model of the amount. two_stage: the probability of paying times the amount among payers, fitted in logarithms."""
    tweedie_variance_power: Annotated[float, Field(gt=1, lt=2)] = 1.5
    rows: Literal["internal", "mixed", "pretrained", "external"] = "internal"
    """Of training. pretrained: trees of external rows, to which trees of internal ones are added. Internal validation rows stop each."""
    skip_features: tuple[str, ...] = ()
    num_leaves: Annotated[int, Field(ge=2)] = 15
    learning_rate: PositiveFloat = 0.03
    max_rounds: PositiveInt = 2000
    """Trees of each fit."""
    patience_rounds: PositiveInt = 50
    """Rounds without a lower validation loss before a fit stops."""
    min_data_in_leaf: PositiveInt = 20
    feature_fraction: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the columns that each tree may use."""
    num_threads: PositiveInt = 1
    """OpenMP threads. More than there are idle cores wait for each other busily, and a fit takes many times as long."""

    @property
    def reads_source(self) -> bool:
        return self.rows != "internal"

    @property
    def reads_target(self) -> bool:
        return self.rows != "external"
