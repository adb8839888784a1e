"""The section ``model`` of a job: every model's knobs, told apart by ``name``. Torch-free."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raytrain.adsnet_config import AdsnetModel
from raytrain.ecdctr_config import EcdctrModel, TpmModel
from raytrain.ltv_config import CdafModel, LightGbmLtvModel, LtvModel, SpendModel
from raytrain.sequence_config import SequenceModel
from raytrain.settings import DropoutRate, Section


class DinModel(SequenceModel):
    """Deep Interest Network (Zhou et al., KDD 2018, arXiv 1706.06978)."""

    name: Literal["din"] = "din"
    attention_units: tuple[PositiveInt, ...] = Field(default=(32,), min_length=1)
    num_heads: PositiveInt = 4


class SingleDomainModel(DinModel):
    """The same network that sees the target history alone, unless ``histories`` says otherwise."""

    name: Literal["single_domain"] = "single_domain"  # type: ignore[assignment]


Level = Literal["complete", "median", "focused"]
LEVELS: tuple[Level, ...] = ("complete", "median", "focused")


SideCodes = dict[str, tuple[int, ...]]
"""side information -> some of its codes"""


class ContrastSection(Section):
    """Pairs of items across domains, and the loss that aligns them (CRP); pairs, forms and defaults are our choice."""

    weight: NonNegativeFloat = 0.1
    """Of the contrastive loss beside the click's; 0 leaves it out."""
    form: Literal["infonce", "margin", "triplet"] = "infonce"
    temperature: PositiveFloat = 0.1
    """Of infonce."""
    margin: PositiveFloat = 1.0
    """Of margin and triplet; distances of aligned vectors lie between 0 and 2."""
    target_events: NonNegativeInt = 1
    """Events of a row's target history that are paired, besides its candidate where that was clicked."""
    recent_events: PositiveInt = 100
    """The newest events of the target history that these are drawn from."""
    num_pairs: PositiveInt = 1
    """Source events that each of them is paired with."""
    partner_events: PositiveInt = 3
    """The newest source events before it that these are drawn from."""
    window_s: PositiveInt | None = None
    """Longest time between the two; null for any."""
    random_pairs: bool = True
    """Draw events; false takes the newest."""
    pair_side: SideCodes = Field(default_factory=dict)
    """Pair only history events with one of these codes, such as {rating: [4, 5]}; empty pairs every event."""
    passed_over_side: SideCodes = Field(default_factory=dict)
    """Codes of target events that were shown and not taken, such as {rating: [1, 2]}: each row's own hard negative."""
    hard_negative_weight: PositiveFloat = 1.0
    """Of negatives that the same user was shown and did not take."""
    negatives: Literal["all_ranks", "rank"] = "all_ranks"
    """Other rows of the whole batch, sent to every rank with their gradients; or of this rank's part alone, which is cheaper, and
    learns otherwise at another number of workers."""
    popularity_correction: bool = True
    """Subtract the log of how often an item is drawn (logQ)."""
    frequency_buckets: PositiveInt = 1 << 17
    """Hashed counts of items, for the correction."""
    frequency_steps: Annotated[int, Field(ge=2)] = 500
    """Steps after which a count has faded to 1 / e."""


class LcnModel(SequenceModel):
    """LCN (arXiv 2312.06424): lifelong attention pyramid and contrastive cross-domain representations; sizes are our choice."""

    name: Literal["lcn"] = "lcn"
    levels: tuple[Level, ...] = LEVELS
    """Levels of the pyramid; a level that is left out hands every event on to the next."""
    outputs: tuple[Level, ...] = LEVELS
    """Levels whose output the head sees."""
    median_events: PositiveInt = 50
    """K1: events that the complete scope leaves."""
    focused_events: PositiveInt = 10
    """K2: events that the median scope leaves."""
    residual_scores: bool = True
    """Add the complete scope's score of an event to the median scope's, which keeps the levels consistent."""
    aligned_units: PositiveInt = 32
    """Hidden units of each domain's projection."""
    aligned_dim: PositiveInt = 16
    side_dim: PositiveInt = 4
    """Embedding size of each side information in the focused scope."""
    attention_dim: PositiveInt = 32
    num_heads: PositiveInt = 4
    contrast: ContrastSection = ContrastSection()

    @model_validator(mode="after")
    def _check_levels(self) -> Self:
        if not self.outputs or not set(self.outputs) <= set(self.levels):
            raise ValueError(
                "model.outputs has to name some of model.levels. "
                f"Received: outputs={list(self.outputs)}, levels={list(self.levels)}. Change one."
            )
        if "median" in self.levels and "focused" in self.levels and self.focused_events > self.median_events:
            raise ValueError(
                "The scope has to narrow. "
                f"Received: median_events={self.median_events}, focused_events={self.focused_events}. Lower focused_events."
            )
        if self.attention_dim % self.num_heads:
            raise ValueError(
                "model.num_heads has to divide model.attention_dim. "
                f"Received: num_heads={self.num_heads}, attention_dim={self.attention_dim}. Change one."
            )
        return self


