"""``raytrain job``: the jobs of a Ray cluster."""

from typing import Annotated

import typer
from rich.console import Console

job_app = typer.Typer(no_args_is_help=True, help="Jobs of a Ray cluster that `raytrain submit` has sent: list, status, logs, stop.")
console = Console(soft_wrap=True)

JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id that `raytrain submit` printed")]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="URL", help="The cluster's dashboard; RAY_API_SERVER_ADDRESS or RAY_ADDRESS when left out, else http://127.0.0.1:8265"
    ),
]


@job_app.command("list")
def list_jobs(address: Address = None) -> None:
    """Jobs that were submitted to the cluster, oldest first."""
    from cluster.dashboard import address_of, connect
    from cluster.job_views import list_of

    console.print(list_of(connect(address_of(address)).states()), markup=False, highlight=False)


@job_app.command()
def status(job: JobId, address: Address = None) -> None:
    """Show whether a job waits, runs or how it ended."""
    from cluster.dashboard import address_of, connect
    from cluster.job_views import lines_of

    console.print(lines_of(connect(address_of(address)).state(job)), markup=False, highlight=False)


@job_app.command()
def logs(
    job: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job is over, and exit as it does")] = False,
) -> None:
    """Print what a job has printed so far."""
    from cluster.dashboard import address_of, connect
    from cluster.submit import follow as follow_job

    jobs = connect(address_of(address))
    if follow:
        raise typer.Exit(follow_job(jobs, job, console, address))
    console.out(jobs.state(job).hide(jobs.log(job)), end="", highlight=False)


@job_app.command()
def stop(
    job: JobId,
    address: Address = None,
    limit_s: Annotated[float, typer.Option(min=0.0, help="How long to wait until it is over")] = 60.0,
) -> None:
    """Stop a job and wait until it is over."""
    from cluster.dashboard import address_of, connect
    from cluster.job_views import ending

    console.print(ending(connect(address_of(address)).stop(job, limit_s)), markup=False, highlight=False)
