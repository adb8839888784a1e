"""The ``raytrain`` command: parse -> config -> one library call."""

import json
import os
import sys
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from raytrain.errors import ConfigError, RaytrainError
from raytrain.job_cli import Address, job_app
from raytrain.settings import nearest

if TYPE_CHECKING:
    from cluster.submission import Request

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Cross-domain advertising and recommendation models on Ray and TorchRec.",
)
app.add_typer(job_app, name="job")
console = Console(soft_wrap=True)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. training.epochs=3")]
ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file")]
RunPath = Annotated[str, typer.Argument(metavar="RUN", help="Run directory: a path or a URI")]
Split = Annotated[str, typer.Option(help="train, valid or test")]
ClusterFile = Annotated[str, typer.Argument(metavar="CLUSTER", help="YAML file of a cluster")]
ClusterOverrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override of the cluster, e.g. train.max=8")]
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
    from pipelines.study_of_rolls import is_study_of_rolls, run_study_of_rolls

    if is_study_of_rolls(config):
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
    first: Annotated[str | None, typer.Option("--from", metavar="DATE", help="First day to serve; the calendar's when left out")] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="DATE", help="Last day to serve, itself included")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="An arm to roll beside the chain; else all, none with 'arms={}'")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print every stage and its state; train nothing")] = False,
) -> None:
    """Train the monthly, weekly and daily models that a span of days needs, each once; resumable.

    [dim]raytrain roll pipelines/rolls/complete_journey.yaml --dry-run[/dim]

    [dim]raytrain roll pipelines/rolls/complete_journey.yaml --from 2017-08-07 --to 2017-08-13 'arms={}' 'seeds=[0, 1]'[/dim]
    """
    from pipelines.roll import run_roll
    from pipelines.roll_dry_run import show_plan

    span = (day_of(first, "--from"), day_of(last, "--to"))
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


@app.command()
def doctor(
    config: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="YAML file; the machine alone when left out")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables")] = False,
) -> None:
    """Check the machine and, with a job's config, whether a run of it would work; exits 2 if not.

    [dim]raytrain doctor pipelines/configs/movielens_din.yaml scaling.num_workers=2[/dim]
    """
    from cluster.checks import has_failed, json_of, table_of
    from cluster.doctor import diagnose

    parts = []
    tables = Console(width=None if sys.stdout.isatty() else 160)
    for part in diagnose(config, overrides or ()):
        parts.append(part)
        if not as_json:
            tables.print(table_of(part))
    if as_json:
        console.print_json(json.dumps(json_of(parts)))
    if has_failed(parts):
        raise typer.Exit(2)


