"""`python -m study submit`: runs a study as a job of a Ray cluster."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.options import (
    FAILED,
    TRACKING_PANEL,
    BoundMs,
    BudgetHours,
    BudgetPrice,
    HourPrice,
    Intermediates,
    Keep,
    KeepModels,
    NoBenchmark,
    Repeats,
    RetryCollapsed,
    RetryFailed,
    Seed,
    Sizes,
    Trials,
    check_budget,
    refuse,
    split_names,
    to_path_or_uri,
    to_source,
    to_text,
    to_uri,
)

if TYPE_CHECKING:
    from study.cluster.jobs import JobServer

JOB_PANEL = "Job"

Recipe = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="a built-in recipe, or path/to/file.py:function in the current folder",
        parser=to_path_or_uri,
    ),
]
Address = Annotated[
    str, typer.Option(metavar="URL", help="the cluster's job server", rich_help_panel=JOB_PANEL, parser=to_uri)
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="follow the job until it ends", rich_help_panel=JOB_PANEL)]
Status = Annotated[
    str | None,
    typer.Option(metavar="JOB", help="print a job's status, submit nothing", rich_help_panel=JOB_PANEL, parser=to_text),
]
Stop = Annotated[
    str | None,
    typer.Option(
        metavar="JOB", help="stop a job; submitted again, the study resumes", rich_help_panel=JOB_PANEL, parser=to_text
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="required: s3://, gs:// or az://BUCKET/PREFIX, or the absolute path of a folder that every node sees",
        rich_help_panel=TRACKING_PANEL,
        parser=to_source,
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI", help="MLflow store as the head reaches it", rich_help_panel=TRACKING_PANEL, parser=to_uri
    ),
]
DataRoot = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="folder of published data files, by its path on the nodes", parser=to_path_or_uri),
]


def submit(
    recipe: Recipe = None,
    address: Address = "http://127.0.0.1:8265",
    output: Output = None,
    tracking_uri: TrackingUri = None,
    data_root: DataRoot = None,
    trials: Trials = None,
    sizes: Sizes = None,
    intermediates: Intermediates = None,
    seed: Seed = None,
    repeats: Repeats = None,
    bound_ms: BoundMs = None,
    no_benchmark: NoBenchmark = False,
    retry_failed: RetryFailed = False,
    retry_collapsed: RetryCollapsed = False,
    keep: KeepModels = Keep.ALL,
    budget_hours: BudgetHours = None,
    budget_price: BudgetPrice = None,
    price: HourPrice = None,
    wait: Wait = True,
    status: Status = None,
    stop: Stop = None,
) -> None:
    """Run a study as a job of a Ray cluster; show or stop such a job.

    Uploads the current folder and runs the study in it on the cluster. The
    same command again resumes an interrupted study.

    Exit code: the job's own; 130 if somebody stopped it; 1 if the connection
    was lost, while the job may still run; 2 if nothing was submitted.
    """
    from study.cluster import jobs

    if [recipe, status, stop].count(None) != 2:
        refuse("give exactly one of RECIPE, --status JOB and --stop JOB")
    if recipe is not None and output is None:
        refuse(
            "--output is missing: give a bucket, or the absolute path of a folder that every node of the cluster sees"
        )
    check_budget(budget_price, price)
    options = (
        ("--output", output),
        ("--tracking-uri", tracking_uri),
        ("--data-root", data_root),
        ("--trials", trials),
        ("--sizes", sizes),
        ("--intermediates", intermediates),
        ("--seed", seed),
        ("--repeats", repeats),
        ("--bound-ms", bound_ms),
        ("--keep", None if keep is Keep.ALL else keep.value),
        ("--budget-hours", budget_hours),
        ("--budget-price", budget_price),
        ("--price", price),
    )
    try:
        if recipe is None:
            server, job = jobs.JobServer(address), status or stop or ""
            if stop is not None:
                server.stop(job)
        else:
            entrypoint = jobs.entrypoint_of(recipe, options) + ["--retry-failed"] * retry_failed
            entrypoint += ["--retry-collapsed"] * retry_collapsed + ["--no-benchmark"] * no_benchmark
            name = jobs.checked_name(
                recipe,
                trials=trials,
                sizes=split_names(sizes),
                intermediates=split_names(intermediates),
                seed=seed,
                repeats=repeats,
            )
            server = jobs.JobServer(address)
            job = _start(server, entrypoint, name)
            if wait:
                server.follow(job)
        document, end = server.describe(job), server.end_of(job)
    except jobs.CannotSubmit as error:
        refuse(str(error))
    except (jobs.ConnectionLost, KeyboardInterrupt) as error:
        print(str(error) or "no longer following the job, which continues", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    print(json.dumps(document), flush=True)
    if stop is None and end is not None and end.code:
        print(f"{job}: {end.status}: {end.message}", file=sys.stderr)
        raise typer.Exit(end.code)


def _start(server: JobServer, entrypoint: list[str], name: str) -> str:
    """Submit the study of the current folder, and say how to stop the job."""
    job = server.submit(entrypoint, name, Path.cwd())
    print(
        f"submitted {job}; to stop it: python -m study submit --stop {job} --address {server.address}", file=sys.stderr
    )
    return job
