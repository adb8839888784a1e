"""What a synthetic data set holds: how many rows, features, users and events."""

from typing import Annotated, Self

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from raytrain.data.contract import SPLITS
from raytrain.settings import Section

MAX_ID = 2**31 - 1

TableRows = Annotated[int, Field(ge=2, le=MAX_ID)]


class SyntheticSpec(Section):
    """Two domains at most, ``target`` and ``source``, whose labels follow a planted rule (see ``rows.py``)."""

    dataset: str = "synthetic"
    """Name in the contract."""
    num_rows: PositiveInt = 1_000_000
    """Training rows of the target domain."""
    num_source_rows: NonNegativeInt = 0
    """Training rows of a domain of role source; 0 leaves that domain out."""
    num_eval_rows: PositiveInt = 10_000
    """Rows of each of the splits valid and test, in either domain."""
    num_id_features: Annotated[int, Field(ge=2)] = 21
    """Features with an embedding table of their own: user, item, f02, f03, ..."""
    table_rows: TableRows = 1_000_000
    """Rows of each table, row 0 (unknown) included."""
    num_users: PositiveInt | None = None
    """Distinct users; null takes table_rows - 1. The table of users has one row more."""
    num_items: PositiveInt | None = None
    """Distinct items; null takes table_rows - 1. The table of items has one row more."""
    skew: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """How often ids occur: about rank ** -skew, so that with 0.8 a thousandth of the ids makes a quarter of the rows. 0 draws
    uniformly: hardest on embedding tables, and nothing can be learnt of an id that occurs once."""
    num_dense: NonNegativeInt = 0
    """Dense features d00, d01, ..., standard normal."""
    events_per_user: NonNegativeInt = 0
    """History events of every user in either domain, spread over the month before the first sample and all the time of the
    samples; the reader cuts them as-of. 0 writes no histories."""
    row_ids: bool = False
    """Add an id feature row_id that numbers the rows of all splits and domains 1, 2, ..., in a table just large enough: what a
    proof that every row is trained exactly once counts by."""
    seed: NonNegativeInt = 0

    @property
    def users(self) -> int:
        return self.num_users or self.table_rows - 1

    @property
    def items(self) -> int:
        return self.num_items or self.table_rows - 1

    @property
    def id_features(self) -> tuple[str, ...]:
        """Without ``row_id``."""
        return ("user", "item", *(f"f{number:02d}" for number in range(2, self.num_id_features)))

    @property
    def dense_features(self) -> tuple[str, ...]:
        return tuple(f"d{number:02d}" for number in range(self.num_dense))

    @property
    def domains(self) -> tuple[str, ...]:
        return ("target", "source") if self.num_source_rows else ("target",)

    @property
    def total_rows(self) -> int:
        """Samples over all domains and splits."""
        return sum(self.rows_of(domain, split) for domain in self.domains for split in SPLITS)

    def rows_of(self, domain: str, split: str) -> int:
        if split != "train":
            return self.num_eval_rows
        return self.num_rows if domain == "target" else self.num_source_rows

    def ids_of(self, feature: str) -> int:
        """Ids 1..n that ``feature`` takes; its table has n + 1 rows."""
        sizes = {"user": self.users, "item": self.items, "row_id": self.total_rows}
        return sizes.get(feature, self.table_rows - 1)

    @model_validator(mode="after")
    def _check_ids(self) -> Self:
        for name, count in (("num_users", self.users), ("num_items", self.items)):
            if count >= MAX_ID:
                raise ValueError(f"Ids are 32-bit, so {name} has to be below {MAX_ID:,}. Received: {name}={count}. Lower it.")
        if self.row_ids and self.total_rows >= MAX_ID:
            raise ValueError(
                f"row_ids numbers rows with 32 bits, so there have to be fewer than {MAX_ID:,}. "
                f"Received: {self.total_rows} rows over all splits. Set row_ids to false, or lower num_rows and num_source_rows."
            )
        return self
