import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.prepare import load_prepare_config, prepare
from pipelines.recipes.movielens import MovieLensRecipe
from pipelines.recipes.parquet import ParquetRecipe
from pipelines.recipes.planted import PlantedRecipe
from pipelines.recipes.synthetic import SyntheticRecipe
from raytrain.data.contract import load_contract
from raytrain.data.prepare.as_of import AsOfOptions
from raytrain.errors import ConfigError

MOVIELENS = "pipelines/configs/prepare_movielens.yaml"
EXAMPLE = "pipelines/configs/prepare_parquet_example.yaml"
PLANTED = "pipelines/configs/prepare_planted.yaml"
SYNTHETIC = "pipelines/configs/prepare_synthetic.yaml"


def test_the_committed_configs_are_valid():
    assert isinstance(load_prepare_config(MOVIELENS).recipe, MovieLensRecipe)
    recipe = load_prepare_config(EXAMPLE, ["recipe.keys.item.num_rows=50"]).recipe
    assert isinstance(recipe, ParquetRecipe)
    assert recipe.keys.item.num_rows == 50
    assert recipe.table_rows() == {"user": None, "item": 50, "country": None, "category": None, "hour": 25}
    assert load_prepare_config(SYNTHETIC).recipe == SyntheticRecipe()
    assert load_prepare_config(PLANTED).recipe == PlantedRecipe()


def test_synthetic_rows_are_prepared_without_ray(tmp_path):
    overrides = [f"output={tmp_path}", "recipe.num_rows=500", "recipe.num_id_features=3", "recipe.num_eval_rows=50", "row_group_rows=100"]
    said = []
    contract = prepare(load_prepare_config(SYNTHETIC, overrides), said.append)
    assert contract == load_contract(str(tmp_path))
    assert contract.domains["target"].splits["train"].num_rows == 500
    assert "600 of 600 rows and events" in said[-1]


def test_as_of_features_are_for_rows_that_fit_into_memory():
    assert load_prepare_config(MOVIELENS).as_of == AsOfOptions()
    assert load_prepare_config(EXAMPLE, ["recipe.keys.item.num_rows=50"]).as_of is None
    with pytest.raises(ConfigError, match="Set as_of=null"):
        load_prepare_config(SYNTHETIC, ["as_of={}"])


def test_a_mistake_in_the_synthetic_recipe_is_named():
    with pytest.raises(ConfigError, match=r"recipe\.num_source_row=3. Did you mean num_source_rows"):
        load_prepare_config(SYNTHETIC, ["recipe.num_source_row=3"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        pytest.param("recipe.name=movielense", "Did you mean movielens", id="unknown recipe"),
        pytest.param("recipe.sauce=x", r"recipe\.sauce='x'. Did you mean source", id="unknown key"),
        pytest.param("num_bucket=3", "Did you mean num_buckets", id="unknown key at the top"),
        pytest.param("num_buckets=0", "num_buckets", id="no buckets"),
    ],
)
def test_mistakes_in_a_config_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_prepare_config(MOVIELENS, [override])


@pytest.mark.ray
def test_the_example_config_prepares_files_with_its_columns(tmp_path):
    for domain, count in (("ads", 40), ("feed", 30)):
        number = range(count)
        table = pa.table(
            {
                "user_id": [f"u{n % 7}" for n in number],
                "item_id": [n % 11 for n in number],
                "event_time": [1_700_000_000_000 + 1000 * n for n in number],
                "click": [n % 2 for n in number],
                "country": ["AT" if n % 3 else None for n in number],
                "category_l1": [f"c{n % 4}" for n in number],
                "tags": [["c1", f"tag{n % 2}"] for n in number],
                "hour": [1 + n % 24 for n in number],
                "price": [float(n) for n in number],
                "dwell_bin": [n % 8 for n in number],
            }
        )
        (tmp_path / domain).mkdir()
        pq.write_table(table, tmp_path / domain / "events.parquet")
    overrides = [f"output={tmp_path}/out", "num_buckets=2", "num_cpus=1"]
    overrides += [f"recipe.domains.ads.path={tmp_path}/ads/*.parquet", f"recipe.domains.feed.path={tmp_path}/feed"]
    contract = prepare(load_prepare_config(EXAMPLE, overrides), lambda line: None)
    assert {name: split.num_rows for name, split in contract.domains["ads"].splits.items()} == {"train": 32, "valid": 4, "test": 4}
    assert contract.domains["ads"].splits["train"].min_time == 1_700_000_000
    assert contract.tables["category"].num_rows == 7  # c0..c3, tag0, tag1 and row 0
    assert contract.tables["item"].hashed
    assert contract.overlap[0].num_shared_users == 7
