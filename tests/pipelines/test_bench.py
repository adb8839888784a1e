"""The bench: the same rows in every stage, ratios inside a round, and nothing lost when a stage fails."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from pipelines.bench import BenchOptions, run_bench
from pipelines.bench_data import ready_data
from pipelines.bench_plan import Measured, Steps, load_bench, parse_stages, parse_table_rows, stage_job
from pipelines.bench_process import measure
from pipelines.bench_summary import Run, Spread, summarise
from raytrain.errors import ConfigError, ResourceError, RunError
from tests.data.build import build_dataset

SILENT = Console(quiet=True)
SHIPPED = sorted((Path(__file__).parents[2] / "pipelines/configs").glob("bench_*.yaml"))


def write_config(directory: Path, **sections: Any) -> str:
    """A tiny DIN on generated rows."""
    values = {
        "synthetic": {
            "num_rows": 600,
            "num_eval_rows": 200,
            "num_id_features": 3,
            "table_rows": 100,
            "num_users": 50,
            "events_per_user": 20,
        },
        "data": {"path": str(directory / "data"), "batch_size": 32, "history_length": 10, "window_batches": 4},
        "model": {"name": "din", "hidden_units": [8]},
        "tables": {"dim": 4, "backend": "local"},
    }
    file = directory / "bench.yaml"
    file.write_text(yaml.safe_dump({**values, **sections}))
    return str(file)


@pytest.fixture(scope="module")
def benched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The directory of a finished bench, and its bench.json; 10 measured steps go past the end of an epoch of 19."""
    directory = tmp_path_factory.mktemp("bench")
    options = BenchOptions(stages="compute,parquet", num_rounds=1, num_steps=20, output=str(directory / "out"))
    run_bench(write_config(directory), (), options, SILENT)
    return directory, json.loads((directory / "out/bench.json").read_text())


def test_every_stage_trains_on_the_same_rows(benched: tuple[Path, dict[str, Any]]) -> None:
    _, result = benched
    compute, parquet = (run["measured"] for run in result["runs"])
    assert result["num_steps"] == compute["num_steps"] == 24
    assert result["num_warmup_steps"] == 4
    assert compute["loss"] == parquet["loss"]
    assert len(compute["samples_per_s"]) == 5


