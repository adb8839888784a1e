"""A broken data set is refused on the driver, in words, before a worker starts."""

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from raytrain.config import JobConfig
from raytrain.data.contract import load_contract, save_contract
from raytrain.data.manifest import Manifest, check_history_files, read_manifest
from raytrain.data.synthetic import synthetic_manifest
from raytrain.errors import ContractError, RaytrainError
from raytrain.models.declared import check_histories
from raytrain.training.specs import scoring_spec, training_specs
from tests.data.build import build_dataset, write_samples
from tests.messages import assert_three_parts

TRAIN = "samples/target/train/bucket-00001.parquet"
HISTORY = "histories/source/bucket-00001.parquet"
BOTH = ("target", "source")


def plan_everything(path: Path, histories: tuple[str, ...] = BOTH) -> None:
    """What a run does on the driver before it starts a worker."""
    contract = load_contract(str(path))
    check_histories(contract, histories)
    job = JobConfig.parse({"data": {"path": str(path), "source_batch_size": 64}, "model": {"name": "din"}}, "test")
    specs = (
        *training_specs(job, contract, histories, str(path / "quarantine")),
        scoring_spec(job, contract, contract.target, "valid", histories),
        scoring_spec(job, contract, contract.target, "test", histories),
    )
    for spec in specs:
        check_history_files(contract, str(path), histories, spec.manifest)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    path = tmp_path_factory.mktemp("sound")
    build_dataset(path, num_users=20, num_items=10)
    return path


@pytest.fixture
def dataset(sound, tmp_path):
    return Path(shutil.copytree(sound, tmp_path / "data"))


Breaker = Callable[[Path], object]


def overwritten(name: str, data: bytes) -> Breaker:
    return lambda path: (path / name).write_bytes(data)


def truncated(name: str, share: float) -> Breaker:
    return lambda path: (path / name).write_bytes((path / name).read_bytes()[: int(share * (path / name).stat().st_size)])


def removed(name: str) -> Breaker:
    return lambda path: shutil.rmtree(path / name) if (path / name).is_dir() else (path / name).unlink()


def table_changed(name: str, change: Callable[[pa.Table], pa.Table]) -> Breaker:
    return lambda path: write_samples(path / name, change(pq.read_table(path / name)))


