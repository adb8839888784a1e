"""Real gloo ranks give what one process gives, whatever the split. Two and three ranks are spawned once each."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed, multiprocessing

from raytrain.metrics.ltv_suite import LtvSuite
from raytrain.metrics.rows import hash_groups
from raytrain.metrics.suite import MetricSuite
from tests.metrics import test_ltv_suite as ltv
from tests.metrics.test_suite import Columns, assert_same, draw_rows, feed

EVEN, SKEWED, EMPTY = "even", "one rank nearly alone", "one rank without rows"

# name -> (rows, groups, how they are split, suite)
CASES = {
    "rows of each group spread evenly": (900, 30, EVEN, {}),
    "uneven split": (900, 300, SKEWED, {}),
    "a rank without rows": (400, 30, EMPTY, {}),
    "no rows": (0, 1, EVEN, {}),
    "one row": (1, 1, EVEN, {}),
    "one group": (300, 1, EVEN, {}),
    "histogram on every rank": (900, 200, EVEN, {"num_bins": 64, "exact_limit_rows": 200}),
    "histogram on one rank, exact on the others": (900, 200, SKEWED, {"num_bins": 64, "exact_limit_rows": 890}),
}

# name -> (rows, groups, how they are split, limit)
LTV_CASES = {
    "rows of each group spread evenly": (900, 30, EVEN, None),
    "uneven split": (900, 300, SKEWED, None),
    "a rank without rows": (400, 30, EMPTY, None),
    "no rows": (0, 1, EVEN, None),
    "one row": (1, 1, EVEN, None),
    "a sample on every rank": (900, 200, EVEN, 200),
}


def rows_of(rank: int, num_ranks: int, num_rows: int, split: str) -> np.ndarray:
    rows = np.arange(num_rows)
    if split == EVEN:
        return rows[rank::num_ranks]
    if split == EMPTY:
        return rows[rank - 1 :: num_ranks - 1] if rank else rows[:0]
    others = rows[: 10 * (num_ranks - 1)]
    return rows[10 * (num_ranks - 1) :] if rank == 0 else others[10 * (rank - 1) : 10 * rank]


def with_padding(columns: Columns) -> Columns:
    """Every 7th row becomes padding that holds NaN."""
    prediction, label, group, weight = (column.copy() for column in columns)
    prediction[::7], weight[::7] = np.nan, 0
    return prediction, label, group, weight


def draw_ltv(num_rows: int, num_groups: int) -> ltv.Columns:
    """Every 7th row is padding that holds NaN."""
    columns = ltv.draw_rows(num_rows, num_groups=num_groups)
    columns["ltv"][::7], columns["pay"][::7], columns["weight"][::7] = np.nan, np.nan, 0
    return columns


def ltv_suite(limit: int | None) -> LtvSuite:
    return LtvSuite(ltv.SIZES) if limit is None else LtvSuite(ltv.SIZES, limit)


def run_rank(rank: int, num_ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_ranks)
    results = {}
    for name, (num_rows, num_groups, split, settings) in CASES.items():
        columns = with_padding(draw_rows(num_rows, num_groups=num_groups))
        suite = feed(MetricSuite(**settings), columns, rows_of(rank, num_ranks, num_rows, split))
        results[name] = suite.reduce()
    for name, (num_rows, num_groups, split, limit) in LTV_CASES.items():
        own = rows_of(rank, num_ranks, num_rows, split)
        results[f"ltv: {name}"] = ltv.feed(ltv_suite(limit), draw_ltv(num_rows, num_groups), own).reduce()
    Path(folder, f"{rank}.json").write_text(json.dumps(results))
    distributed.destroy_process_group()


@pytest.fixture(scope="module", params=[2, 3], ids=["two ranks", "three ranks"])
def rank_results(request, tmp_path_factory) -> list[dict[str, dict[str, float]]]:
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(run_rank, args=(request.param, str(folder)), nprocs=request.param)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(request.param)]


@pytest.mark.parametrize("case", [*CASES, *(f"ltv: {name}" for name in LTV_CASES)])
def test_ranks_agree_bit_for_bit(rank_results, case):
    # As text, since NaN equals NaN there.
    assert len({json.dumps(results[case]) for results in rank_results}) == 1


@pytest.mark.parametrize("case", [name for name, (*_, settings) in CASES.items() if not settings])
def test_ranks_give_what_one_process_gives(rank_results, case):
    num_rows, num_groups, _, _ = CASES[case]
    columns = with_padding(draw_rows(num_rows, num_groups=num_groups))
    assert_same(feed(MetricSuite(), columns, np.arange(num_rows)).reduce(), rank_results[0][case])


@pytest.mark.parametrize("case", [name for name, (*_, settings) in CASES.items() if settings])
def test_histograms_of_ranks_add_up(rank_results, case):
    num_rows, num_groups, _, settings = CASES[case]
    columns = with_padding(draw_rows(num_rows, num_groups=num_groups))
    exact = feed(MetricSuite(), columns, np.arange(num_rows)).reduce()
    # A limit of one row makes one process take the histogram too; it holds all rows, so the ranks' has to equal it.
    bounded = feed(MetricSuite(num_bins=settings["num_bins"], exact_limit_rows=1), columns, np.arange(num_rows)).reduce()
    result = rank_results[0][case]
    assert 0 < abs(result["auc"] - exact["auc"]) <= result["auc_error_bound"]
    assert result["gauc_group_share"] < 1
    for key in ("auc", "auc_error_bound", "logloss", "pcoc", "ne", "num_rows", "num_positives"):
        assert result[key] == pytest.approx(bounded[key], rel=1e-12), key


@pytest.mark.parametrize("case", LTV_CASES)
def test_ranks_give_the_ltv_metrics_of_one_process(rank_results, case):
    num_rows, num_groups, _, limit = LTV_CASES[case]
    columns, result = draw_ltv(num_rows, num_groups), rank_results[0][f"ltv: {case}"]
    every = np.arange(num_rows)
    expected = ltv.feed(ltv_suite(None), columns, every).reduce()
    if limit is not None:
        level = -round(np.log2(result["ranked_group_share"]))
        assert level > 0
        sampled = ltv.feed(ltv_suite(None), columns, every[hash_groups(columns["group"]) >> np.uint64(64 - level) == 0]).reduce()
        ranked = {name: value for name, value in sampled.items() if name.startswith(("norm_gini", "decile"))}
        expected |= ranked | {name: sampled[name] for name in ("spearman", "pay_auc")} | {"ranked_group_share": 0.5**level}
    assert_same(expected, result)
