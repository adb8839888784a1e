"""Costs of a study's arms: round by round, kept like cells, failures named, ratios inside a round."""

import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipelines.study import run_study
from pipelines.study_cost import measure_costs
from pipelines.study_cost_plan import CostRequest, MeasuredCost
from pipelines.study_plan import cells_of, load_study, preset_of
from raytrain.errors import ConfigError, RunError
from raytrain.storage import Storage
from tests.pipelines.fake_runs import FakeTrain, write_study

SPEED = {"din": 2000.0, "single_domain": 5000.0, "adsnet": 1000.0}


@dataclass
class FakeMeasure:
    """Remembers what it measured; fails or is interrupted for the models given; ``pace`` is the machine's, by measurement."""

    fails: set[str] = field(default_factory=set)
    interrupt_after: int | None = None
    pace: tuple[float, ...] = (1.0,)
    asked: list[CostRequest] = field(default_factory=list)

    @property
    def models(self) -> list[str]:
        return [request.job.model.name for request in self.asked]

    def __call__(self, request: CostRequest) -> MeasuredCost:
        if len(self.asked) == self.interrupt_after:
            raise KeyboardInterrupt
        self.asked.append(request)
        name = request.job.model.name
        if name in self.fails:
            raise RunError("A stage has to finish. Received: signal SIGKILL at s3://me:hunter2@bucket/x.")
        return MeasuredCost(
            samples_per_s=SPEED[name] * self.pace[(len(self.asked) - 1) % len(self.pace)],
            num_steps=10,
            batch_rows=1024,
            flops_per_sample=1_234_567,
            num_dense_parameters=4321,
            table_mib=8.0,
            peak_rss_mib=100.0 + len(self.asked),
            request_ms=(20.0, 30.0),
            num_requests=50,
        )


def write(directory: Path, **cost: Any) -> str:
    return write_study(directory, cost={"num_rounds": 2} | cost)


def run(path: str, measure: FakeMeasure, overrides: tuple[str, ...] = ()) -> tuple[dict[str, Any], str]:
    """(the study's cost, what was printed), without any run."""
    study, of_jobs = load_study(path, overrides)
    assert study.cost is not None
    printed, storage = io.StringIO(), Storage(f"{study.directory}/quick")
    cells = cells_of(study, preset_of(study, "quick"), of_jobs, path)
    return measure_costs(study.cost, cells, storage, Console(file=printed, width=200), measure), printed.getvalue()


