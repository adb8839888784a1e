"""What planted drifting data holds: rows a day, how preferences drift and differ between domains, and who comes back when."""

from datetime import date
from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from raytrain.settings import Section

MAX_ID = 2**31 - 1

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]


class PlantedDriftSpec(Section):
    """Domains ``natural`` (source) and ``ads`` (target) of the same users; the rule of their clicks stands in ``rule.py``.

    Ids, vectors and the rows of a day depend on everything but ``num_days``: a shorter span is the beginning of a longer one.
    With these sizes a plain learner gains on ads from natural rows where ``shift_degrees`` is 0 and loses by them at 180, and forgets
    users who were away: ``pipelines/recipes/planted_drift_figures.py`` measures it on every prepared set.
    """

    dataset: str = "planted_drift"
    """Name in the contract."""
    start: date = date(2017, 1, 1)
    """First day, UTC; preferences drift by calendar month."""
    num_days: PositiveInt = 365
    natural_rows_per_day: PositiveInt = 2_500
    ad_rows_per_day: PositiveInt = 750
    natural_positive_rate: Rate = 0.2
    """Expected share of natural rows that are clicked; the same of ads is ``ad_positive_rate``."""
    ad_positive_rate: Rate = 0.1
    num_users: PositiveInt = 1_000
    num_items: PositiveInt = 600
    """Of each domain."""
    overlap: Share = 0.0
    """Share of a domain's items that the other one has too. Categories are shared in any case."""
    num_categories: Annotated[int, Field(ge=2)] = 12
    num_dims: PositiveInt = 6
    """Of preferences and items."""
    strength: Annotated[float, Field(ge=0)] = 2.5
    """Standard deviation of what preference adds to the log odds of a click."""
    drift: Share = 0.3
    """Share of the variance of preferences that drifts from month to month; the rest stays for ever."""
    shift_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Angle between a user's preferences in ads and in natural content: 0 the same, 90 unrelated, 180 opposite."""
    dormant_share: Share = 0.3
    """Share of the users who come in bursts; the others are there every day."""
    active_days: PositiveInt = 7
    """Of a burst."""
    dormant_days: NonNegativeInt = 45
    """Between two bursts of a user."""
    seed: NonNegativeInt = 0

    @property
    def num_dormant_users(self) -> int:
        return round(self.dormant_share * self.num_users)

    @property
    def num_shared_items(self) -> int:
        return round(self.overlap * self.num_items)

    @property
    def num_all_items(self) -> int:
        """Ids 1, 2, ... of both domains."""
        return 2 * self.num_items - self.num_shared_items

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if max(self.num_users, 2 * self.num_items, self.num_categories) >= MAX_ID:
            raise ValueError(
                f"Ids are 32-bit, so there have to be fewer than {MAX_ID:,}. Received: num_users={self.num_users}, "
                f"num_items={self.num_items}, num_categories={self.num_categories}. Lower them."
            )
        if self.num_dormant_users == self.num_users:
            raise ValueError(
                "Somebody has to be there every day. Received: "
                f"dormant_share={self.dormant_share} of num_users={self.num_users}. Lower dormant_share."
            )
        return self
