import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain.data.prepare import blocks as blocks_module
from raytrain.data.prepare.check import check_events, find_files
from raytrain.errors import DataError
from tests.data.prepare.cases import events, spec

ROW = (1, "a", 10, 5.0, "x", ["t"], 1, 0.0)


@pytest.fixture
def files(tmp_path):
    """Spec over ads/part-0.parquet and feed/part-0.parquet, one row each; the target's columns may be replaced."""

    def write(columns=None, rows=1, **changes):
        table = events(*[ROW] * rows)
        for name, column in (columns or {}).items():
            table = table.drop_columns([name]) if name in table.column_names else table
            table = table if column is None else table.append_column(name, column)
        for domain, part in (("ads", table), ("feed", events(ROW))):
            (tmp_path / domain).mkdir(exist_ok=True)
            pq.write_table(part, tmp_path / domain / "part-0.parquet")
        domains = {name: {"role": role, "path": str(tmp_path / name)} for name, role in (("ads", "target"), ("feed", "source"))}
        return spec(domains=domains, **changes)

    return write


def test_good_files_are_counted(files):
    found = check_events(files())
    assert {name: domain.num_rows for name, domain in found.items()} == {"ads": 1, "feed": 1}
    assert [block.row_groups for block in found["ads"].blocks] == [(0,)]


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        pytest.param({"country": None, "county": pa.array(["x"])}, {}, r"country, which is missing\. Did you mean county", id="missing"),
        pytest.param({"user": pa.array([1.5])}, {}, r"keys.user has to be an integer or a string\. ", id="float user"),
        pytest.param({"time": pa.array(["now"])}, {}, r"keys.time has to be an integer or a timestamp", id="text time"),
        pytest.param({"rating": pa.array(["good"])}, {}, r"label has to be a number", id="text label"),
        pytest.param({"tags": pa.array(["t"])}, {}, r"Feature tags has to be a list", id="multi feature without lists"),
        pytest.param({"hour": pa.array(["1"])}, {}, r"Feature hour has to be an integer\. ", id="direct feature of text"),
        pytest.param({"price": pa.array(["1"])}, {}, r"Feature price has to be a number", id="dense feature of text"),
        pytest.param({"use": pa.array([1])}, {"split": {"column": "use"}}, r"split\.column has to be a string", id="split of numbers"),
        pytest.param({"use": pa.array(["y"])}, {"in_history": "use"}, r"in_history has to be a boolean", id="history flag of text"),
        pytest.param({}, {"in_history": "used"}, r"in_history has to name a column", id="no history flag"),
        pytest.param({"item": pa.array([1])}, {}, r"feed, .*Table item has to hold one type", id="domains disagree"),
        pytest.param(
            {}, {"features": ["country", {"name": "hour", "table": "country"}]}, r"Table country has to hold one type", id="mixed table"
        ),
    ],
)  # fmt: skip
def test_columns_that_do_not_fit_are_named(files, columns, changes, message):
    with pytest.raises(DataError, match=message):
        check_events(files(columns, **changes))


def test_all_problems_come_at_once(files):
    with pytest.raises(DataError, match=r"(?s)country.*price"):
        check_events(files({"country": None, "price": None}))


def test_a_domain_has_to_have_rows(files):
    with pytest.raises(DataError, match=r"Domain ads has to have rows\. Received: 1 files"):
        check_events(files(rows=0))


def test_a_domain_has_to_have_files(tmp_path, files):
    declared = files()
    (tmp_path / "ads/part-0.parquet").unlink()
    with pytest.raises(DataError, match="Domain ads has to have Parquet files"):
        check_events(declared)


def test_a_file_that_is_no_parquet_is_named(tmp_path, files):
    declared = files()
    (tmp_path / "ads/part-1.parquet").write_text("no")
    with pytest.raises(DataError, match=r"readable Parquet\. Received: .*part-1\.parquet"):
        check_events(declared)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("a/1.parquet", ["a/1.parquet"], id="file"),
        pytest.param("a", ["a/1.parquet", "a/2.parquet", "a/b/3.parquet"], id="directory and below"),
        pytest.param("a/*.parquet", ["a/1.parquet", "a/2.parquet"], id="pattern"),
        pytest.param("*/b/?.parquet", ["a/b/3.parquet"], id="pattern of directories"),
        pytest.param("none", [], id="missing"),
    ],
)
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_find_files(tmp_path, monkeypatch, path, expected, relative):
    for name in ("a/1.parquet", "a/2.parquet", "a/b/3.parquet", "a/_partial/4.parquet", "a/.5.parquet", "a/_SUCCESS", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    _, found = find_files(path if relative else f"{tmp_path}/{path}")
    assert [info.path for info in found] == [f"{tmp_path}/{name}" for name in expected]


def test_blocks_are_bounded_by_bytes(monkeypatch):
    monkeypatch.setattr(blocks_module, "BLOCK_MIB", 10 / 2**20)
    found = blocks_module.plan_blocks("ads", None, "x", (4, 4, 4, 20, 1, 9, 1))
    assert [block.row_groups for block in found] == [(0, 1), (2,), (3,), (4, 5), (6,)]