def run_whole(path: str, measure: FakeMeasure, train: FakeTrain, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    return run_study(path, "quick", overrides, Console(quiet=True), train, measure)


def test_without_the_section_nothing_is_measured(tmp_path: Path) -> None:
    measure = FakeMeasure()
    result = run_whole(write_study(tmp_path), measure, FakeTrain())
    assert measure.asked == []
    assert "cost" not in result
    assert "MFLOP" not in (tmp_path / "work/quick/result.md").read_text()


def test_quality_and_cost_stand_beside_each_other(tmp_path: Path) -> None:
    result = run_whole(write(tmp_path), FakeMeasure(fails={"din"}), FakeTrain())
    folder = tmp_path / "work/quick"
    assert json.loads((folder / "result.json").read_text()) == result
    assert [failed["cell"] for failed in result["failed"]] == ["cost of din"]
    markdown = (folder / "result.md").read_text()
    auc = {name: f"{arm['metrics']['auc']['mean']:.4f}" for name, arm in result["arms"].items()}
    assert f"| single | {auc['single']} | 5,000 | 1.00 | 1.235 | 4,321 | 8.0 | 102 (102\u2013103) | 20.0 (p95 30.0) |" in markdown
    for name in ("mean", "din"):
        assert f"| {name} | {auc[name]} | {' | '.join(7 * chr(0x2013))} |" in markdown
    page = (folder / "result.html").read_text()
    HTMLParser().feed(page)
    assert page.count("<svg") == 7, "arms and differences, for three metrics, and quality against cost"
    assert "Quality and cost" in page


def test_networks_are_measured_in_turn_and_plain_baselines_are_not(tmp_path: Path) -> None:
    measure = FakeMeasure()
    cost, printed = run(write(tmp_path, batch_size=77, num_candidates=300, num_threads=2), measure)
    assert measure.models == ["din", "single_domain"] * 2
    job = measure.asked[0].job
    assert (job.data.batch_size, job.scaling.num_workers, job.scaling.threads_per_worker) == (77, 1, 2)
    assert "cost 3 of 4: din, round 2 of 2 ... 2,000 samples/s, 20.0 ms a request" in printed
    assert cost["arms"]["mean"] is None
    assert cost["arms"]["din"]["num_rounds"] == 2
    assert cost["arms"]["din"]["peak_rss_mib"] == {"median": 102.0, "min": 101.0, "max": 103.0}
    assert (cost["reference"], cost["num_candidates"]) == ("din", 300)


def test_a_second_call_measures_nothing_and_finds_the_same(tmp_path: Path) -> None:
    path = write(tmp_path)
    first, _ = run(path, FakeMeasure())
    measure = FakeMeasure()
    second, printed = run(path, measure)
    assert measure.asked == []
    assert second == first
    assert "cost of 2 arms: 4 measurements made earlier, 0 to make" in printed


@pytest.mark.parametrize(
    ("overrides", "models"),
    [
        (("cost.num_rounds=3",), ["din", "single_domain"]),
        (("cost.seconds=1",), ["din", "single_domain"] * 2),
        (("arms.din.overrides=['model.hidden_units=[8]']",), ["din", "din"]),
        (("presets.quick.seeds=[0, 1]",), []),
        (("run.tensorboard=false",), []),
    ],
    ids=["one round more", "another question", "another job of one arm", "one seed more", "where the runs go"],
)
def test_only_what_is_new_is_measured(tmp_path: Path, overrides: tuple[str, ...], models: list[str]) -> None:
    path = write(tmp_path)
    run(path, FakeMeasure())
    measure = FakeMeasure()
    run(path, measure, overrides)
    assert measure.models == models


def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(path, FakeMeasure(interrupt_after=3))
    measure = FakeMeasure()
    run(path, measure)
    assert measure.models == ["single_domain"]


def test_a_failed_measurement_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    path = write(tmp_path)
    measure = FakeMeasure(fails={"din"})
    cost, printed = run(path, measure)
    assert measure.models == ["din", "single_domain", "single_domain"], "what failed once is not tried again in this call"
    [failed] = cost["failed"]
    assert failed["cell"] == "cost of din"
    assert "signal SIGKILL" in failed["error"]
    assert "hunter2" not in printed + str(cost)
    assert (cost["arms"]["din"], cost["reference"]) == (None, "single")

    again = FakeMeasure()
    healed, _ = run(path, again)
    assert again.models == ["din", "din"]
    assert healed["failed"] == []


def test_ratios_are_taken_inside_a_round(tmp_path: Path) -> None:
    # The machine ran at half its speed in round 2; the ratio does not see it.
    cost, _ = run(write(tmp_path), FakeMeasure(pace=(1.0, 1.0, 0.5, 0.5)))
    single = cost["arms"]["single"]
    assert single["samples_per_s"] == {"median": 3750.0, "min": 2500.0, "max": 5000.0}
    assert single["of_reference"] == {"median": 2.5, "min": 2.5, "max": 2.5}


def test_an_arm_measured_on_another_day_has_no_ratio(tmp_path: Path) -> None:
    run(write(tmp_path), FakeMeasure(fails={"single_domain"}))
    for file in (tmp_path / "work/quick/cost").iterdir():
        record = json.loads(file.read_text())
        record["rounds"] = [made | {"call": "2001-01-01T00:00:00Z"} for made in record["rounds"]]
        file.write_text(json.dumps(record))
    cost, _ = run(write(tmp_path), FakeMeasure())
    assert cost["arms"]["single"]["of_reference"] is None
    assert cost["arms"]["single"]["samples_per_s"]["median"] == 5000


@pytest.mark.parametrize(
    ("override", "message"),
    [("scaling.use_gpu=true", "cost measures one CPU process"), ("cost.candidates=5", "Did you mean num_candidates")],
    ids=["GPUs", "a key misspelt"],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(tmp_path: Path, override: str, message: str) -> None:
    train = FakeTrain()
    with pytest.raises(ConfigError, match=message):
        run_whole(write(tmp_path), FakeMeasure(), train, (override,))
    assert train.ran == []