class AttentionModel(SequenceModel):
    """Multi-head target attention over events with side information; sizes are our choice, LCN's focused scope has the same."""

    side_dim: PositiveInt = 4
    """Embedding size of each side information."""
    attention_dim: PositiveInt = 32
    num_heads: PositiveInt = 4

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.attention_dim % self.num_heads:
            raise ValueError(
                "model.num_heads has to divide model.attention_dim. "
                f"Received: num_heads={self.num_heads}, attention_dim={self.attention_dim}. Change one."
            )
        return self


class FullAttentionModel(AttentionModel):
    """Attends to every event: the bound that models which search first are measured against."""

    name: Literal["full_attention"] = "full_attention"


class SearchModel(AttentionModel):
    """What all models share that search a long history first: the public versions, too, attend to the newest events besides."""

    recent_events: NonNegativeInt = 50
    """Newest events that are attended to whatever the search finds; 0 leaves them out."""


class TopEventsModel(SearchModel):
    num_events: PositiveInt = 50
    """Events that the search hands on."""


class SimModel(TopEventsModel):
    """SIM (Pi et al., CIKM 2020, arXiv 2006.05639): a search unit, then attention to what it found."""

    name: Literal["sim"] = "sim"
    search: Literal["soft", "hard"] = "soft"
    """soft: largest learned inner products with the candidate. hard: newest events of the candidate's category."""
    category: str | None = None
    """For search=hard: a side information of the histories that is an id feature of the candidate too, with the same codes."""
    auxiliary_units: tuple[PositiveInt, ...] = (32,)
    auxiliary_weight: PositiveFloat = 0.1
    """Of the click loss that trains the soft search, beside the head's. Public code has 1, with which the head learnt later in
    trials of ours on a toy, one seed each. Sweep it."""

    @model_validator(mode="after")
    def _check_category(self) -> Self:
        if (self.search == "hard") != (self.category is not None):
            raise ValueError(
                "model.category has to be given for search=hard, and for that alone. "
                f"Received: search={self.search}, category={self.category}. Change one."
            )
        return self


class EtaModel(TopEventsModel):
    """ETA (Chen et al., arXiv 2108.04468): the nearest events by Hamming distance of hashed vectors, then attention to them."""

    name: Literal["eta"] = "eta"
    hash_bits: Annotated[int, Field(ge=1, le=62)] = 32


class SdimModel(SearchModel):
    """SDIM (Cao et al., CIKM 2022, arXiv 2205.10249): sums of the events that hash as the candidate does, instead of attention."""

    name: Literal["sdim"] = "sdim"
    num_hashes: PositiveInt = 16
    """Signatures of each item. With hash_bits=3 these are 48 hash functions."""
    hash_bits: Annotated[int, Field(ge=1, le=7)] = 3
    """Bits of a signature: a bucket gets 1 / 2^bits of what is unrelated to the candidate."""


class TwinModel(TopEventsModel):
    """TWIN (Chang et al., KDD 2023, arXiv 2302.02352): the search has the scores of the attention that follows."""

    name: Literal["twin"] = "twin"
    num_events: PositiveInt = 100


