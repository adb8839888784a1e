"""`raytrain plan` as it is typed: the paper's figures, refusals, JSON, and the network that torch counts apart."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from cluster import plan as module
from cluster.data_size import DomainSize, Sizes, read_plan, resized, sizes_of
from cluster.exchange import DenseSize
from cluster.plan import assumed_of, count_dense, gpu_bytes, plan_job, with_workers
from cluster.plan_lines import lines_of, tables_of, verdict
from raytrain.cli import app
from raytrain.config import load_config
from raytrain.data.contract import load_contract
from raytrain.errors import ConfigError, RunError
from raytrain.machine import GIB, size
from raytrain.training.dense_size import dense_size
from raytrain.training.loop import build_network
from tests.cluster.facts import write_job
from tests.messages import assert_three_parts

PAPER = "pipelines/configs/plan_lcn.yaml"
FILES = Sizes(row_groups=10**7, files=10**5)
# Of the paper's job, so that most tests load no torch: see the test that counts them.
DENSE = DenseSize(num_parameters=66_121, num_tensors=36, buffer_bytes=1_048_592, num_buffers=4)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dense network of the paper's job, without the seconds of building it."""
    monkeypatch.setattr(module, "count_dense", lambda job, contract: DENSE)


def test_the_papers_data_on_64_workers_is_what_was_reckoned_on_paper():
    capacity = plan_job(PAPER, (), 64, sizes=FILES, dense=DENSE).capacity
    streams = {stream.domain: stream for stream in capacity.streams}
    assert {name: stream.rows_in_all for name, stream in streams.items()} == {"target": 2 * 10**9, "source": 18 * 10**9}
    assert sum(stream.size.num_row_groups for stream in streams.values()) == 10**7
    assert sum(stream.size.num_files for stream in streams.values()) == 10**5
    # 10^9 rows x 16 floats are 64 GB and 4 GB of state: 1.06 GB a worker.
    assert sum(capacity.footprint.tables_per_rank) == 68 * 10**9
    assert set(capacity.footprint.tables_per_rank) == {1_062_500_000}
    assert sum(stream.plan_bytes for stream in streams.values()) < 2 * GIB
    assert capacity.cursor < 50 * 2**20


def test_the_example_of_help_says_whether_it_fits(counted):
    command = ["plan", PAPER, "--workers", "64", "--rows-target", "2e9", "--rows-source", "18e9", "--row-groups", "1e7", "--files", "1e5"]
    result = CliRunner().invoke(app, [*command, "--memory", "8"])
    assert result.exit_code == 0, result.output
    assert "item 1,000,000,000 rows x (16 + 1 state) x 4 bytes = 63.3 GiB" in result.output
    assert "9,000,000 row groups in 50,000 files" in result.output
    assert "64 worker(s) fit: a worker's machine needs 4.0 GiB, the driver's 3.1 GiB, and each has 8.0 GiB. The least that do: 25." in (
        result.output
    )
    assert CliRunner().invoke(app, ["plan", PAPER, "--workers", "8", "--memory", "8"]).exit_code == 2


def test_json_has_every_line_and_the_verdict(counted):
    result = CliRunner().invoke(app, ["plan", PAPER, "--workers", "15", "--memory", "8", "--json"])
    found = json.loads(result.output)
    assert (result.exit_code, found["workers"], found["memory_bytes"], found["fits"]) == (2, 15, 8 * GIB, False)
    assert found["least_workers"] == 25
    lines = {line["key"]: line for line in found["lines"]}
    # 10^9 / 15 rows, rounded up; the last rank has fewer.
    assert lines["tables"]["value"] == 66_666_667 * 68
    assert {"batch", "worker", "ids", "vectors", "gradients", "plan/target", "driver", "cursor", "checkpoint", "checkpoint_s"} <= set(lines)
    assert {"history/source", "samples_per_s", "run_s"} <= set(lines)
    assert {line["part"] for line in found["lines"]} == {
        "on each worker", "sent by each worker in a step", "driver and storage", "speed"
    }  # fmt: skip


def test_without_memory_nothing_is_refused(counted):
    plan = plan_job(PAPER, (), 1)
    assert (plan.fits, plan.least_workers, verdict(plan)) == (True, None, "")


def test_a_driver_that_does_not_fit_is_told_so(counted):
    plan = plan_job(PAPER, (), 64, 2 * GIB)
    assert not plan.fits
    assert "No number of workers helps the driver" in verdict(plan)
    lower = plan_job(PAPER, ("model.hidden_units=[8]", "data.window_batches=64"), 64, 4 * GIB)
    assert "Up to 1,600 workers none do" in verdict(lower)


GPUS = ("scaling.use_gpu=true",)


