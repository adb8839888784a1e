"""Comparisons on planted predictions: a real gap is found, no gap stays undecided, different rows are refused."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.study_compare import FinishedCell, compare, summarise
from raytrain.errors import DataError
from raytrain.storage import Storage

LABEL = np.tile([1.0, 0.0, 1.0, 0.0], 50).astype(np.float32)
USER = np.repeat(np.arange(50), 4)


def cell(directory: Path, variant: str, seed: int, prediction: Any, **columns: Any) -> FinishedCell:
    """A run directory that holds these predictions, and metrics enough for a summary."""
    storage = Storage(str(directory / f"{variant}-{seed}"))
    rows = {
        "fragment": np.zeros(200, np.int32),
        "row": np.arange(200, dtype=np.int32),
        "group": USER,
        "time": USER,
        "label": LABEL,
    } | columns
    buffer = io.BytesIO()
    pq.write_table(pa.table(rows | {"prediction": np.asarray(prediction, np.float32)}), buffer)
    storage.write_bytes("predictions/test/ads-part-00000.parquet", buffer.getvalue())
    metrics = {"auc": float(np.mean(prediction)), "gauc": 0.5, "logloss": 1.0, "num_rows": 200.0}
    result = {
        "model": variant,
        "dataset": "planted",
        "test": {"ads": metrics},
        "rows_trained": {"ads": 9},
        "rows_expected": {"ads": 9},
        "rows_quarantined": {"ads": 0},
        "train_samples_per_s": 10.0 * (seed + 1),
        "wall_s": 2.0,
    }
    return FinishedCell(variant, seed, "ads", storage, result)


def right() -> Any:
    """Every positive above every negative."""
    return np.where(LABEL > 0, 0.9, 0.1)


def half() -> Any:
    """One value for all rows: AUC 0.5 in every resample."""
    return np.full(200, 0.5)


def test_a_perfect_ranking_beats_a_constant_by_half_an_auc(tmp_path: Path) -> None:
    found, skipped = compare([("a", "b")], [cell(tmp_path, "a", 0, right()), cell(tmp_path, "b", 0, half())], (), ("auc", "logloss"), 50)
    assert skipped == []
    auc, logloss = found
    assert (auc["difference"], auc["low"], auc["high"]) == pytest.approx((0.5, 0.5, 0.5))
    assert auc["verdict"] == "better"
    # -ln 0.9 less -ln 0.5
    assert logloss["difference"] == pytest.approx(0.10536 - 0.69315, abs=1e-4)
    assert logloss["verdict"] == "better", "a lower log loss is better"


def test_the_other_way_round_it_is_worse(tmp_path: Path) -> None:
    found, _ = compare([("b", "a")], [cell(tmp_path, "a", 0, right()), cell(tmp_path, "b", 0, half())], (), ("auc", "logloss"), 50)
    assert [one["verdict"] for one in found] == ["worse", "worse"]
    assert found[0]["sentence"] == "AUC: b is worse than a, -0.5000 [-0.5000, -0.5000]."


def test_noise_against_noise_is_undecided(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    cells = [cell(tmp_path, name, 0, draw.random(200)) for name in ("a", "b")]
    (found,), _ = compare([("a", "b")], cells, (), ("auc",), 200)
    assert found["low"] < 0 < found["high"]
    assert found["verdict"] == "undecided"
    assert "undecided between a and b" in found["sentence"]


def test_order_of_rows_on_disk_does_not_matter(tmp_path: Path) -> None:
    shuffled = np.random.default_rng(0).permutation(200)
    moved = cell(
        tmp_path,
        "b",
        0,
        right()[shuffled],
        row=np.arange(200, dtype=np.int32)[shuffled],
        group=USER[shuffled],
        time=USER[shuffled],
        label=LABEL[shuffled],
    )
    (found,), _ = compare([("a", "b")], [cell(tmp_path, "a", 0, right()), moved], (), ("auc",), 50)
    assert (found["difference"], found["low"], found["high"]) == (0.0, 0.0, 0.0)
    assert found["verdict"] == "undecided"


def test_a_deterministic_arm_is_paired_with_every_seed(tmp_path: Path) -> None:
    cells = [cell(tmp_path, "a", seed, right()) for seed in (0, 1, 2)] + [cell(tmp_path, "fixed", 0, half())]
    (found,), _ = compare([("a", "fixed")], cells, {"fixed"}, ("auc",), 50)
    assert found["num_seeds"] == 3
    assert len(found["seed_differences"]) == 3


def test_seeds_are_paired_and_a_missing_one_is_left_out(tmp_path: Path) -> None:
    cells = [cell(tmp_path, "a", seed, right()) for seed in (0, 1, 2)] + [cell(tmp_path, "b", seed, half()) for seed in (1, 2, 5)]
    (found,), _ = compare([("a", "b")], cells, (), ("auc",), 50)
    assert found["num_seeds"] == 2


def test_seeds_that_disagree_are_named(tmp_path: Path) -> None:
    # The summary metric of these cells is the mean prediction, so the sign of the difference can be planted by seed.
    cells = [cell(tmp_path, "a", 0, half() + 0.1), cell(tmp_path, "a", 1, half() - 0.1)] + [
        cell(tmp_path, "b", seed, half()) for seed in (0, 1)
    ]
    (found,), _ = compare([("a", "b")], cells, (), ("auc",), 50)
    assert found["sentence"].endswith("Seeds disagree on the sign.")


@pytest.mark.parametrize(
    ("columns", "named"),
    [
        ({"label": 1 - LABEL}, "label"),
        ({"group": USER + 1}, "group"),
        ({"row": np.arange(1, 201, dtype=np.int32)}, "row"),
    ],
    ids=["other labels", "other groups", "other rows"],
)
def test_runs_that_scored_other_rows_are_refused(tmp_path: Path, columns: dict[str, Any], named: str) -> None:
    cells = [cell(tmp_path, "a", 0, right()), cell(tmp_path, "b", 0, half(), **columns)]
    with pytest.raises(DataError, match=f"same test rows. Received: different {named} in"):
        compare([("a", "b")], cells, (), ("auc",), 50)


def test_pairs_on_data_sets_of_their_own_stand_side_by_side(tmp_path: Path) -> None:
    other = {"label": 1 - LABEL}
    cells = [cell(tmp_path, "a", 0, right()), cell(tmp_path, "b", 0, half())]
    cells += [cell(tmp_path, "c", 0, right(), **other), cell(tmp_path, "d", 0, half(), **other)]
    found, _ = compare([("a", "b"), ("c", "d")], cells, (), ("auc",), 50)
    assert [one["difference"] for one in found] == [0.5, -0.5]
    with pytest.raises(DataError, match=r"same test rows\. Received: different label in"):
        compare([("a", "b"), ("a", "c")], cells, (), ("auc",), 50)


def test_a_prediction_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Received: NaN in"):
        compare([("a", "b")], [cell(tmp_path, "a", 0, half() * np.nan), cell(tmp_path, "b", 0, half())], (), ("auc",), 50)


def test_an_arm_is_summed_up_by_mean_and_sample_deviation(tmp_path: Path) -> None:
    cells = [cell(tmp_path, "a", seed, np.full(200, value)) for seed, value in enumerate((0.2, 0.3, 0.4))]
    summary = summarise(["a"], cells, (), ("auc",))
    auc = summary["arms"]["a"]["metrics"]["auc"]
    assert (auc["mean"], auc["sd"]) == pytest.approx((0.3, 0.1))
    assert auc["values"] == pytest.approx({"0": 0.2, "1": 0.3, "2": 0.4})
    assert summary["arms"]["a"]["train_samples_per_s"]["mean"] == pytest.approx(20)
    assert summary["num_rows"] == 200
