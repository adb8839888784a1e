"""The ``raytrain`` command: parse -> config -> one library call."""

import json
import sys
from datetime import datetime
from typing import Annotated

import typer
from rich.console import Console

from raytrain.cluster_cli import ConfigFile, Overrides, cluster_app
from raytrain.errors import RaytrainError
from raytrain.job_cli import job_app
from raytrain.job_request import day_of

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Cross-domain advertising and recommendation models on Ray and TorchRec.",
)
app.add_typer(cluster_app)
app.add_typer(job_app, name="job")
console = Console(soft_wrap=True)

RunPath = Annotated[str, typer.Argument(metavar="RUN", help="Run directory: a path or a URI")]
Split = Annotated[str, typer.Option(help="train, valid or test")]
DomainName = Annotated[str | None, typer.Option(help="Domain; the target when left out")]


@app.command()
def prepare(config: ConfigFile, overrides: Overrides = None) -> None:
    """Prepare a data set: Parquet, contract.yaml and histories.

    [dim]raytrain prepare pipelines/configs/prepare_movielens.yaml output=data/movielens[/dim]

    [dim]raytrain prepare pipelines/configs/prepare_synthetic.yaml recipe.num_rows=50_000_000 output=data/synthetic50m[/dim]
    """
    from pipelines.prepare import load_prepare_config
    from pipelines.prepare import prepare as prepare_data

    prepare_data(load_prepare_config(config, overrides or []))


@app.command()
def train(
    config: ConfigFile,
    overrides: Overrides = None,
    baseline: Annotated[list[str] | None, typer.Option(help="Run directory whose result stands beside this one in report.html")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run of this name from its last checkpoint")] = False,
) -> None:
    """Train a model, score the test split, write the run directory.

    [dim]raytrain train pipelines/configs/movielens_din.yaml training.epochs=2 scaling.num_workers=2 scaling.cpus_per_worker=0.5[/dim]

    [dim]raytrain train pipelines/configs/movielens_din.yaml run.name=first training.checkpoint_every_steps=100[/dim]

    [dim]raytrain train pipelines/configs/movielens_din.yaml run.name=first --resume scaling.num_workers=2 scaling.cpus_per_worker=0.5[/dim]
    """
    from raytrain.config import load_config
    from raytrain.run import read_result
    from raytrain.run import train as train_run

    train_run(load_config(config, overrides or []), console, {path: read_result(path) for path in baseline or ()}, resume)


@app.command()
def evaluate(run: RunPath, overrides: Overrides = None, split: Split = "test", domain: DomainName = None) -> None:
    """Score every row of a split once with a run's best checkpoint, at any number of workers.

    [dim]raytrain evaluate runs/demo scaling.num_workers=2 scaling.cpus_per_worker=0.5 --split valid[/dim]
    """
    from raytrain.run import evaluate as evaluate_run

    metrics = evaluate_run(run, split, domain, tuple(overrides or ()), console)
    console.print_json(json.dumps(metrics, allow_nan=True))


@app.command()
def predict(
    run: RunPath,
    output: Annotated[str, typer.Option(help="New directory for the Parquet files")],
    data: Annotated[str | None, typer.Option("--input", help="Prepared data set; the run's own when left out")] = None,
    overrides: Overrides = None,
    split: Split = "test",
    domain: DomainName = None,
) -> None:
    """Write Parquet files of predictions: fragment, row, group (the user), time, label, prediction (of amounts: ltv, pay).

    [dim]raytrain predict runs/demo --input data/movielens --output predictions[/dim]
    """
    from raytrain.run import predict as predict_run

    extra = [f"data.path={json.dumps(data)}"] if data else []
    predict_run(run, split, domain, (*extra, *(overrides or ())), output, console)
    console.print(f"wrote {output}", highlight=False)


@app.command()
def study(
    config: ConfigFile,
    overrides: Overrides = None,
    preset: Annotated[str, typer.Option(help="A preset of the study, e.g. quick or full")] = "quick",
) -> None:
    """Run a grid of models, or of rolls, over seeds and overrides, with paired bootstrap intervals. The same command goes on after a kill.

    [dim]raytrain study pipelines/studies/movielens_baselines.yaml --preset full[/dim]

    [dim]raytrain study pipelines/studies/ecdctr.yaml --preset full[/dim]
    """
    from pipelines.study_of_rolls_plan import is_study_of_rolls

    if is_study_of_rolls(config):
        from pipelines.study_of_rolls import run_study_of_rolls

        result = run_study_of_rolls(config, preset, tuple(overrides or ()), console)
    else:
        from pipelines.study import run_study

        result = run_study(config, preset, tuple(overrides or ()), console)
    if result["failed"]:
        raise typer.Exit(1)


@app.command()
def roll(
    config: ConfigFile,
    overrides: Overrides = None,
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day to serve; the calendar's when left out")
    ] = None,
    last: Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day to serve, itself included")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="An arm to roll beside the chain; else all, none with 'arms={}'")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every stage and its state; train nothing")] = False,
) -> None:
    """Train the monthly, weekly and daily models that a span of days needs, each once; resumable.

    [dim]raytrain roll pipelines/rolls/complete_journey.yaml --dry-run[/dim]

    [dim]raytrain roll pipelines/rolls/complete_journey.yaml --from 2017-08-07 --to 2017-08-13 'arms={}' 'seeds=[0, 1]'[/dim]
    """
    from pipelines.roll import run_roll
    from pipelines.roll_dry_run import show_plan

    span = (day_of(first), day_of(last))
    if dry_run:
        show_plan(config, overrides or (), console, *span, arms=arm or ())
    elif run_roll(config, overrides or (), console, *span, arms=arm or ())["failed"]:
        raise typer.Exit(1)


