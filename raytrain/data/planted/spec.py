"""What a planted data set holds: users, items, hidden topics, and how strongly they decide."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from raytrain.data.contract import SPLITS
from raytrain.settings import Section

MAX_ID = 2**31 - 1

Share = Annotated[float, Field(ge=0, le=1)]


class PlantedSpec(Section):
    """Domains ``target`` and ``source`` of the same users; the rule that decides the labels stands in ``rows.py``."""

    dataset: str = "planted"
    """Name in the contract."""
    num_users: PositiveInt = 5_000
    events_per_user: PositiveInt = 2_000
    """Events of every user in each domain over all time; samples lie in its last fifth and see those strictly before."""
    items_per_domain: PositiveInt = 3_000
    """A multiple of num_topics: every topic has equally many items, so that popularity says nothing."""
    overlap: Share = 0.0
    """Share of a domain's items that are items of the other one too."""
    num_topics: PositiveInt = 600
    topics_per_user: PositiveInt = 150
    """Topics that a user visits, the same ones in both domains: events_per_user / topics_per_user events on each."""
    session_events: NonNegativeInt = 4
    """Consecutive events on one topic, at the same time in both domains, so that pairs of items carry their topic when they are
    close in time. When a topic has its sessions says nothing about a sample. 0 draws each event's topic by itself: any two events
    of a user then share one with 1 / topics_per_user, too seldom for a contrastive loss of a few pairs a click to learn from."""
    faithful: Share = 0.6
    """Share of events whose feedback is the user's taste; the others' is drawn from 1, 2 and 3."""
    strength: PositiveFloat = 4.0
    """Log-odds of a label per unit of the relevant events' mean feedback, which lies in [-1, 1]."""
    noise: Annotated[float, Field(ge=0)] = 0.5
    """Standard deviation of what is added to the log-odds."""
    num_rows: PositiveInt = 100_000
    """Training rows of the target domain; the source domain has a history and no samples."""
    num_eval_rows: PositiveInt = 10_000
    """Rows of each of the splits valid and test."""
    seed: NonNegativeInt = 0

    @property
    def num_shared_items(self) -> int:
        return round(self.overlap * self.items_per_domain)

    @property
    def num_items(self) -> int:
        """Ids 1..n over both domains."""
        return 2 * self.items_per_domain - self.num_shared_items

    @property
    def total_rows(self) -> int:
        return sum(self.rows_of(split) for split in SPLITS)

    def rows_of(self, split: str) -> int:
        return self.num_rows if split == "train" else self.num_eval_rows

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.items_per_domain % self.num_topics:
            raise ValueError(
                "items_per_domain has to be a multiple of num_topics. "
                f"Received: items_per_domain={self.items_per_domain}, num_topics={self.num_topics}. Change one."
            )
        if self.topics_per_user > self.num_topics:
            raise ValueError(
                "A user can visit the topics there are. "
                f"Received: topics_per_user={self.topics_per_user}, num_topics={self.num_topics}. Lower topics_per_user."
            )
        if max(self.num_users, 2 * self.items_per_domain) >= MAX_ID:
            raise ValueError(
                f"Ids are 32-bit, so there have to be fewer than {MAX_ID:,}. "
                f"Received: num_users={self.num_users}, items_per_domain={self.items_per_domain}. Lower them."
            )
        return self
