"""What ADSNet costs: the joint stage, with whatever its gain is measured on."""

from pathlib import Path

import pytest

from pipelines.study_cost_plan import CostPlan, MeasuredCost
from pipelines.study_cost_stage import measure_cost
from pipelines.study_plan import cells_of, load_study, preset_of
from raytrain.config import JobConfig
from raytrain.data.planted_ltv import PlantedLtvSpec
from raytrain.data.planted_ltv.job import generate_planted_ltv
from raytrain.settings import with_overrides
from tests.pipelines.fake_ltv_runs import write_ltv_study
from tests.pipelines.test_study_cost import FakeMeasure, run

BACKBONE = "{task_experts: 1, shared_experts: 1, expert_units: [8], tower_units: [8]}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("cost") / "data")
    spec = PlantedLtvSpec(num_rows=300, num_probe_rows=60, num_eval_rows=60, num_slices=4, num_id_features=1)
    generate_planted_ltv(spec, path, lambda line: None, num_buckets=1)
    return path


def measured(path: str, *overrides: str) -> MeasuredCost:
    values = {
        "data": {"path": path, "batch_size": 32, "source_batch_size": 64},
        "model": {"name": "adsnet", "warmup_steps": 0},
        "tables": {"dim": 4, "backend": "local"},
    }
    job = JobConfig.parse(with_overrides(values, (f"model.backbone={BACKBONE}", *overrides)), "test")
    return measure_cost(job, CostPlan(seconds=0.01, num_candidates=10))


def test_both_networks_are_counted(data: str) -> None:
    mixed = measured(data, "model.gain.estimator=none")
    warming = measured(data, "model.gain.estimator=none", "training.epochs=200", "model.warmup_steps=1999")
    assert mixed.batch_rows == warming.batch_rows
    assert mixed.flops_per_sample > 2 * warming.flops_per_sample, "a warmup step trains the vanilla network on internal rows"


def test_gain_on_held_out_rows_is_part_of_the_cost(data: str) -> None:
    assert measured(data, "model.gain.estimator=siamese").flops_per_sample > measured(data, "model.gain.estimator=none").flops_per_sample


def test_a_study_measures_the_joint_stage(tmp_path: Path) -> None:
    path = write_ltv_study(tmp_path, cost={"num_rounds": 1})
    study, _ = load_study(path)
    cells = cells_of(study, preset_of(study, "quick"), (), path)
    measure = FakeMeasure()
    run(path, measure)
    assert [cell.job.model.warmup_steps for cell in cells] == [200, 200]
    assert [request.job.model.warmup_steps for request in measure.asked] == [0, 0]