class StarModel(SequenceModel):
    """STAR (Sheng et al., CIKM 2021, arXiv 2101.11580): weights of each domain on top of shared ones, partitioned normalisation.

    Source rows train beside the target's: ``data.source_batch_size`` = 0, its default, gives it one domain alone.
    """

    name: Literal["star"] = "star"
    attention_units: tuple[PositiveInt, ...] = Field(default=(32,), min_length=1)
    """Hidden layers of DIN's activation unit."""
    num_heads: PositiveInt = 4
    domain_dim: PositiveInt = 8
    """Size of the domain's indicator in the auxiliary network."""
    auxiliary_units: tuple[PositiveInt, ...] = (32,)
    """Hidden layers of the auxiliary network."""


class MinetModel(SequenceModel):
    """MiNet (Ouyang et al., CIKM 2020, arXiv 2008.02974): item-level attention in each domain, interest-level attention over them.

    The auxiliary loss is learned from source rows: ``data.source_batch_size`` = 0, its default, gives it none.
    """

    name: Literal["minet"] = "minet"
    recent_events: PositiveInt = 50
    """Newest events of each history: its interests are short-term."""
    side_dim: PositiveInt = 4
    attention_units: PositiveInt = 32
    """Hidden units of both attentions."""
    source_units: tuple[PositiveInt, ...] = (64,)
    """Of the source domain's own network."""
    source_weight: PositiveFloat = 0.5
    """Of the source domain's click loss."""


class DnnModel(Section):
    """The features' embeddings side by side into an MLP, without histories (deep half of Wide & Deep, arXiv 1606.07792)."""

    name: Literal["dnn"] = "dnn"
    skip_features: tuple[str, ...] = ()
    """Features left out of the network."""
    hidden_units: tuple[PositiveInt, ...] = (256, 64)
    dropout: DropoutRate = 0.0
    """After every hidden layer."""


class ItemMeanModel(Section):
    """Smoothed mean label of the candidate item in training rows."""

    name: Literal["item_mean"] = "item_mean"
    prior_rows: PositiveFloat = 2.0
    """Rows of the overall mean that are added to an item's own."""
    max_memory_mib: PositiveInt = 16384
    """Plain baselines work in memory; more than this is refused before a row is read."""


class LogisticModel(Section):
    """Logistic regression on smoothed user, item and cross means of both domains, taken strictly before each row."""

    name: Literal["logistic"] = "logistic"
    prior_rows: PositiveFloat = 10.0
    """Rows of the next wider mean that are added to a mean."""
    c: PositiveFloat = 1.0
    """Inverse of the L2 penalty."""
    max_memory_mib: PositiveInt = 16384


class LightGbmModel(Section):
    """Gradient boosted trees on the same columns as ``logistic``."""

    name: Literal["lightgbm"] = "lightgbm"
    prior_rows: PositiveFloat = 10.0
    num_leaves: Annotated[int, Field(ge=2)] = 31
    learning_rate: PositiveFloat = 0.05
    max_rounds: PositiveInt = 1000
    patience_rounds: PositiveInt = 30
    """Rounds without a lower validation log loss before it stops."""
    min_data_in_leaf: PositiveInt = 300
    feature_fraction: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the columns that each tree may use."""
    num_threads: PositiveInt = 1
    """OpenMP threads. More than there are idle cores wait for each other busily, and a fit takes many times as long."""
    max_memory_mib: PositiveInt = 16384


class CounterModel(Section):
    """Counts how often each row is trained: the exactly-once proof on your data and your cluster."""

    name: Literal["counter"] = "counter"
    feature: str = "row_id"
    """An id feature that is unique to each sample."""


PlainSection = ItemMeanModel | LogisticModel | LightGbmModel | SpendModel | LightGbmLtvModel
"""Models that are fitted in memory, on the driver."""
ModelSection = Annotated[
    AdsnetModel
    | LtvModel
    | CdafModel
    | LcnModel
    | DinModel
    | SingleDomainModel
    | FullAttentionModel
    | SimModel
    | EtaModel
    | SdimModel
    | TwinModel
    | MinetModel
    | StarModel
    | DnnModel
    | TpmModel
    | EcdctrModel
    | CounterModel
    | ItemMeanModel
    | LogisticModel
    | LightGbmModel
    | SpendModel
    | LightGbmLtvModel,
    Field(discriminator="name"),
]
