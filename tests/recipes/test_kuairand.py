"""The protocol on an extract of the real sequences; see kuairand/README.md for where it comes from and its licence."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare import load_prepare_config
from pipelines.recipes.kuairand import KuaiRandRecipe, draw_negatives
from raytrain.data.contract import SPLITS
from raytrain.data.micro_batches import local_micro_batches
from raytrain.errors import ConfigError, DataError
from raytrain.storage import Storage
from tests.data.prepare.cases import prepare_here
from tests.data.served import stream_spec
from tests.messages import assert_three_parts

EXTRACT = Path(__file__).parent / "kuairand"
FILES = {"target": "domain_4.parquet", "source": "domain_9.parquet"}
BOUNDS = {"train": (640, 720), "valid": (720, 760), "test": (760, 800)}
CONFIG = "pipelines/configs/prepare_kuairand.yaml"


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def sequence(*events: tuple[int, int, int]) -> pa.Table:
    """Each event: seq_id, pos, item_id."""
    seq_id, pos, item = zip(*events, strict=True)
    return pa.table({"seq_id": pa.array(seq_id, pa.int32()), "pos": pa.array(pos, pa.int16()), "item_id": pa.array(item, pa.int32())})


@pytest.fixture(scope="module")
def raw():
    return {domain: pq.read_table(EXTRACT / file) for domain, file in FILES.items()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    path = tmp_path_factory.mktemp("kuairand")
    contract, scan = prepare_here(KuaiRandRecipe(source=str(EXTRACT)).stage, path)
    return path, contract, scan


def samples(path: Path, domain: str, split: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(file) for file in sorted((path / f"samples/{domain}/{split}").glob("bucket-*")))


def test_rows_by_hand():
    events = sequence((7, 639, 30), (7, 640, 10), (7, 719, -1), (7, 720, 20), (7, 800 - 1, 99), (7, 0, 10))
    rows = KuaiRandRecipe(source="x", num_negatives=2).rows_of(events, generator()).to_pylist()
    assert [(row["time"], row["item"], row["split"], row["in_history"], row["label"]) for row in rows[:6]] == [
        (0, 10, None, True, 1),
        (639, 30, None, True, 1),
        (640, 10, "train", True, 1),
        (719, None, "train", True, 1),
        (720, 20, "valid", True, 1),
        (799, 99, "test", True, 1),
    ]
    # Items before position 720 are 10 and 30: the negative of 10 is 30. An item that is not known has none.
    drawn = [(row["user"], row["time"], row["split"], row["in_history"], row["label"]) for row in rows[6:]]
    assert drawn == [(7, time, split, False, 0) for time, split in ((640, "train"), (720, "valid"), (799, "test")) for _ in range(2)]
    assert [row["item"] for row in rows[6:8]] == [30, 30]
    assert {row["item"] for row in rows[8:]} <= {10, 30}


def test_new_items_can_be_left_out_of_what_is_scored():
    events = sequence((7, 639, 30), (7, 640, 10), (7, 720, 20), (7, 730, 30), (7, 799, 99))
    rows = KuaiRandRecipe(source="x", num_negatives=1, new_items="leave_out").rows_of(events, generator()).to_pylist()
    found = [(row["item"], row["split"]) for row in rows if row["label"] == 1]
    assert found == [(30, None), (10, "train"), (20, None), (30, "valid"), (99, None)]
    assert all(row["in_history"] for row in rows if row["label"] == 1)
    assert len(rows) == 7


def test_negatives_follow_popularity_and_are_never_the_positive():
    items, weights = np.array([3, 5, 9]), np.array([1.0, 8.0, 1.0]) ** 0.75
    positives = np.array([3, 5, 77]).repeat(20_000)
    negatives = draw_negatives(positives, items, weights, generator()).reshape(3, -1)
    shares = [[(row == item).mean() for item in items] for row in negatives]
    popular = weights / weights.sum()
    expected = [
        [0, popular[1] / (1 - popular[0]), popular[2] / (1 - popular[0])],
        [0.5, 0, 0.5],
        list(popular),
    ]
    assert np.allclose(shares, expected, atol=0.012)


def test_the_order_of_the_files_rows_does_not_matter(raw):
    recipe, events = KuaiRandRecipe(source="x"), raw["target"]
    shuffled = events.take(pa.array(generator().permutation(events.num_rows)))
    assert recipe.rows_of(shuffled, generator(1)).equals(recipe.rows_of(events, generator(1)))
    assert not recipe.rows_of(events, generator(2)).equals(recipe.rows_of(events, generator(1)))


def test_the_extract_is_prepared_by_the_protocol(prepared, raw):
    _, contract, scan = prepared
    assert contract.sources == ("source",)
    for domain, events in raw.items():
        user, pos, item = (events[name].to_numpy() for name in ("seq_id", "pos", "item_id"))
        known = item >= 0
        # Events of unknown items are left out, and counted.
        assert scan.dropped[domain] == {"null item": int((~known).sum())}
        for split, (first, stop) in BOUNDS.items():
            found = contract.domains[domain].splits[split]
            num_positives = int((known & (pos >= first) & (pos < stop)).sum())
            assert (found.num_positives, found.num_rows) == (num_positives, 5 * num_positives)
            assert first <= found.min_time <= found.max_time < stop
        history = contract.domains[domain].history
        assert (history.num_events, history.num_users) == (int(known.sum()), len(np.unique(user[known])))
    known_items = np.concatenate([events["item_id"].to_numpy() for events in raw.values()])
    assert contract.tables["item"].num_rows == len(np.unique(known_items[known_items >= 0])) + 1
    assert contract.overlap[0].num_shared_items == 0


def test_negatives_stand_beside_their_positives(prepared):
    path, _, _ = prepared
    for domain in FILES:
        for split in SPLITS:
            rows = samples(path, domain, split)
            labels = {}
            for row in rows.select(["user", "time", "item", "label"]).to_pylist():
                labels.setdefault((row["user"], row["time"]), []).append((row["item"], row["label"]))
            for found in labels.values():
                (positive,) = [item for item, label in found if label == 1]
                assert len(found) == 5
                assert positive not in [item for item, label in found if label == 0]


def test_histories_hold_the_events_before_each_sample(prepared, raw):
    path, contract, _ = prepared
    vocabularies = {}
    for table, columns in (("user", ["seq_id"]), ("item", ["item_id"])):
        values = np.unique(np.concatenate([events[name].to_numpy() for events in raw.values() for name in columns]))
        vocabularies[table] = values[values >= 0]
    served = stream_spec(contract, path, 4096, ("target", "source"), shuffle=False, history_length=800, split="test")
    (batch,) = local_micro_batches(served)
    rows = np.nonzero(batch.weight.numpy() > 0)[0]
    assert len(rows) == contract.domains["target"].splits["test"].num_rows
    for row in rows[:: max(1, len(rows) // 25)]:
        user, time = vocabularies["user"][int(batch.ids["user"][row]) - 1], int(batch.time[row])
        for domain, events in raw.items():
            mine = events.filter(pa.array((events["seq_id"].to_numpy() == user) & (events["item_id"].to_numpy() >= 0))).sort_by("pos")
            before = mine.filter(pa.array(mine["pos"].to_numpy() < time))
            history, length = batch.histories[domain], int(batch.histories[domain].lengths[row])
            assert vocabularies["item"][history.items[row, :length].numpy() - 1].tolist() == before["item_id"].to_pylist()
            ages = 1 + np.floor(np.log2(1 + time - before["pos"].to_numpy().astype(int)))
            assert history.side["age"][row, :length].tolist() == ages.tolist()


def test_the_config_asks_for_a_source():
    recipe = load_prepare_config(CONFIG, ["recipe.source=s3://bucket/kuairand"]).recipe
    assert isinstance(recipe, KuaiRandRecipe)
    assert "CC BY-SA 4.0" in recipe.notice
    with pytest.raises(ConfigError, match=r"recipe\.source"):
        load_prepare_config(CONFIG, ["recipe={name: kuairand}"])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(None, "has to hold domain_4.parquet and domain_9.parquet", id="no file"),
        pytest.param({"seq_id": [1], "pos_": [1], "item_id": [1]}, "Did you mean pos_", id="another column"),
        pytest.param({"seq_id": [1, 1], "pos": [1, 700], "item_id": [4, 4]}, "Received: 1 items", id="one item"),
    ],
)
def test_a_source_that_is_something_else_is_refused(tmp_path, write, message):
    if write is not None:
        pq.write_table(pa.table(write), tmp_path / "domain_4.parquet")
    with pytest.raises(DataError) as error:
        KuaiRandRecipe(source=str(tmp_path)).stage(Storage(str(tmp_path / "scratch")))
    assert_three_parts(error.value, message)
