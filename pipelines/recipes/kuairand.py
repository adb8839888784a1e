"""KuaiRand-1K (Gao et al., CIKM 2022) as long sequences of two domains; the protocol is our choice and fixed.

``source`` holds domain_4.parquet and domain_9.parquet with columns seq_id, pos (0..799, oldest first) and item_id (-1: not
known), as decoded from the sequences that AutoCDSR (Ju et al., KDD 2025) published: windows of 800 events, most of music type
9 (source domain) and 4 (target domain), whose items are disjoint. A window stands for a user.

There are no timestamps: time is the position in the mixed sequence, so "seconds" are events, and positions of different users
say nothing about which came first. There are no labels: a positive is an event, and beside it ``num_negatives`` items of the same
domain are drawn, in proportion to popularity ** ``popularity_power`` among events before the validation part, never the positive
itself, at the positive's time. Positions below 640 are history alone; of both domains 640..719 are training samples, 720..759
valid, 760..799 test. Histories hold events (positives) of all positions and are cut strictly before each sample when read.
Features are user and item; history events carry their age in positions.

Beware: a quarter of the target's test positives are items without an event before the validation part. They can never be negatives,
so "is it new?" alone has an AUC of 0.62; ``new_items: leave_out`` scores known items only.
"""

from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, NonNegativeInt, PositiveInt

from raytrain.data.contract import SPLITS
from raytrain.data.prepare.spec import DomainSpec, EventSpec, FeatureSpec, Label, SideSpec, SplitRule
from raytrain.errors import DataError
from raytrain.settings import Section, nearest
from raytrain.storage import Storage

FILES = {"target": "domain_4.parquet", "source": "domain_9.parquet"}
SPLIT_FROM = (640, 720, 760)
"""First positions of train, valid and test."""
UNKNOWN_ITEM = -1
AGE_CODES = 11
"""1 + floor(log2(1 + age)) is at most 10 for ages below 1,023."""

_COLUMNS = ("seq_id", "pos", "item_id")
_GROUP_ROWS = 1 << 19

Ints = npt.NDArray[np.int64]


class KuaiRandRecipe(Section):
    """KuaiRand-1K's long sequences; see the module docstring for the protocol."""

    name: Literal["kuairand"] = "kuairand"
    source: str
    """Directory with the two Parquet files, on any file system."""
    num_negatives: PositiveInt = 4
    """Items drawn for each positive."""
    popularity_power: Annotated[float, Field(ge=0)] = 0.75
    """Of an item's events before the validation part; 0 draws these items uniformly."""
    new_items: Literal["keep", "leave_out"] = "keep"
    """What becomes of valid and test positives whose item no event before the validation part has: samples, or history alone."""
    seed: NonNegativeInt = 0
    """Of the negatives."""

    @property
    def notice(self) -> str | None:
        return (
            "KuaiRand-1K (Gao et al., CIKM 2022), in sequences by AutoCDSR (Ju et al., KDD 2025): CC BY-SA 4.0, so name both and share "
            "data made of it alike. Times are positions in a user's sequence; rows without an item are items that are not known."
        )

    def stage(self, scratch: Storage) -> EventSpec:
        """Writes events and drawn negatives of each domain as Parquet into ``scratch``.

        Raises:
            DataError: a file is missing, is no Parquet or lacks a column, or has too few items to draw from.
        """
        for number, (domain, file) in enumerate(FILES.items()):
            draw = np.random.Generator(np.random.Philox(np.random.SeedSequence((self.seed, number))))
            _write(self.rows_of(_read(self.source, file), draw), scratch, f"events/{domain}")
        return EventSpec(
            dataset="kuairand-1k",
            domains={name: DomainSpec(role=name, path=scratch.join(f"events/{name}")) for name in ("target", "source")},
            label=Label(column="label"),
            features=(FeatureSpec(name="user"), FeatureSpec(name="item")),
            side=(SideSpec(name="age", derived_from="age", num_values=AGE_CODES),),
            split=SplitRule(column="split"),
            in_history="in_history",
        )

    def rows_of(self, events: pa.Table, draw: np.random.Generator) -> pa.Table:
        """One row an event, then ``num_negatives`` rows for each event that is a sample.

        Args:
            events: seq_id, pos, item_id, one row an event in any order.

        Returns:
            user, item (int64, null where not known), time (pos), label (int8), split (null: no sample), in_history (bool).
        """
        user, time, item = (events[name].to_numpy().astype(np.int64) for name in _COLUMNS)
        order = np.lexsort((time, user))
        user, time, item = user[order], time[order], item[order]
        known = item != UNKNOWN_ITEM
        items, counts = np.unique(item[known & (time < SPLIT_FROM[1])], return_counts=True)
        split = np.searchsorted(SPLIT_FROM, time, side="right") - 1
        if self.new_items == "leave_out":
            split[~np.isin(item, items)] = -1
        positives = np.nonzero(known & (split >= 0))[0].repeat(self.num_negatives)
        negatives = draw_negatives(item[positives], items, counts.astype(np.float64) ** self.popularity_power, draw)
        rows = np.concatenate([np.arange(len(user)), positives])
        num_drawn = len(positives)
        item = np.concatenate([item, negatives])
        return pa.table(
            {
                "user": user[rows],
                "item": pa.array(item, mask=item == UNKNOWN_ITEM),
                "time": time[rows],
                "label": (np.arange(len(rows)) < len(user)).astype(np.int8),
                "split": pa.DictionaryArray.from_arrays(pa.array(split[rows].astype(np.int8), mask=split[rows] < 0), list(SPLITS)),
                "in_history": np.arange(len(rows)) < len(rows) - num_drawn,
            }
        )


def draw_negatives(positives: Ints, items: Ints, weights: npt.NDArray[np.float64], draw: np.random.Generator) -> Ints:
    """[N] of ``items`` [I] in proportion to ``weights`` [I], each another one than the positive [N] at its place.

    Raises:
        DataError: there are fewer than two items.
    """
    if len(items) < 2:
        raise DataError(
            f"Negatives have to be drawn from several items. Received: {len(items)} items in events before position {SPLIT_FROM[1]}. "
            "Check recipe.source."
        )
    edges = np.cumsum(weights)
    found = np.empty(len(positives), np.int64)
    pending = np.arange(len(positives))
    while len(pending):
        found[pending] = items[np.searchsorted(edges, draw.random(len(pending)) * edges[-1], side="right")]
        pending = pending[found[pending] == positives[pending]]
    return found


def _read(source: str, name: str) -> pa.Table:
    storage = Storage(source)
    try:
        with storage.filesystem.open_input_file(storage.path(name)) as handle:
            file = pq.ParquetFile(handle)
            missing = [column for column in _COLUMNS if column not in file.schema_arrow.names]
            if missing:
                raise DataError(
                    f"{storage.join(name)} has to have columns {', '.join(_COLUMNS)}. Received: none called {missing[0]}. "
                    f"{nearest(missing[0], file.schema_arrow.names)}"
                )
            return file.read(list(_COLUMNS))
    except (OSError, pa.ArrowInvalid) as err:
        raise DataError(
            f"recipe.source has to hold {' and '.join(FILES.values())}. Received: {source} ({err}). Set recipe.source to their directory."
        ) from None


def _write(rows: pa.Table, scratch: Storage, folder: str) -> None:
    scratch.filesystem.create_dir(scratch.path(folder), recursive=True)
    with scratch.filesystem.open_output_stream(scratch.path(f"{folder}/events.parquet")) as sink:
        pq.write_table(rows, sink, row_group_size=_GROUP_ROWS)