def test_bench_json_says_what_was_measured_where_and_with_what(benched: tuple[Path, dict[str, Any]]) -> None:
    directory, result = benched
    assert {"command", "started", "machine", "versions", "num_threads", "batch_size", "config", "summary", "runs", "failed"} <= set(result)
    assert {"cpus", "memory_gib", "load"} <= set(result["machine"])
    assert {"python", "ray", "torch", "pyarrow"} <= set(result["versions"])
    assert result["command"] == f"raytrain bench {directory}/bench.yaml --stages compute,parquet --rounds 1 --steps 20"
    assert result["config"]["synthetic"]["num_rows"] == 600
    compute, parquet = result["summary"]
    assert compute["of_compute"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    ratio = parquet["samples_per_s"]["median"] / compute["samples_per_s"]["median"]
    assert parquet["of_compute"]["median"] == pytest.approx(ratio)
    assert compute["data_wait_share"]["median"] < parquet["data_wait_share"]["median"] < 1
    assert compute["startup_s"]["median"] > 0
    assert compute["peak_rss_mib"] > 100
    # 51 users, 100 items, 100 of f02: 4 floats a row.
    assert compute["table_mib"] == [251 * 4 * 4 / 2**20]


def test_a_bench_leaves_something_to_quote_and_no_run(benched: tuple[Path, dict[str, Any]]) -> None:
    directory, _ = benched
    text = (directory / "out/bench.md").read_text()
    assert "raytrain bench" in text
    assert "| parquet |" in text
    assert (directory / "out/bench.png").read_bytes().startswith(b"\x89PNG")
    assert not list(directory.glob("out/*/run"))


def test_a_failed_stage_is_named_and_the_finished_ones_are_kept(benched: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    directory, _ = benched
    config = load_bench(directory / "bench.yaml").scaled(400)
    ready_data(config, SILENT)
    file = next((Path(config.data.path) / "samples/target/train").glob("*.parquet"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    options = BenchOptions(stages="compute", table_rows="400", num_rounds=1, num_steps=5, output=str(tmp_path))
    result = run_bench(str(directory / "bench.yaml"), (), options, SILENT)
    assert [run["table_rows"] for run in result["runs"]] == [None]
    [failed] = result["failed"]
    assert (failed["stage"], failed["round"], failed["table_rows"]) == ("compute", 1, 400)
    assert "has to be a Parquet file" in failed["error"]
    assert json.loads((tmp_path / "bench.json").read_text()) == json.loads(json.dumps(result))
    assert "Failed: compute, round 1" in (tmp_path / "bench.md").read_text()


def test_a_stage_that_hangs_is_stopped(benched: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    config, steps = load_bench(benched[0] / "bench.yaml"), Steps(1)
    job = stage_job(config.job, ready_data(config, SILENT), "compute", steps, 1)
    with pytest.raises(RunError, match=r"done within 0.3 s. Received: no end"):
        measure("compute", job, steps, 1, tmp_path / "cell", timeout_s=0.3)


@pytest.mark.ray
def test_through_ray_workers_share_the_tables_and_one_worker_trains_as_in_memory(benched: tuple[Path, dict[str, Any]]) -> None:
    directory, in_memory = benched
    options = BenchOptions(stages="ray1,ray2", num_rounds=1, num_steps=20, output=str(directory / "ray"))
    # Sharded tables on two workers, and on one of them what local tables give.
    result = run_bench(str(directory / "bench.yaml"), ("tables.backend=sharded", "data.cpus_per_read_task=0.25"), options, SILENT)
    assert result["failed"] == []
    one, two = (run["measured"] for run in result["runs"])
    assert one["loss"] == pytest.approx(in_memory["runs"][0]["measured"]["loss"], rel=1e-5)
    assert (len(one["peak_rss_mib"]), len(two["peak_rss_mib"])) == (1, 2)
    assert sum(two["table_mib"]) == pytest.approx(one["table_mib"][0])
    assert result["summary"][1]["largest_table_share"] <= 0.55
    assert 0 < one["startup_s"] < 120
    assert 0 <= one["data_wait_share"] < 1
    assert not list(directory.glob("ray/*/run"))


def measured(rate: float, table_mib: tuple[float, ...] = (8.0,), rss: float = 100.0) -> Measured:
    return Measured(
        samples_per_s=(rate, rate), data_wait_share=0.1, startup_s=1.0, peak_rss_mib=(rss,), table_mib=table_mib, loss=0.5, num_steps=12
    )


def test_ratios_are_taken_inside_a_round() -> None:
    # The machine ran at half its speed in round 2; neither ratio sees it.
    rates = [("compute", 1, 100.0), ("ray1", 1, 90.0), ("compute", 2, 50.0), ("ray1", 2, 40.0), ("compute", 3, 100.0), ("ray1", 3, 95.0)]
    compute, ray1 = summarise(Run(stage, number, None, measured(rate, rss=100 + number)) for stage, number, rate in rates)
    assert compute.samples_per_s == Spread(100.0, 50.0, 100.0)
    assert ray1.of_compute == Spread(0.9, 0.8, 0.95)
    assert ray1.of_smallest_tables is None
    assert ray1.peak_rss_mib == 103.0


def test_a_sweep_is_compared_with_its_own_smallest_tables() -> None:
    runs = [
        Run("ray2", 1, None, measured(500.0)),
        Run("ray2", 1, 1000, measured(100.0, (6.0, 4.0))),
        Run("ray2", 1, 10, measured(200.0)),
        Run("ray1", 1, 10, measured(50.0)),
    ]
    plain, large, small, other = summarise(runs)
    assert plain.of_smallest_tables is None
    assert large.of_smallest_tables == Spread(0.5, 0.5, 0.5)
    assert small.of_smallest_tables == other.of_smallest_tables == Spread(1.0, 1.0, 1.0)
    assert large.of_compute is None
    assert large.largest_table_share == 0.6


def test_the_rate_of_a_run_is_rows_over_time() -> None:
    # Two windows of the same rows, one in 1 s and one in 3 s.
    assert measured(1.0).model_copy(update={"samples_per_s": (300.0, 100.0)}).rate == pytest.approx(150.0)


@pytest.mark.parametrize("text", ["compute,rai1", "ray0", "", "ray1,ray1", "ray"])
def test_unknown_stages_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--stages has to name"):
        parse_stages(text)


def test_table_rows_are_whole_numbers() -> None:
    assert parse_table_rows("1_000_000, 10000") == (10_000, 1_000_000)
    assert parse_table_rows("") == ()
    with pytest.raises(ConfigError, match="--table-rows has to list whole numbers"):
        parse_table_rows("1e6")


def test_the_sweep_shares_rows_among_the_tables_without_a_size_of_their_own(tmp_path: Path) -> None:
    config = load_bench(write_config(tmp_path))
    contract = ready_data(config.scaled(1051), SILENT)
    # 51 rows are the users'.
    assert {name: table.num_rows for name, table in contract.tables.items()} == {"user": 51, "item": 500, "f02": 500}
    with pytest.raises(ConfigError, match=r"Received: 50 in all, 51 of them in 1 tables"):
        config.scaled(50)


def test_data_of_another_recipe_is_not_measured(tmp_path: Path) -> None:
    config = load_bench(write_config(tmp_path))
    assert ready_data(config, SILENT) == ready_data(config, SILENT)
    with pytest.raises(ConfigError, match="whose rows or tables are others"):
        ready_data(load_bench(tmp_path / "bench.yaml", ["synthetic.num_rows=601"]), SILENT)


def test_prepared_data_needs_no_recipe_and_has_no_sweep(tmp_path: Path) -> None:
    file = write_config(tmp_path, synthetic=None)
    build_dataset(tmp_path / "data")
    config = load_bench(file)
    assert ready_data(config, SILENT).dataset == "toy"
    with pytest.raises(ConfigError, match="--table-rows scales generated data"):
        run_bench(file, (), BenchOptions(table_rows="1000", output=str(tmp_path / "out")), SILENT)


@pytest.mark.parametrize(
    ("override", "stages", "error", "message"),
    [
        pytest.param("scaling.use_gpu=true", "compute", ConfigError, "measures CPU workers", id="GPUs"),
        pytest.param("model={name: item_mean}", "compute", ConfigError, "measures training steps", id="a model without steps"),
        pytest.param("data.batchsize=3", "compute", ConfigError, "Did you mean batch_size", id="an unknown key"),
        pytest.param("synthetic.rows=3", "compute", ConfigError, "synthetic.rows=3", id="an unknown key of the recipe"),
        pytest.param("tables.backend=sharded", "ray40", ConfigError, "has to give every worker a row", id="more workers than rows"),
        pytest.param("tables.backend=local", "ray2", ConfigError, "whole tables on one worker", id="local tables on two workers"),
        pytest.param("data.cpus_per_read_task=99", "ray1", ResourceError, "fit on the cluster", id="more CPUs than there are"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(tmp_path: Path, override: str, stages: str, error: type[Exception], message: str) -> None:
    options = BenchOptions(stages=stages, num_steps=5, output=str(tmp_path / "out"))
    with pytest.raises(error, match=message):
        run_bench(write_config(tmp_path), (override,), options, SILENT)


def test_an_output_directory_is_used_once(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/bench.json").touch()
    with pytest.raises(RunError, match="--output has to be a new or empty directory"):
        run_bench(write_config(tmp_path), (), BenchOptions(num_steps=5, output=str(tmp_path / "out")), SILENT)


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_bench_is_valid(file: Path) -> None:
    config = load_bench(file)
    assert config.synthetic is not None
    config.scaled(10_000)
