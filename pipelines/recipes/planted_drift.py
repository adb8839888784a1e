"""Natural content and ads of a year by day, with a planted truth: preferences drift, users come back, the domains differ by an angle."""

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain.data.planted_drift import DOMAINS, PlantedDriftSpec, Rule, draw_day
from raytrain.data.planted_drift.rows import HOURS, WEEKDAYS
from raytrain.data.prepare.spec import DomainSpec, EventSpec, FeatureSpec, Key, Keys, Label, SideSpec, SplitRule
from raytrain.storage import Storage

DAYS_PER_FILE = 30


class PlantedDriftRecipe(PlantedDriftSpec):
    """A ``PlantedDriftSpec`` written in YAML; see configs/prepare_planted_drift.yaml."""

    name: Literal["planted_drift"] = "planted_drift"

    @property
    def notice(self) -> str | None:
        return None

    def stage(self, scratch: Storage) -> EventSpec:
        """Draws the rows of each domain into ``scratch``, as Parquet. Ids are the truth's, and clicks alone are history."""
        rule = Rule.of(self)
        for domain in DOMAINS:
            scratch.filesystem.create_dir(scratch.path(f"events/{domain}"), recursive=True)
            for first in range(0, self.num_days, DAYS_PER_FILE):
                with scratch.filesystem.open_output_stream(scratch.path(f"events/{domain}/from-day-{first:05d}.parquet")) as sink:
                    pq.write_table(_events(rule, domain, range(first, min(first + DAYS_PER_FILE, self.num_days))), sink)
        return EventSpec(
            dataset=self.dataset,
            domains={
                "ads": DomainSpec(role="target", path=scratch.join("events/ads")),
                "natural": DomainSpec(role="source", path=scratch.join("events/natural")),
            },
            keys=Keys(
                user=Key(column="user", encoding="direct", num_rows=self.num_users + 1),
                item=Key(column="item", encoding="direct", num_rows=self.num_all_items + 1),
            ),
            label=Label(column="label"),
            features=(
                FeatureSpec(name="user"),
                FeatureSpec(name="item"),
                FeatureSpec(name="category", encoding="direct", num_rows=self.num_categories + 1),
                FeatureSpec(name="hour", encoding="direct", num_rows=HOURS + 1),
                FeatureSpec(name="weekday", encoding="direct", num_rows=WEEKDAYS + 1),
            ),
            side=(SideSpec(name="age", derived_from="age"),),
            split=SplitRule(by_day=True),
            in_history="in_history",
        )


def _events(rule: Rule, domain: str, days: range) -> pa.Table:
    drawn = [draw_day(rule, domain, day) for day in days]
    columns = {name: np.concatenate([rows[name] for rows in drawn]) for name in drawn[0]}
    return pa.table(columns | {"in_history": columns["label"] > 0})
