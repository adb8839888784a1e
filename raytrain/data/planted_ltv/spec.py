"""What a planted lifetime-value data set holds: how many rows, which share of the external slices harms, how, and how purely."""

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raytrain.data.contract import PROBE, SPLITS
from raytrain.settings import Section

MAX_ID = 2**31 - 1

Share = Annotated[float, Field(ge=0, le=1)]
Harm = Literal["label_flip", "covariate_shift", "scale_shift"]


class PlantedLtvSpec(Section):
    """Domains ``internal`` (target) and ``external`` (source); the rule of their labels and of each harm stands in ``rows.py``.

    With these sizes a plain learner gains from the good external rows and loses by mixing all, whatever the harm:
    ``pipelines/recipes/planted_ltv_figures.py`` measures it on every prepared set. The more internal rows, the less is left to gain.
    """

    dataset: str = "planted_ltv"
    """Name in the contract."""
    num_rows: PositiveInt = 4_000
    """Internal training rows."""
    volume: PositiveFloat = 5.0
    """External training rows for each internal one."""
    num_probe_rows: PositiveInt = 2_000
    """Internal rows held out of training, on which gain is measured."""
    num_eval_rows: PositiveInt = 10_000
    """Rows of valid and of test, in either domain."""
    rows_per_user: PositiveInt = 3
    """On average; users differ between domains and splits, and a user's rows pay more or less together."""
    num_slices: PositiveInt = 20
    """External rows are spread evenly over them, internal ones with a long tail, and all of those are good."""
    harmful_share: Share = 0.5
    """Share of the slices whose external rows harm."""
    neutral_share: Share = 0.1
    """Share of the slices whose external rows teach nothing about internal ones; the others' help."""
    purity: Share = 1.0
    """Share of a harmful slice's external rows that are harmful, the others being good; and of a good slice's that are good, the
    others being harmful."""
    harm: Harm = "label_flip"
    scale: Annotated[float, Field(gt=1)] = 20.0
    """By how much harmful amounts are off where ``harm`` is scale_shift; without effect otherwise."""
    num_items: Annotated[int, Field(ge=2)] = 60
    num_id_features: PositiveInt = 5
    """Beside the item."""
    num_ids: Annotated[int, Field(ge=2)] = 30
    """Values of each of them that internal rows have."""
    num_dense_features: PositiveInt = 4
    seed: NonNegativeInt = 0

    @property
    def id_sizes(self) -> dict[str, int]:
        """id feature -> values that internal rows have; ids 1..n."""
        return {"item": self.num_items} | {f"id_{number}": self.num_ids for number in range(1, self.num_id_features + 1)}

    @property
    def dense_features(self) -> tuple[str, ...]:
        return tuple(f"dense_{number}" for number in range(1, self.num_dense_features + 1))

    @property
    def num_harmful_slices(self) -> int:
        return round(self.harmful_share * self.num_slices)

    @property
    def num_neutral_slices(self) -> int:
        return round(self.neutral_share * self.num_slices)

    def splits_of(self, domain: str) -> dict[str, int]:
        """split -> rows."""
        if domain == "external":
            return {split: round(self.volume * self.num_rows) if split == "train" else self.num_eval_rows for split in SPLITS}
        sizes = {"train": self.num_rows, PROBE: self.num_probe_rows}
        return {split: sizes.get(split, self.num_eval_rows) for split in (*SPLITS, PROBE)}

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.num_harmful_slices + self.num_neutral_slices > self.num_slices:
            raise ValueError(
                "Harmful and neutral slices have to be among the slices there are. Received: "
                f"harmful_share={self.harmful_share}, neutral_share={self.neutral_share}. Lower one."
            )
        if round(self.volume * self.num_rows) < self.num_slices:
            raise ValueError(
                "Every slice has to have an external training row. Received: "
                f"volume={self.volume} of num_rows={self.num_rows}, num_slices={self.num_slices}. Raise volume."
            )
        num_rows = sum(sum(self.splits_of(domain).values()) for domain in ("internal", "external"))
        if max(num_rows, 2 * self.num_items, 2 * self.num_ids) >= MAX_ID:
            raise ValueError(
                f"Ids are 32-bit, so there have to be fewer than {MAX_ID:,}. Received: {num_rows} rows, num_items={self.num_items}, "
                f"num_ids={self.num_ids}. Lower them."
            )
        return self
