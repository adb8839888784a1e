"""What ranks send each other, by hand and against what TorchRec sends."""

import numpy as np
import pytest

from cluster.exchange import DenseSize, distinct_ids, exchange_of, ids_per_row
from raytrain.data.contract import Table
from raytrain.embeddings.config import TableConfig
from raytrain.embeddings.plan import plan_tables
from raytrain.models.declared import declared_tables
from tests.cluster.exchanged import look_up
from tests.cluster.planned import CONTRACT, DENSE, capacity_of, job_for
from tests.distributed.ranks import run_ranks

# 40 and 24 rows, each looked up whole and more than once by both ranks; two dims make two exchanges.
CONFIGS = (TableConfig("user", 40, 8, features=("user",)), TableConfig("item", 24, 16, features=("item",)))
IDS = {"user": [list(range(40)) * 3] * 2, "item": [list(range(24)) * 5] * 2}


@pytest.mark.parametrize("sharding", ["row_wise", "table_wise", "column_wise"])
def test_an_id_travels_once_and_its_vector_comes_back_and_forth(sharding):
    contract = CONTRACT.model_copy(update={"tables": {"user": Table(num_rows=40), "item": Table(num_rows=24)}})
    # So many draws that every id is among them, as it is on the ranks.
    plan = plan_tables(CONFIGS, "adagrad", 2, sharding)
    planned = exchange_of(job_for("dnn"), contract, CONFIGS, plan, 10_000, DENSE)
    ranks = run_ranks(look_up, 2, CONFIGS, IDS, sharding)
    floats = [num_bytes for sent in ranks for dtype, num_bytes in sent if dtype == "torch.float32"]
    whole = [num_bytes for sent in ranks for dtype, num_bytes in sent if dtype == "torch.int64"]
    assert planned.num_distinct == pytest.approx(64)
    # On average over the two ranks. Beside the ids there are a few numbers on how many there are: 64 bytes a rank at most.
    assert planned.vectors + planned.gradients == pytest.approx(sum(floats) / 2)
    assert planned.ids == pytest.approx(sum(whole) / 2, abs=64)


def test_every_part_is_what_a_hand_counts():
    found = capacity_of(job_for("din")).exchange
    # 80 rows of a rank: user, country, 3 tags; item beside 2 histories of 30 events, since none is longer.
    assert found.num_ids == 80 * (1 + 1 + 3 + 1 + 60)
    distinct = sum(rows * (1 - (1 - 1 / rows) ** ids) for rows, ids in ((201, 80), (1001, 80 * 61), (7, 80), (20, 240)))
    assert found.num_distinct == pytest.approx(distinct)
    # Half of everything stays where it is.
    assert (found.ids, found.vectors, found.gradients) == pytest.approx((distinct * 4, distinct * 32, distinct * 32))
    assert (found.dense, found.buffers, found.negatives) == (1_000 * 4, 40, 0)
    assert found.total == pytest.approx(distinct * 68 + 4_040)


def test_one_worker_sends_nothing():
    assert capacity_of(job_for("lcn"), 1).exchange.total == 0


def test_frozen_tables_send_no_gradients():
    job = job_for("ecdctr", "model.months=2", "model.month_dim=4")
    found = capacity_of(job).exchange
    trained = [config for config in declared_tables(job, CONTRACT) if not config.frozen]
    assert found.vectors - found.gradients == pytest.approx(2 * (found_of(201, 80) + found_of(1_001, 80)) * 16 / 2)
    assert len(trained) == 4


def found_of(rows: int, ids: int) -> float:
    return distinct_ids(ids, rows)


def test_lcn_sends_its_candidates_to_every_other_rank():
    found = capacity_of(job_for("lcn", "model.aligned_dim=8"), 4)
    # 40 rows x 2 items of the target, each with 1 of the source; 32 bytes of vector, id, user and a flag; both ways backward.
    assert found.exchange.negatives == 3 * 40 * 2 * 2 * (32 + 17 + 64)
    for idle in ("model.contrast.negatives=rank", "model.contrast.weight=0"):
        assert capacity_of(job_for("lcn", idle), 4).exchange.negatives == 0


def test_uniform_ids_are_counted_as_often_as_they_occur():
    draw = np.random.default_rng(0)
    seen = np.mean([len(np.unique(draw.integers(0, 500, 400))) for _ in range(200)])
    assert distinct_ids(400, 500) == pytest.approx(seen, rel=0.01)
    assert distinct_ids(10, 10**9) == pytest.approx(10, rel=1e-6)
    assert (distinct_ids(0, 5), distinct_ids(3, 1)) == (0, 1)


def test_padding_and_lists_count_as_ids():
    config = TableConfig("item", 1_001, 16, features=("item", "tags"), histories=("ads", "feed"))
    assert ids_per_row(job_for("din", "data.history_length=7"), CONTRACT, config, {"item": 1, "tags": 3}) == 4 + 14


def test_buffers_and_gradients_follow_the_workers():
    dense = DenseSize(600, 1, 80, 1)
    for num_workers, away in ((2, 1 / 2), (4, 3 / 4)):
        found = capacity_of(job_for("dnn"), num_workers, dense).exchange
        assert (found.dense, found.buffers) == pytest.approx((2 * away * 2_400, away * 80))
