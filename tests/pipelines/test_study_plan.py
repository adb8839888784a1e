"""Which cells a study has, which arms it compares, and which override wins."""

from pathlib import Path

import pytest

from pipelines.study_of_rolls_plan import is_study_of_rolls
from pipelines.study_plan import Study, cell_key, cells_of, load_study, pairs_of, preset_of, variants_of
from raytrain.config import JobConfig
from raytrain.data.contract import load_contract
from raytrain.errors import ConfigError
from raytrain.settings import parse_yaml
from tests.pipelines.fake_ltv_runs import EUROS
from tests.pipelines.fake_runs import write_data, write_study

STUDIES = Path(__file__).parents[2] / "pipelines" / "studies"


def test_a_grid_multiplies_the_arms_and_pairs_them_point_by_point(tmp_path: Path) -> None:
    path = write_study(tmp_path, grid={"tables.dim": [8, 16], "training.epochs": [1]}, reference="single")
    study, _ = load_study(path)
    assert [variant.name for variant in variants_of(study)][:3] == ["din-dim8-epochs1", "din-dim16-epochs1", "single-dim8-epochs1"]
    assert pairs_of(study) == [
        ("din-dim8-epochs1", "single-dim8-epochs1"),
        ("din-dim16-epochs1", "single-dim16-epochs1"),
        ("din-dim8-epochs1", "mean-dim8-epochs1"),
        ("din-dim16-epochs1", "mean-dim16-epochs1"),
        ("mean-dim8-epochs1", "single-dim8-epochs1"),
        ("mean-dim16-epochs1", "single-dim16-epochs1"),
    ]
    cells = cells_of(study, preset_of(study, "quick"), (), path)
    assert {(cell.name, cell.job.tables.dim) for cell in cells} >= {("din-dim8-epochs1-seed0", 8), ("din-dim16-epochs1-seed0", 16)}


def test_points_of_a_grid_are_compared_by_their_full_names(tmp_path: Path) -> None:
    path = write_study(tmp_path, grid={"tables.dim": [8, 16]}, comparisons=[["din-dim16", "din-dim8"]])
    assert pairs_of(load_study(path)[0]) == [("din-dim16", "din-dim8")]


def test_a_data_set_at_a_point_goes_by_its_directory(tmp_path: Path) -> None:
    path = write_study(tmp_path, grid={"data.path": ["data/overlap0.25", "s3://bucket/data/overlap0.50/"]})
    names = [variant.name for variant in variants_of(load_study(path)[0])]
    assert names[:2] == ["din-overlap0.25", "din-overlap0.50"]


def test_an_arm_is_not_compared_with_a_point(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name both in full"):
        load_study(write_study(tmp_path, grid={"tables.dim": [8, 16]}, comparisons=[["din", "single-dim8"]]))


def test_points_that_would_share_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"different names.*din-schedule_a_b"):
        load_study(write_study(tmp_path, grid={"optimizer.schedule": ["a b", "a/b"]}, comparisons=[]))


def test_the_caller_wins_over_the_grid_over_the_arm_over_the_preset(tmp_path: Path) -> None:
    preset = {"seeds": [0], "overrides": ["tables.dim=1", "training.epochs=1", "data.batch_size=1", "optimizer.lr=1"]}
    arms = {"din": {"overrides": ["training.epochs=2", "data.batch_size=2", "optimizer.lr=2"]}}
    grid = {"data.batch_size": [3], "optimizer.lr": [3]}
    path = write_study(tmp_path, presets={"quick": preset}, arms=arms, grid=grid, comparisons=[])
    study, overrides = load_study(path, ("optimizer.lr=4",))
    (cell,) = cells_of(study, preset_of(study, "quick"), overrides, path)
    job = cell.job
    assert (job.tables.dim, job.training.epochs, job.data.batch_size, job.optimizer.lr) == (1, 2, 3, 4)


def test_base_is_a_file_seen_from_the_study(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"data: {{path: {write_data(tmp_path)}, batch_size: 77}}\nmodel: {{name: din}}\n")
    path = write_study(tmp_path, base="job.yaml")
    study, _ = load_study(path)
    assert {cell.job.data.batch_size for cell in cells_of(study, preset_of(study, "quick"), (), path)} == {77}


@pytest.mark.parametrize(
    ("override", "is_another"),
    [
        ("training.keep_checkpoints=7", False),
        ("data.prefetch_batches=2", False),
        ("run.name=elsewhere", False),
        ("scaling.start_limit_s=99", False),
        ("scaling.num_workers=2", True),
        ("training.epochs=7", True),
        ("data.batch_size=5", True),
    ],
    ids=["checkpoints kept", "prefetch", "name", "patience", "workers", "epochs", "batch"],
)
def test_a_cell_is_another_one_only_where_its_figures_may_be(tmp_path: Path, override: str, is_another: bool) -> None:
    path = write_study(tmp_path)
    study, _ = load_study(path)
    cell = cells_of(study, preset_of(study, "quick"), (), path)[0]
    key, value = override.split("=")
    section, name = key.split(".")
    changed = cell.job.model_copy(
        update={section: getattr(cell.job, section).model_copy(update={name: int(value) if value.isdigit() else value})}
    )
    contract = load_contract(cell.job.data.path)
    assert (cell_key(changed, contract) != cell.key) == is_another


def test_moved_data_is_the_same_data(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study, _ = load_study(path)
    cell = cells_of(study, preset_of(study, "quick"), (), path)[0]
    (tmp_path / "moved").symlink_to(Path(cell.job.data.path).resolve())
    moved = cells_of(study, preset_of(study, "quick"), (f"data.path={tmp_path / 'moved'}",), path)[0]
    assert moved.key == cell.key


def test_a_key_belongs_to_the_study_or_to_the_job_and_never_to_both() -> None:
    assert not Study.model_fields.keys() & JobConfig.model_fields.keys()


@pytest.mark.parametrize(
    "path", [path for path in sorted(STUDIES.glob("*.yaml")) if not is_study_of_rolls(str(path))], ids=lambda path: path.stem
)
def test_a_shipped_study_makes_valid_jobs_in_every_preset(path: Path, tmp_path: Path) -> None:
    study, _ = load_study(str(path))
    data = write_data(tmp_path, amount=None if "auc" in study.metrics else EUROS)
    for name in study.presets:
        assert cells_of(study, preset_of(study, name), (f"data.path={data}",), str(path))
    assert pairs_of(study)
    assert parse_yaml(path.read_text(), path.name)["name"] == path.stem