def without(column: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns([column])


def cast(column: str, to: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.set_column(table.column_names.index(column), column, table.column(column).cast(to))


def contract_changed(change: Callable[[dict], object]) -> Breaker:
    def break_it(path: Path) -> None:
        values = yaml.safe_load((path / "contract.yaml").read_text())
        change(values)
        (path / "contract.yaml").write_text(yaml.safe_dump(values))

    return break_it


def emptied(split: str) -> Breaker:
    def break_it(path: Path) -> None:
        for file in (path / f"samples/target/{split}").iterdir():
            write_samples(file, pq.read_table(file).slice(0, 0))

    return break_it


BROKEN = {
    "a truncated file": (truncated(TRAIN, 0.5), (TRAIN, "has to be a Parquet file")),
    "a file cut inside its footer": (truncated(TRAIN, 0.99), (TRAIN, "has to be a Parquet file")),
    "a file of zero bytes": (overwritten(TRAIN, b""), (TRAIN, "has to be a Parquet file")),
    "a text file": (overwritten(TRAIN, b"user,item,label\n1,2,0\n"), (TRAIN, "has to be a Parquet file")),
    "a footer of noise": (overwritten(TRAIN, b"PAR1" + b"\xff" * 80 + b"\x40\0\0\0PAR1"), (TRAIN, "has to be a Parquet file")),
    "a missing label": (table_changed(TRAIN, without("label")), (TRAIN, "column label")),
    "a missing key": (table_changed(TRAIN, without("time")), (TRAIN, "column time")),
    "a misspelt feature": (
        table_changed(TRAIN, lambda table: table.rename_columns([n.replace("price", "prize") for n in table.column_names])),
        (TRAIN, "column price", "Did you mean prize?"),
    ),
    "ids as text": (table_changed(TRAIN, cast("item", pa.string())), (TRAIN, "column item of type int32", "Received: string.")),
    "ids of 64 bits": (table_changed(TRAIN, cast("item", pa.int64())), ("column item of type int32", "Received: int64.")),
    "a label of 64 bits": (table_changed(TRAIN, cast("label", pa.float64())), ("column label of type float", "Received: double.")),
    "a multi feature of 64 bits": (table_changed(TRAIN, cast("tags", pa.list_(pa.int64()))), ("column tags of type list<", "int64")),
    "a multi feature without lists": (
        table_changed(TRAIN, lambda table: table.set_column(5, "tags", pa.array(np.ones(table.num_rows, np.int32)))),
        ("column tags of type list<", "Received: int32."),
    ),
    "a bucket without its file": (removed(TRAIN), ("samples/target/train has to hold the", "Received:", "rows in 1 files")),
    "no file at all": (removed("samples/target/train"), ("samples/target/train has to hold Parquet files", "Received: none")),
    "a file where a directory should be": (
        lambda path: (removed("samples/target/train")(path), (path / "samples/target/train").write_text("")),
        ("samples/target/train has to be a directory",),
    ),
    "an empty training split": (emptied("train"), ("samples/target/train has to hold rows", "0 rows")),
    "an empty validation split": (emptied("valid"), ("samples/target/valid has to hold rows", "0 rows")),
    "no positive in validation": (
        contract_changed(lambda values: values["domains"]["target"]["splits"]["valid"].update(num_positives=0)),
        ("Split valid of domain target", "no positive"),
    ),
    "no negative in the test split": (
        contract_changed(lambda values: values["domains"]["target"]["splits"]["test"].update(num_positives=36)),
        ("Split test of domain target", "no negative"),
    ),
    "no contract": (removed("contract.yaml"), ("data.path has to hold a prepared data set", "raytrain prepare")),
    "a contract that is no YAML": (overwritten("contract.yaml", b"domains: [unclosed"), ("contract.yaml has to be YAML",)),
    "a contract that is a list": (overwritten("contract.yaml", b"- 1\n- 2\n"), ("contract.yaml has to hold a mapping", "list")),
    "a contract of binary noise": (overwritten("contract.yaml", b"\xff\xfe\x00\xd8"), ("contract.yaml has to be readable text",)),
    "an empty contract": (overwritten("contract.yaml", b""), ("dataset has to be set",)),
    "an unknown key in the contract": (
        contract_changed(lambda values: values.update(num_bukets=2)),
        ("num_bukets=2", "Did you mean num_buckets?"),
    ),
    "an unknown key deep in the contract": (
        contract_changed(lambda values: values["domains"]["target"]["splits"]["train"].update(num_positive=1)),
        ("domains.target.splits.train.num_positive=1", "Did you mean num_positives?"),
    ),
    "a contract of another version": (contract_changed(lambda values: values.update(version=2)), ("version", "Received: version=2")),
    "an unknown kind of feature": (
        contract_changed(lambda values: values["features"][4].update(kind="sparse")),
        ("features.4.kind", "Received: features.4.kind='sparse'"),
    ),
    "a feature of an undeclared table": (
        contract_changed(lambda values: values["features"][1].update(table="items")),
        ("Feature item has to name a table", "table=items", "under tables"),
    ),
    "a multi feature without a bound": (
        contract_changed(lambda values: values["features"][3].pop("max_values")),
        ("Feature tags has to bound its values",),
    ),
    "a standard deviation of zero": (contract_changed(lambda values: values["features"][4].update(std=0.0)), ("features.4.std",)),
    "amounts that are all 0": (
        contract_changed(
            lambda values: (
                values.update(amount={"currency": "GBP", "horizon_days": 90}),
                values["domains"]["target"]["splits"]["train"].update(num_positives=0),
            )
        ),
        ("Training amounts of domain target", "all 0"),
    ),
    "a currency that is none": (
        contract_changed(lambda values: values.update(amount={"currency": "pounds", "horizon_days": 90})),
        ("amount.currency", "pounds"),
    ),
    "a slice without a table": (contract_changed(lambda values: values.update(slice="channel")), ("slice=channel", "under tables")),
    "a slice of numbers": (contract_changed(lambda values: values.update(slice="price")), ("slice=price, a dense feature",)),
    "an unknown split": (
        contract_changed(lambda values: values["domains"]["target"]["splits"].update(dev=values["domains"]["target"]["splits"]["valid"])),
        ("Received: dev in domain target",),
    ),
    "two features of one name": (
        contract_changed(lambda values: values["features"][2].update(name="item")),
        ("Every feature has to have a name of its own", "Received: item twice"),
    ),
    "the label among the features": (
        contract_changed(lambda values: values["features"][4].update(name="label")),
        ("The label must not be a feature",),
    ),
    "two target domains": (
        contract_changed(lambda values: values["domains"]["source"].update(role="target")),
        ("Exactly one domain has to have the role target", "Received: 2"),
    ),
    "an unknown split in the contract": (
        contract_changed(lambda values: values["domains"]["target"]["splits"].update(dev=values["domains"]["target"]["splits"]["test"])),
        ("Received: dev in domain target",),
    ),
    "a history of an undeclared table": (
        contract_changed(lambda values: values["domains"]["source"]["history"].update(table="songs")),
        ("The history of source has to name a table", "songs"),
    ),
    "a domain without a history": (
        contract_changed(lambda values: values["domains"]["source"].pop("history")),
        ("Domain source has to have a history",),
    ),
    "a missing history file": (removed(HISTORY), (HISTORY, "has to be a Parquet file")),
    "an unreadable history file": (truncated(HISTORY, 0.6), (HISTORY, "has to be a Parquet file")),
    "a history without its ratings": (
        lambda path: pq.write_table(pq.read_table(path / HISTORY).drop_columns(["rating"]), path / HISTORY),
        (HISTORY, "column rating"),
    ),
    "a split that the contract lacks": (
        contract_changed(lambda values: values["domains"]["target"]["splits"].pop("valid")),
        ("A split of domain target", "Received: valid."),
    ),
    "no source to draw source rows from": (
        contract_changed(lambda values: values["domains"].pop("source")),
        ("source", "Received: "),
    ),
}


def test_a_sound_data_set_passes(dataset):
    plan_everything(dataset)


@pytest.mark.parametrize(("break_it", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_broken_data_set_is_refused_before_a_worker_starts(dataset, break_it, expected):
    break_it(dataset)
    with pytest.raises(RaytrainError) as error:
        plan_everything(dataset)
    assert_three_parts(error.value, *expected)


def test_an_unknown_domain_is_refused_with_the_nearest(sound):
    contract = load_contract(str(sound))
    with pytest.raises(ContractError) as error:
        read_manifest(contract, str(sound), "sorce", "train")
    assert_three_parts(error.value, "Received: sorce.", "Did you mean source?")


def test_a_history_of_an_unknown_domain_is_refused_with_the_nearest(sound):
    with pytest.raises(ContractError) as error:
        plan_everything(sound, ("targt",))
    assert_three_parts(error.value, "Received: targt.", "Did you mean target?")


@pytest.mark.parametrize("name", ["missing", "contract.yaml"], ids=["that does not exist", "that is a file"])
def test_a_data_path(sound, name):
    with pytest.raises(ContractError) as error:
        load_contract(str(sound / name))
    assert_three_parts(error.value, str(sound / name))


def test_a_contract_survives_its_file(sound, tmp_path):
    contract = load_contract(str(sound))
    save_contract(contract, str(tmp_path))
    assert load_contract(str(tmp_path)) == contract
    assert (contract.target, contract.sources) == ("target", ("source",))


def test_a_manifest_lists_every_row_group_and_its_fingerprint_follows_the_files(dataset):
    contract = load_contract(str(dataset))
    first = read_manifest(contract, str(dataset), "target", "train")
    files = sorted((dataset / "samples/target/train").glob("bucket-*"))
    counts = [
        pq.ParquetFile(file).metadata.row_group(group).num_rows for file in files for group in range(pq.ParquetFile(file).num_row_groups)
    ]
    assert first.num_rows.tolist() == counts
    assert first.fingerprint() == read_manifest(contract, str(dataset), "target", "train").fingerprint()
    for file in files:
        write_samples(file, pq.read_table(file), row_group_rows=5)
    assert first.fingerprint() != read_manifest(contract, str(dataset), "target", "train").fingerprint()


def test_a_manifest_of_row_counts_by_hand():
    manifest = Manifest.of(["a", "b", "c", "d"], [np.array(counts, np.int64) for counts in ([5, 0, 3], [], [0], [7])])
    assert manifest.files == ("a", "b", "c", "d")
    assert manifest.file_index.tolist() == [0, 0, 3]
    assert manifest.row_group.tolist() == [0, 2, 0]
    assert manifest.num_rows.tolist() == [5, 3, 7]


def test_a_synthetic_manifest_is_one_that_files_would_give():
    manifest = synthetic_manifest(num_files=6, row_groups_per_file=4, rows_per_row_group=100, seed=1)
    same = Manifest.of(manifest.files, np.split(manifest.num_rows, 6))
    assert same.fingerprint() == manifest.fingerprint() == synthetic_manifest(6, 4, 100, seed=1).fingerprint()
    assert manifest.fingerprint() != synthetic_manifest(6, 4, 100, seed=2).fingerprint()
    counts = manifest.num_rows.reshape(6, 4)
    assert (counts[:, :3] == 100).all()
    assert ((counts[:, 3] > 0) & (counts[:, 3] <= 100)).all()


def test_ten_million_row_groups_stay_lean():
    counts = synthetic_manifest(num_files=100_000, row_groups_per_file=100, rows_per_row_group=8192)
    parts = np.split(counts.num_rows, 100_000)
    tracemalloc.start()
    try:
        manifest = Manifest.of(counts.files, parts)
        built_mib, peak_mib = (size / 2**20 for size in tracemalloc.get_traced_memory())
        fingerprint = manifest.fingerprint()
    finally:
        tracemalloc.stop()
    assert len(manifest.num_rows) == 10**7
    assert fingerprint == counts.fingerprint()
    # 16 bytes a row group are 153 MiB, of the 2 GiB that a plan may take on the driver.
    assert built_mib < 160
    assert peak_mib < 240
