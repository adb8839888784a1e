"""One measurement: what it counts, by hand; a request is one user's; scoring moves nothing; memory is the arm's own."""

import sys
from pathlib import Path

import pytest
import torch

from pipelines.bench_process import run_alone
from pipelines.peak_memory import PeakMemory
from pipelines.scoring_requests import requests_of
from pipelines.study_cost_plan import CostPlan, CostRequest, MeasuredCost
from pipelines.study_cost_stage import flops_per_sample, measure_cost, request_times_ms, training_rate
from raytrain.config import JobConfig
from raytrain.data.batch import Batch, Sequence
from raytrain.data.contract import load_contract
from raytrain.data.micro_batches import local_micro_batches
from raytrain.settings import with_overrides
from raytrain.training.loop import Learner, build_learner
from raytrain.training.parallel import World
from raytrain.training.specs import training_specs
from tests.data.build import build_dataset

PLAN = CostPlan(seconds=0.05, num_candidates=10)
DIM, HIDDEN, TABLE_ROWS = 4, 8, 61 + 81 + 4 + 6
NUM_INPUTS = 4 * DIM + 1
"""user, item, country, tags; price"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("cost") / "data"
    build_dataset(path)
    return str(path)


def job_for(path: str, *overrides: str) -> JobConfig:
    values = {
        "data": {"path": path, "batch_size": 64},
        "model": {"name": "dnn", "hidden_units": [HIDDEN]},
        "tables": {"dim": DIM, "backend": "local"},
    }
    return JobConfig.parse(with_overrides(values, overrides), "test")


def learner_and_batches(job: JobConfig) -> tuple[Learner, list[Batch]]:
    contract = load_contract(job.data.path)
    [spec] = training_specs(job, contract, (), "")
    return build_learner(job, contract, World.alone()), list(local_micro_batches(spec))


def test_a_plain_network_is_counted_by_hand(data: str) -> None:
    measured = measure_cost(job_for(data), PLAN)
    assert measured.num_dense_parameters == (NUM_INPUTS + 1) * HIDDEN + HIDDEN + 1
    # Forward, and backward to the weights and to the inputs (the tables learn): three products, two operations a multiply-add.
    assert measured.flops_per_sample == 3 * 2 * (NUM_INPUTS * HIDDEN + HIDDEN)
    assert measured.table_mib == TABLE_ROWS * DIM * 4 / 2**20
    assert measured.samples_per_s > 0
    assert measured.batch_rows == 64
    assert measured.request_ms[0] <= measured.request_ms[1]
    assert measured.num_requests >= 20


@pytest.mark.parametrize(
    "model",
    ["{name: lcn, hidden_units: [8]}", "{name: full_attention, hidden_units: [8]}", "{name: sdim, hidden_units: [8]}"],
    ids=["lcn", "full attention", "sdim"],
)
def test_networks_that_read_histories_are_measured(data: str, model: str) -> None:
    measured = measure_cost(job_for(data, f"model={model}"), PLAN)
    assert measured.flops_per_sample > 3 * 2 * (NUM_INPUTS * HIDDEN + HIDDEN), "its histories cost something"


def test_a_source_domain_counts_as_rows_of_the_step(data: str) -> None:
    alone = measure_cost(job_for(data), PLAN)
    both = measure_cost(job_for(data, "data.source_batch_size=32"), PLAN)
    assert both.batch_rows == pytest.approx(alone.batch_rows + 32)
    assert both.flops_per_sample == alone.flops_per_sample


def test_time_and_steps_are_those_asked_for(data: str) -> None:
    job = job_for(data)
    learner, batches = learner_and_batches(job)
    before = {name: weight.clone() for name, weight in learner.tables.state_dict().items()}
    rate, num_steps = training_rate(job, learner, batches, 0.2)
    assert rate == pytest.approx(num_steps * 64 / 0.2, rel=0.5)
    assert not all(torch.equal(before[name], weight) for name, weight in learner.tables.state_dict().items()), "it does train"


def test_scoring_moves_nothing_and_asks_every_request(data: str) -> None:
    job = job_for(data)
    learner, batches = learner_and_batches(job)
    requests = list(requests_of(batches[:2], "user", 5, num_requests=4))
    before = {name: weight.clone() for name, weight in learner.tables.state_dict().items()}
    times = request_times_ms(learner, requests, 1e-6)
    assert len(times) == 4
    assert min(times) > 0
    assert not learner.network.training
    assert all(torch.equal(before[name], weight) for name, weight in learner.tables.state_dict().items())


def test_counting_leaves_the_network_as_it_trains(data: str) -> None:
    job = job_for(data)
    learner, batches = learner_and_batches(job)
    assert flops_per_sample(job, learner, batches[0]) == flops_per_sample(job, learner, batches[-1]), "per row, whatever the batch"


def rows(num_rows: int) -> Batch:
    """Row i is of user 10 + i and item 20 + i, with i events i * 100 + 1, ...; row 0 is bad."""
    index = torch.arange(num_rows)
    events = torch.where(torch.arange(num_rows) < index[:, None], 100 * index[:, None] + torch.arange(num_rows) + 1, 0)
    return Batch(
        ids={"user": 10 + index, "item": 20 + index},
        dense={"price": index.float()},
        histories={"target": Sequence(events, index.clone(), {"rating": events % 7}, events * 2)},
        label=torch.zeros(num_rows),
        weight=(index > 0).float(),
        group=10 + index,
        time=1000 + index,
        domain=torch.zeros(num_rows, dtype=torch.int64),
    )


def test_a_request_is_one_user_and_many_items() -> None:
    requests = list(requests_of([rows(5)], "user", num_candidates=6, num_requests=2))
    # Good rows are 1 to 4; the first of them asks first, the third of them next.
    first, second = requests
    assert first.ids["user"].tolist() == [11] * 6
    assert second.ids["user"].tolist() == second.group.tolist() == [13] * 6
    assert second.time.tolist() == [1003] * 6
    assert second.ids["item"].tolist() == [21, 22, 23, 24, 21, 22], "from the first again where good rows are too few"
    assert second.dense["price"].tolist() == [1, 2, 3, 4, 1, 2]
    history = second.histories["target"]
    assert history.items.tolist() == [[301, 302, 303]] * 6, "as long as the user's own life"
    assert history.side["rating"].tolist() == [[0, 1, 2]] * 6
    assert history.age_s is not None
    assert history.age_s.tolist() == [[602, 604, 606]] * 6
    assert history.lengths.tolist() == [3] * 6
    assert history.items.is_contiguous()
    assert first.num_rows == 6


def test_a_user_without_a_past_asks_too() -> None:
    batch = rows(3)
    batch.histories["target"].lengths.zero_()
    batch.histories["target"].items.zero_()
    [request] = requests_of([batch], "absent", num_candidates=2, num_requests=1)
    assert request.histories["target"].items.tolist() == [[0], [0]]
    assert request.ids["user"].tolist() == [11, 12], "a user that is no feature is only the history's"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_memory_freed_before_does_not_hide_what_is_taken_after() -> None:
    taken = torch.ones(16 << 20)
    del taken
    memory = PeakMemory()
    assert memory.mib() < 8
    taken = torch.ones(12 << 20)
    del taken
    assert memory.mib() == pytest.approx(48, abs=8)


def test_in_a_process_of_its_own(data: str, tmp_path: Path) -> None:
    request = CostRequest(job=job_for(data), plan=PLAN)
    measured = run_alone("pipelines.study_cost_stage", request, MeasuredCost, tmp_path / "stage", num_threads=1)
    assert measured.flops_per_sample == 3 * 2 * (NUM_INPUTS * HIDDEN + HIDDEN)
    assert 0 <= measured.peak_rss_mib < 64, "no library is in it"
