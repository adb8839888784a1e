"""`raytrain prepare CONFIG.yaml [section.key=value ...]`: a source becomes a prepared data set with its contract.

raytrain prepare pipelines/configs/prepare_movielens.yaml output=data/movielens
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Self

import typer
from pydantic import Field, PositiveInt, model_validator

from pipelines.recipes.complete_journey import CompleteJourneyRecipe
from pipelines.recipes.complete_journey_clicks import CompleteJourneyClicksRecipe
from pipelines.recipes.kuairand import KuaiRandRecipe
from pipelines.recipes.movielens import MovieLensRecipe
from pipelines.recipes.online_retail import OnlineRetailRecipe
from pipelines.recipes.parquet import ParquetRecipe
from pipelines.recipes.planted import PlantedRecipe
from pipelines.recipes.planted_drift import PlantedDriftRecipe
from pipelines.recipes.planted_drift_figures import PlantedDriftFigures
from pipelines.recipes.planted_drift_figures import measure as measure_drift
from pipelines.recipes.planted_figures import FIGURES_FILE, PlantedFigures, measure
from pipelines.recipes.planted_ltv import PlantedLtvRecipe
from pipelines.recipes.planted_ltv_figures import PlantedLtvFigures
from pipelines.recipes.planted_ltv_figures import measure as measure_ltv
from pipelines.recipes.synthetic import SyntheticRecipe
from raytrain.config import check_kind, read_text
from raytrain.data.contract import Contract
from raytrain.data.planted import generate_planted
from raytrain.data.planted_drift import Rule, write_truth
from raytrain.data.planted_ltv import generate_planted_ltv
from raytrain.data.prepare.as_of import AsOfOptions
from raytrain.data.prepare.job import PrepareOptions, prepare_events
from raytrain.data.prepare.write import Layout
from raytrain.data.synthetic import generate
from raytrain.settings import Section, parse_yaml, with_overrides
from raytrain.storage import Storage

RecipeSection = Annotated[
    CompleteJourneyClicksRecipe
    | CompleteJourneyRecipe
    | KuaiRandRecipe
    | MovieLensRecipe
    | OnlineRetailRecipe
    | ParquetRecipe
    | PlantedDriftRecipe
    | PlantedLtvRecipe
    | PlantedRecipe
    | SyntheticRecipe,
    Field(discriminator="name"),
]

NUM_BUCKETS = 8


class PrepareConfig(Section):
    """What is prepared, and how it is laid out on disk."""

    recipe: RecipeSection
    output: str
    """Directory of the prepared data set, on any file system: new, empty, or an earlier prepared one, which is replaced (by
    synthetic and planted rows it is not)."""
    num_buckets: PositiveInt | None = None
    """Files that each domain's split is divided into by user. One bucket of a domain has to fit into a task's memory; synthetic
    rows are streamed. null takes 8, and for synthetic rows more where a file would pass 1,000,000 of them."""
    row_group_rows: PositiveInt = 8192
    """Samples in a row group, the unit of reading and of shuffling."""
    row_group_events: PositiveInt = 65536
    """History events in a row group (whole users, at least one)."""
    num_cpus: PositiveInt | None = None
    """Of the local Ray; null takes the machine's. Without effect where a Ray runs already. Synthetic and planted rows need no Ray:
    threads."""
    probe_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target's users, chosen by a hash of their id, whose training rows become the split ``probe``: rows on which a model
    measures what source rows are worth. 0: none."""
    as_of: AsOfOptions | None = None
    """Smoothed means and residuals of users, items and features over each row's strict past, as dense features that every
    network reads; null: none. The plain baselines build such columns themselves."""

    @model_validator(mode="after")
    def _check_as_of(self) -> Self:
        if self.as_of is not None and isinstance(self.recipe, SyntheticRecipe | PlantedLtvRecipe | PlantedRecipe):
            raise ValueError(
                "Synthetic and planted rows are streamed, as-of features need them in memory. Received: as_of. Set as_of=null."
            )
        if self.probe_share and isinstance(self.recipe, SyntheticRecipe | PlantedLtvRecipe | PlantedRecipe):
            raise ValueError(
                f"Only recipes of events cut a probe split. Received: probe_share={self.probe_share}, recipe.name={self.recipe.name}. "
                "Set it to 0."
            )
        return self


def load_prepare_config(path: str | Path, overrides: tuple[str, ...] | list[str] = ()) -> PrepareConfig:
    """Reads a prepare config from YAML and applies ``section.key=value`` overrides.

    Raises:
        ConfigError: the file is missing or no YAML, a key is unknown, a value is out of range.
    """
    values = parse_yaml(read_text(path), str(path))
    check_kind(values, str(path), "recipe")
    return PrepareConfig.parse(with_overrides(values, overrides), str(path))


def prepare(config: PrepareConfig, say: Callable[[str], None] = typer.echo) -> Contract:
    """Runs the recipe and prepares its events; ``say`` gets one line per finished step.

    Raises:
        DataError: the source or the output directory cannot be used; see ``prepare_events``, ``generate`` and ``generate_planted``.
    """
    sizes = (config.num_buckets, config.row_group_rows, config.row_group_events)
    if isinstance(config.recipe, SyntheticRecipe):
        return generate(config.recipe, config.output, say, *sizes, num_threads=config.num_cpus)
    if isinstance(config.recipe, PlantedRecipe):
        contract = generate_planted(config.recipe, config.output, say, *sizes, num_threads=config.num_cpus)
        _keep_figures(config.output, measure(config.output), say)
        return contract
    if isinstance(config.recipe, PlantedLtvRecipe):
        contract = generate_planted_ltv(config.recipe, config.output, say, config.num_buckets, config.row_group_rows)
        _keep_figures(config.output, measure_ltv(config.output), say)
        return contract
    if config.recipe.notice is not None:
        say(config.recipe.notice)
    layout = Layout(config.row_group_rows, config.row_group_events)
    options = PrepareOptions(config.num_buckets or NUM_BUCKETS, layout, config.num_cpus, config.as_of, config.probe_share)
    contract = prepare_events(config.recipe.stage, config.output, options, say)
    if isinstance(config.recipe, PlantedDriftRecipe):
        write_truth(Rule.of(config.recipe), config.output)
        _keep_figures(config.output, measure_drift(config.recipe, config.output), say)
    return contract


def _keep_figures(output: str, figures: PlantedDriftFigures | PlantedFigures | PlantedLtvFigures, say: Callable[[str], None]) -> None:
    Storage(output).write_text(FIGURES_FILE, json.dumps(figures.to_json(), indent=2) + "\n")
    for line in figures.lines():
        say(line)
