"""Commands that look at a machine or a cluster, write one down, or send a job there."""

import json
import os
import sys
from typing import Annotated

import typer
from rich.console import Console

from raytrain.job_cli import Address
from raytrain.job_request import check_config, request_of

cluster_app = typer.Typer()
console = Console(soft_wrap=True)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, e.g. training.epochs=3")]
ConfigFile = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file")]
ClusterFile = Annotated[str, typer.Argument(metavar="CLUSTER", help="YAML file of a cluster")]
ClusterOverrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override of the cluster, e.g. train.max=8")]


@cluster_app.command()
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


@cluster_app.command()
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


@cluster_app.command()
def kuberay(
    context: typer.Context,
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
    job = None
    if command:
        request = request_of(context.find_root().command, command, "raytrain kuberay CLUSTER --")
        check_config(request)
        job = job_command(config, request)
    if job is not None and job.warning is not None:
        Console(stderr=True, soft_wrap=True).print(f"warning: {job.warning}", style="yellow", markup=False, highlight=False)
    typer.echo(to_yaml(*([ray_cluster(config)] if job is None else ray_job(config, job))), nl=False)


@cluster_app.command()
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


@cluster_app.command(context_settings={"allow_interspersed_args": False})
def submit(
    context: typer.Context,
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
    request = request_of(context.find_root().command, arguments, "raytrain submit --")
    check_config(request)
    raise typer.Exit(submit_job(request, options, os.environ, console))