def test_what_a_gpu_holds_is_what_a_hand_counts(counted):
    plan = plan_job(PAPER, GPUS, 2)
    capacity = plan.capacity
    # 5 * 10^8 rows of 16 + 1 floats; weights, gradients, DDP's copy and Adam's two; vectors of 8,000 x (400 events + 1 item), 8 times.
    vectors = 8_000 * 401 * 16 * 4 * 8
    pairs = capacity.footprint.activations - vectors
    assert pairs > 0
    held = 34 * 10**9 + 66_121 * 5 * 4 + vectors + pairs + capacity.batch + 1_048_592
    assert {line.key: line.value for line in lines_of(plan)}["gpu"] == held
    assert held > 52 * GIB


@pytest.mark.parametrize(
    ("num_workers", "memory", "gpu_memory", "fits", "least"),
    [
        (2, 64, 80, True, 2),
        (2, 64, 40, False, 3),
        (3, 64, 40, True, 3),
        (3, 16, 40, False, 5),
        (3, None, 40, True, 3),
        (1, None, 80, False, 2),
    ],
    ids=["both", "a GPU too small", "more workers", "a machine too small", "machines left aside", "one worker too few"],
)
def test_a_job_on_gpus_fits_into_machines_and_gpus(counted, num_workers, memory, gpu_memory, fits, least):
    plan = plan_job(PAPER, GPUS, num_workers, memory and memory * GIB, gpu_memory=gpu_memory * GIB)
    assert (plan.fits, plan.least_workers) == (fits, least)
    assert f"a worker's GPU needs {size(gpu_bytes(plan.capacity))}, and has {gpu_memory}.0 GiB" in verdict(plan)


def test_gpu_memory_that_nobody_gave_is_held_against_nothing_and_told(counted):
    result = CliRunner().invoke(app, ["plan", PAPER, *GPUS, "--workers", "2", "--memory", "64"])
    assert result.exit_code == 0, result.output
    assert "2 worker(s) fit, GPUs left aside: " in result.output
    assert "GPU memory is held against nothing: one GPU would hold 52.4 GiB. Pass --gpu-memory." in result.output
    assert CliRunner().invoke(app, ["plan", PAPER, *GPUS, "--workers", "2", "--memory", "64", "--gpu-memory", "40"]).exit_code == 2


def test_a_gpu_has_no_speed_but_the_one_that_somebody_measured(counted):
    found = json.loads(CliRunner().invoke(app, ["plan", PAPER, *GPUS, "--gpu-memory", "141", "--json"]).output)
    assert found["gpu_memory_bytes"] == 141 * GIB
    assert found["notes"] == ["No speed: what a step costs was measured on CPUs alone. Pass --rate."]
    assert "speed" not in {line["part"] for line in found["lines"]}
    plan = plan_job(PAPER, GPUS, 1, assumed=assumed_of(50_000, None, None), gpu_memory=141 * GIB)
    assert {line.key: line.value for line in lines_of(plan)}["one_worker"] == 50_000
    assert "No speed" not in verdict(plan)


def test_the_memory_of_gpus_that_the_job_does_not_use_is_refused():
    with pytest.raises(ConfigError) as error:
        plan_job(PAPER, (), gpu_memory=80 * GIB, dense=DENSE)
    assert_three_parts(error.value, "Received: --gpu-memory, scaling.use_gpu=false. Set scaling.use_gpu=true")


def test_a_line_is_a_row_with_its_arithmetic(counted):
    plan = plan_job(PAPER, (), 64)
    assert sum(table.row_count for table in tables_of(plan)) == len(lines_of(plan))
    texts = {line.key: line.arithmetic for line in lines_of(plan)}
    assert texts["dense"] == "66,121 parameters x 4 bytes x (weights, gradients, DDP + 2 of adam)"
    assert texts["samples_per_s"].startswith("16,000 rows / ")
    assert "tables 63.3 GiB + network" in texts["checkpoint"]
    assert len({line.key for line in lines_of(plan)}) == len(texts)


def test_a_prepared_data_set_is_read_off_its_footers(tmp_path, dataset, counted):
    _, size = read_plan(write_job(tmp_path, dataset), ("data.source_batch_size=16",))
    contract = load_contract(dataset)
    assert size.contract == contract
    for name, domain in size.trained.items():
        assert domain.num_rows == contract.domains[name].splits["train"].num_rows
        assert domain.num_files == contract.num_buckets
    plan = plan_job(write_job(tmp_path, dataset), ("data.source_batch_size=16",), 2)
    assert plan.capacity.num_workers == plan.capacity.job.scaling.num_workers == 2
    assert [stream.domain for stream in plan.capacity.streams] == ["target", "source"]


