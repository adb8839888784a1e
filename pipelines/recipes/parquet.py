"""Bring your own events: Parquet files that exist already, described in the config."""

from typing import Literal

from raytrain.data.prepare.spec import EventSpec
from raytrain.storage import Storage


class ParquetRecipe(EventSpec):
    """An ``EventSpec`` written in YAML; see configs/prepare_parquet_example.yaml."""

    name: Literal["parquet"] = "parquet"

    @property
    def notice(self) -> str | None:
        return None

    def stage(self, scratch: Storage) -> EventSpec:
        """The events are where ``domains`` says; nothing is copied."""
        # A plain EventSpec: what is sent to the workers names no class of this package.
        return EventSpec.model_validate(self.model_dump(exclude={"name"}))