@app.command()
def plan(
    config: ConfigFile,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Workers; the config's when left out")] = None,
    memory: Annotated[float | None, typer.Option(metavar="GIB", min=0.1, help="Memory of each worker's machine, and the driver's")] = None,
    gpu_memory: Annotated[float | None, typer.Option(metavar="GIB", min=0.1, help="Of each worker's GPU; scaling.use_gpu=true")] = None,
    rows_target: Annotated[float | None, typer.Option(min=1, help="Training rows of the target, e.g. 2e9; else the data's")] = None,
    rows_source: Annotated[float | None, typer.Option(min=1, help="Training rows of the source, e.g. 18e9")] = None,
    row_groups: Annotated[float | None, typer.Option(min=1, help="Row groups of all of them, e.g. 1e7")] = None,
    files: Annotated[float | None, typer.Option(min=1, help="Files that these are in, e.g. 1e5")] = None,
    table: Annotated[list[str] | None, typer.Option(metavar="NAME=ROWS", help="Rows of a table, e.g. item=1e9")] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Samples/s that you measured of one worker")] = None,
    efficiency: Annotated[float | None, typer.Option(min=0.01, max=1, help="Of more workers than one; 0.8 is assumed")] = None,
    upload: Annotated[float | None, typer.Option(metavar="MIB/S", min=0.1, help="Of one worker into your storage")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead of tables")] = False,
) -> None:
    """Size a job for a cluster: memory, traffic, checkpoints, time, with the arithmetic; exits 2 if it does not fit.

    [dim]raytrain plan pipelines/configs/movielens_lcn.yaml --workers 2 --memory 4[/dim]

    LCN's paper has 18 B source and 2 B target samples; here with 10^7 row groups in 10^5 files, on 64 workers of 8 GiB:

    [dim]raytrain plan pipelines/configs/plan_lcn.yaml --rows-target 2e9 --rows-source 18e9 --row-groups 1e7 --files 1e5
    --workers 64 --memory 8[/dim]
    """
    from cluster.data_size import sizes_of
    from cluster.plan import assumed_of, plan_job
    from cluster.plan_lines import json_of, tables_of, verdict
    from raytrain.machine import GIB

    found = plan_job(
        config,
        overrides or (),
        workers,
        None if memory is None else int(memory * GIB),
        sizes_of(rows_target, rows_source, row_groups, files, table or ()),
        assumed_of(rate, efficiency, upload),
        gpu_memory=None if gpu_memory is None else int(gpu_memory * GIB),
    )
    if as_json:
        console.print_json(json.dumps(json_of(found)))
    else:
        tables = Console(width=None if sys.stdout.isatty() else 160)
        for one in tables_of(found):
            tables.print(one)
        console.print(verdict(found), style="green" if found.fits else "bold red", markup=False, highlight=False)
    if not found.fits:
        raise typer.Exit(2)


@app.command()
def kuberay(
    cluster: ClusterFile,
    command: Annotated[list[str] | None, typer.Argument(metavar="[-- train CONFIG KEY=VALUE ...]", help="The job of a RayJob")] = None,
    overrides: ClusterOverrides = None,
) -> None:
    """Print a KubeRay manifest: a RayCluster, or with a command a RayJob that is checked against the cluster. CONFIG is checked
    here and goes along in a ConfigMap.

    [dim]raytrain kuberay cluster/clusters/cpu.yaml | kubectl apply -f -[/dim]

    [dim]raytrain kuberay cluster/clusters/cpu.yaml --set name=first -- train pipelines/configs/movielens_din.yaml
    data.path=/shared/data/movielens run.storage_path=/shared/runs scaling.num_workers=2 | kubectl create -f -[/dim]
    """
    from cluster.config import load_cluster
    from cluster.job_command import job_command
    from cluster.kuberay import ray_cluster, ray_job, to_yaml

    config = load_cluster(cluster, overrides or ())
    job = job_command(config, request_of(command, "raytrain kuberay CLUSTER --")) if command else None
    if job is not None and job.warning is not None:
        Console(stderr=True, soft_wrap=True).print(f"warning: {job.warning}", style="yellow", markup=False, highlight=False)
    typer.echo(to_yaml(*([ray_cluster(config)] if job is None else ray_job(config, job))), nl=False)


@app.command()
def launcher(
    cluster: ClusterFile,
    provider: Annotated[str, typer.Option(help="aws or gcp")],
    overrides: ClusterOverrides = None,
) -> None:
    """Print the file that Ray's cluster launcher makes the same cluster from, on machines without Kubernetes.

    [dim]raytrain launcher cluster/clusters/gpu_spot.yaml --provider aws > cluster.yaml && ray up cluster.yaml[/dim]
    """
    from cluster.config import load_cluster
    from cluster.kuberay import to_yaml
    from cluster.launcher import header, launcher_config

    config = load_cluster(cluster, overrides or ())
    typer.echo(header(config) + to_yaml(launcher_config(config, provider)), nl=False)


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    arguments: Annotated[list[str], typer.Argument(metavar="-- COMMAND [ARGUMENT]...", help="What would be typed here after `raytrain`")],
    address: Address = None,
    name: Annotated[str | None, typer.Option(help="What the job's id begins with; the command and its config when left out")] = None,
    env: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A variable of this shell that the job gets; no other goes along")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Print the job's id and end; the job goes on")] = False,
    limit_mib: Annotated[float, typer.Option(min=0.0, help="Largest working tree that is sent, before compression")] = 64.0,
) -> None:
    """Run train, roll, sweep, study, prepare, evaluate or predict on a Ray cluster; exits as the job does.

    [dim]raytrain submit -- train pipelines/configs/movielens_din.yaml data.path=s3://bucket/movielens run.storage_path=s3://bucket/runs[/dim]

    [dim]raytrain submit --address http://head:8265 --env AWS_ACCESS_KEY_ID --env AWS_SECRET_ACCESS_KEY --detach -- roll ROLL.yaml[/dim]

    The working tree goes along: what git has or would add, without data/, runs/ and files of secrets. Ctrl-C leaves the job running.

    Ray keeps the command, the log and the values of --env, unencrypted, gives them to whoever reaches the dashboard, and writes the
    values to its logs on the nodes; raytrain shows and writes none. Where nodes have a role (an instance profile), pass no keys at all.
    """
    from cluster.submit import SubmitOptions
    from cluster.submit import submit as submit_job

    options = SubmitOptions(address, name, tuple(env or ()), detach, limit_mib)
    raise typer.Exit(submit_job(request_of(arguments), options, os.environ, console))


def request_of(arguments: list[str], before: str = "raytrain submit --") -> "Request":
    """A command line as its own command understands it, so that a wrong option is said before a job waits for its turn."""
    from cluster.submission import Request

    command, *rest = arguments
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if command not in known:
        raise ConfigError(f"A job is a command of raytrain. Received: {command}. {nearest(command, known)}")
    params = known[command].make_context(f"{before} {command}", list(rest)).params
    paths = [(name, path) for name, key in (("--output", "output"), ("--input", "data")) if (path := params.get(key))]
    paths += [("--baseline", path) for path in params.get("baseline") or ()]
    subject = params.get("config") or params.get("run") or ""
    return Request(command, tuple(rest), subject, tuple(params.get("overrides") or ()), tuple(paths))


def day_of(text: str | None, option: str) -> date | None:
    """A date of the command line."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} has to be a date. Received: {text}. Write it like 2017-10-01.") from None


def main() -> None:
    """Prints errors of ours without a traceback and exits 2."""
    try:
        app()
    except RaytrainError as err:
        Console(stderr=True, soft_wrap=True).print(f"error: {err}", style="red", markup=False, highlight=False)
        sys.exit(2)