@app.command()
def lineage(stage: Annotated[str, typer.Argument(metavar="STAGE", help="Run directory of a stage of a roll")]) -> None:
    """Show what a model was made from; exits 1 if an ancestor is gone or was made anew since.

    [dim]raytrain lineage runs/rolls/complete_journey/stages/actr-2017-10-01-1f0c9a2b[/dim]
    """
    from pipelines.lineage import show_lineage

    if not show_lineage(stage, console):
        raise typer.Exit(1)


@app.command()
def export(run: RunPath, output: Annotated[str, typer.Option(help="New directory for the Parquet files")]) -> None:
    """Write the fused monthly vector of every user and item that a weekly or daily model has, for a server to look up.

    [dim]raytrain export runs/rolls/complete_journey/stages/actr-2017-10-01-1f0c9a2b --output vectors[/dim]
    """
    from pipelines.export_vectors import export_vectors

    export_vectors(run, output, console)
    console.print(f"wrote {output}", highlight=False)


@app.command()
def sweep(
    config: ConfigFile,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with this sweep; failed trials run again, more may be asked for")] = False,
) -> None:
    """Search a job's knobs on validation; the chosen trial alone is scored on the test split. Exits 1 if no trial finished or was scored.

    [dim]raytrain sweep tuning/sweeps/lcn.yaml num_trials=12[/dim]

    [dim]raytrain sweep tuning/sweeps/lcn.yaml num_trials=24 --resume[/dim]
    """
    from tuning.sweep import run_sweep

    if run_sweep(config, overrides or (), console, resume)["test"] is None:
        raise typer.Exit(1)


@app.command()
def bench(
    config: ConfigFile,
    overrides: Overrides = None,
    stages: Annotated[str, typer.Option(help="compute, parquet, and rayN for N workers")] = "compute,parquet,ray1,ray2",
    table_rows: Annotated[str, typer.Option(help="Total table rows to sweep over, e.g. 10000,10000000; generated data only")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Torch threads of a worker, in every stage")] = 1,
    rounds: Annotated[int | None, typer.Option(min=1, help="Times every stage is measured, in turn; 3, or 2 with --quick")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Training time of a stage in a round; 12, or 5 with --quick")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Measured steps of a stage, instead of seconds")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer, shorter rounds")] = False,
    output: Annotated[str, typer.Option(help="New directory for bench.json, bench.md and bench.png")] = "",
) -> None:
    """Measure one net in memory, from a plain Parquet loop, and through Ray with 1 and 2 workers.

    [dim]raytrain bench pipelines/configs/bench_din.yaml --table-rows 10000,100000,1000000,10000000[/dim]
    """
    from pipelines.bench import QUICK, BenchOptions, run_bench

    plain = QUICK if quick else BenchOptions()
    options = BenchOptions(stages, table_rows, threads, rounds or plain.num_rounds, seconds or plain.seconds, steps, output)
    if run_bench(config, overrides or [], options, console)["failed"]:
        raise typer.Exit(1)


def main() -> None:
    """Prints errors of ours without a traceback and exits 2."""
    try:
        app()
    except RaytrainError as err:
        Console(stderr=True, soft_wrap=True).print(f"error: {err}", style="red", markup=False, highlight=False)
        sys.exit(2)