def test_other_sizes_take_the_place_of_the_data_sets_own(tmp_path, dataset):
    _, size = read_plan(write_job(tmp_path, dataset), ("data.source_batch_size=16",))
    before = size.trained["target"]
    grown = resized(size, Sizes(rows_target=10 * before.num_rows, tables=(("item", 10**9),)))
    events = {name: domain.history.num_events for name, domain in size.contract.domains.items() if domain.history}
    assert {name: domain.history.num_events for name, domain in grown.contract.domains.items() if domain.history} == {
        "target": 10 * events["target"], "source": events["source"]
    }  # fmt: skip
    assert grown.trained["target"].num_rows == 10 * before.num_rows
    # Buckets of both domains hold the same users, so the source's files grow in number too.
    assert {domain.num_files for domain in grown.trained.values()} == {10 * before.num_files}
    assert grown.contract.tables["item"].num_rows == 10**9
    assert grown.contract.tables["user"] == size.contract.tables["user"]
    shared = resized(size, Sizes(10**6, 3 * 10**6, row_groups=4_000, files=100)).trained
    assert shared == {"target": DomainSize(10**6, 1_000, 50), "source": DomainSize(3 * 10**6, 3_000, 50)}


@pytest.mark.parametrize("overrides", [(), ("data.source_batch_size=0",)], ids=["both domains", "the target alone"])
def test_ten_times_the_rows_read_as_many_bytes_of_history_for_each(overrides):
    before = plan_job(PAPER, overrides, dense=DENSE).capacity.history_bytes
    sizes = Sizes(rows_target=2 * 10**10, rows_source=None if overrides else 18 * 10**10)
    assert before["target"] > 0
    assert plan_job(PAPER, overrides, sizes=sizes, dense=DENSE).capacity.history_bytes == before


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (Sizes(rows_source=5), "data.source_batch_size=0"),
        (Sizes(tables=(("itm", 5),)), "Did you mean item?"),
        (Sizes(tables=(("item", 1),)), "item=1"),
    ],
    ids=["source rows of a job without a source", "an unknown table", "a table without a row"],
)
def test_sizes_that_are_none_are_refused(tmp_path, dataset, sizes, message):
    _, size = read_plan(write_job(tmp_path, dataset), ())
    with pytest.raises(ConfigError) as error:
        resized(size, sizes)
    assert message in str(error.value)


def test_a_table_is_written_as_name_and_rows():
    assert sizes_of(2e9, None, 1e7, None, ["item=1e9", "user=7"]) == Sizes(2 * 10**9, None, 10**7, None, (("item", 10**9), ("user", 7)))
    for text in ("item", "item=many", "item=inf"):
        with pytest.raises(ConfigError, match="has to be NAME=ROWS"):
            sizes_of(None, None, None, None, [text])


def test_the_network_is_counted_as_torch_builds_it(tmp_path, dataset):
    job, contract = load_config(write_job(tmp_path, dataset, model={"name": "lcn"})), load_contract(dataset)
    network = build_network(job, contract, None)
    found = count_dense(job, contract)
    assert found == DenseSize(**dense_size(network))
    assert found.num_parameters == sum(parameter.numel() for parameter in network.parameters())
    assert found.buffer_bytes == sum(buffer.nbytes for buffer in network.buffers())


def test_a_process_that_cannot_build_the_network_is_an_error(tmp_path, dataset, monkeypatch):
    monkeypatch.setattr(module, "PROBE", "raytrain.no_such_module")
    with pytest.raises(RunError) as error:
        count_dense(load_config(write_job(tmp_path, dataset)), load_contract(dataset))
    assert_three_parts(
        error.value, "The dense network has to be built to be counted", "the process exited with 1", "Try `raytrain doctor` with this job."
    )


def test_models_fitted_in_one_process_are_refused(tmp_path, dataset):
    with pytest.raises(ConfigError, match=r"model\.name=logistic, which is fitted in one process"):
        plan_job(write_job(tmp_path, dataset, model={"name": "logistic"}))


def test_more_workers_than_a_batch_has_rows_are_refused(tmp_path, dataset):
    job = load_config(write_job(tmp_path, dataset))
    assert with_workers(job, 32).scaling.num_workers == 32
    with pytest.raises(ConfigError, match=r"scaling\.num_workers=33"):
        with_workers(job, 33)


def test_a_section_that_describes_data_is_checked(tmp_path):
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump({"data": {"path": "x"}, "model": {"name": "dnn"}, "synthetic": {"num_row": 5}}))
    with pytest.raises(ConfigError, match="Did you mean num_rows"):
        read_plan(str(file), ())
    file.write_text(yaml.safe_dump({"data": {"path": "x"}, "model": {"name": "dnn"}, "synthetic": 5}))
    with pytest.raises(ConfigError, match="synthetic has to be a section"):
        read_plan(str(file), ())
