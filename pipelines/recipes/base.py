"""What a recipe is: a config section that turns a source into event tables and says what their columns mean."""

from typing import Protocol

from raytrain.data.prepare.spec import EventSpec
from raytrain.storage import Storage


class Recipe(Protocol):
    """One public data set, or a user's own files. Everything after the events is the same code for all of them."""

    @property
    def name(self) -> str: ...

    @property
    def notice(self) -> str | None:
        """One line about the terms of the data, shown before it is read."""
        ...

    def stage(self, scratch: Storage) -> EventSpec:
        """Leaves the events as Parquet, in ``scratch`` or where they are, and declares them.

        Raises:
            DataError: the source cannot be had or is not what it should be.
        """
        ...
