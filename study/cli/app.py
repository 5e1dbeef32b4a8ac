"""The command line: `python -m study`, and the console script `xstilts`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console

from study.cli.bench import bench
from study.redact import holds_password, redacted

if TYPE_CHECKING:
    from study.spec import Study

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(highlight=False, soft_wrap=True)
PLAN_COLUMNS = 170
TRACKING_URI = "MLFLOW_TRACKING_URI"  # MLflow's own variable

INVALID, FAILED = 2, 1  # exit codes: bad input before any work; a trial failed while the rest finished

Recipe = Annotated[str, typer.Argument(help="a built-in recipe, or path/to/file.py:function")]
Trials = Annotated[int | None, typer.Option(min=1, help="trials a size, instead of the recipe's")]
Sizes = Annotated[str | None, typer.Option(help="only these sizes of the recipe: a,b")]
DataRoot = Annotated[Path | None, typer.Option(help="folder of published data files; without it the hub is read")]
Seed = Annotated[int | None, typer.Option(min=0, help="seed, instead of the recipe's")]
Again = Annotated[int | None, typer.Option("--repeats", min=0, help="further seeds of each size's winners; 0: none")]
BoundMs = Annotated[
    float | None, typer.Option(min=0.001, help="bound on the benchmark's p99 under load, instead of the recipe's")
]


@app.command()
def run(
    recipe: Recipe,
    output: Annotated[Path | None, typer.Option(help="folder of stages, MLflow store and report; runs/<study>")] = None,
    tracking_uri: Annotated[
        str | None, typer.Option(envvar=TRACKING_URI, help="MLflow store; SQLite in the output folder")
    ] = None,
    offline: Annotated[bool, typer.Option(help="do not call MLflow: keep everything for a later run, or sync")] = False,
    data_root: DataRoot = None,
    trials: Trials = None,
    sizes: Sizes = None,
    seed: Seed = None,
    repeats: Again = None,
    bound_ms: BoundMs = None,
    address: Annotated[str | None, typer.Option(help="a Ray cluster; one of our own on this machine")] = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="try failed trials of earlier runs again, but for those that diverged"),
    ] = False,
) -> None:
    """Run a study, or go on with it: the same command again resumes. The last line on standard output is JSON."""
    _hide_password(tracking_uri)
    use_data_root(data_root)
    study = _study(recipe, trials=trials, sizes=sizes, seed=seed, repeats=repeats, bound_ms=bound_ms)
    folder = output or Path("runs") / study.name
    _check_output(folder)
    from study.errors import CannotRun
    from study.errors import StorageFailed
    from study.run.driver import Where, run_study
    from study.search.trial_store import LedgerBroken
    from study.tracking.tracker import TrackingUnavailable
    from trainables.data.source import DataError

    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))  # a stopped job has seconds to end tidily
    try:
        outcome = run_study(study, Where(folder, tracking_uri, address, offline), retry_failed=retry_failed)
    except (CannotRun, DataError, LedgerBroken, TrackingUnavailable) as error:
        refuse(redacted(str(error)))
    except (StorageFailed, OSError) as error:
        failed = error if isinstance(error, StorageFailed) else _as_storage_failure(error, folder)
        print(f"error: {redacted(str(failed))}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    except (KeyboardInterrupt, SystemExit) as error:
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        print("interrupted: what is finished is kept; the same command goes on", file=sys.stderr, flush=True)
        os._exit(128 + number)  # at once: threads of searches still wait for Ray
    print(json.dumps(outcome.document), flush=True)
    if outcome.failed:
        for line in outcome.failed:
            print(f"failed: {redacted(line)}", file=sys.stderr)
        raise typer.Exit(FAILED)


def _as_storage_failure(error: OSError, output: Path) -> Exception:
    """The error as one of the output folder; raised as it is where the folder is in order."""
    from study.errors import StorageFailed, storage_problem

    problem = storage_problem(error, output)
    if problem is None:
        raise error
    return StorageFailed(problem, output)


@app.command()
def submit(
    recipe: Annotated[
        str | None, typer.Argument(help="a built-in recipe, or path/to/file.py:function in this folder")
    ] = None,
    address: Annotated[str, typer.Option(help="the cluster's job server")] = "http://127.0.0.1:8265",
    output: Annotated[str | None, typer.Option(help="folder that every node sees, by its path there")] = None,
    tracking_uri: Annotated[str | None, typer.Option(help="MLflow store, as the head reaches it")] = None,
    data_root: Annotated[
        str | None, typer.Option(help="folder of published data files, by its path on the nodes")
    ] = None,
    trials: Trials = None,
    sizes: Sizes = None,
    seed: Seed = None,
    repeats: Again = None,
    bound_ms: BoundMs = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="as of run")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="follow the job, and end as it does")] = True,
    status: Annotated[str | None, typer.Option(metavar="JOB", help="only say how a job is")] = None,
    stop: Annotated[
        str | None, typer.Option(metavar="JOB", help="only stop a job; submitted again, it resumes")
    ] = None,
) -> None:
    """Run a study as a job of a cluster: `run` over there. Exit code: the job's own; 130 if somebody stopped it."""
    from study.cluster import jobs as submission

    if len([one for one in (recipe, status, stop) if one is not None]) != 1:
        refuse("one of RECIPE, --status JOB and --stop JOB")
    try:
        if recipe is not None:
            if output is None:
                refuse("--output: where the study goes, an absolute path that every node of the cluster sees")
            options = (
                ("--output", output),
                ("--tracking-uri", tracking_uri),
                ("--data-root", data_root),
                ("--trials", trials),
                ("--sizes", sizes),
                ("--seed", seed),
                ("--repeats", repeats),
                ("--bound-ms", bound_ms),
            )
            entrypoint = submission.entrypoint_of(recipe, options) + ["--retry-failed"] * retry_failed
            name = submission.checked_name(recipe, trials=trials, sizes=_names(sizes), seed=seed, repeats=repeats)
            server = submission.JobServer(address)
            job = server.submit(entrypoint, name, Path.cwd())
            print(
                f"submitted {job}; stop it with: python -m study submit --stop {job} --address {address}",
                file=sys.stderr,
            )
            if wait:
                server.follow(job)
        else:
            server, job = submission.JobServer(address), status or stop or ""
            if stop is not None:
                server.stop(job)
        known, ended = server.describe(job), server.ended(job)
    except submission.CannotSubmit as error:
        refuse(str(error))
    except (submission.ConnectionLost, KeyboardInterrupt) as error:
        print(str(error) or "no longer followed; the job goes on", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    print(json.dumps(known), flush=True)
    if stop is None and ended is not None and ended.code:
        print(f"{job}: {ended.status}: {ended.message}", file=sys.stderr)
        raise typer.Exit(ended.code)


@app.command()
def plan(
    recipe: Recipe,
    data_root: DataRoot = None,
    trials: Trials = None,
    sizes: Sizes = None,
    seed: Seed = None,
    repeats: Again = None,
    price: Annotated[float | None, typer.Option(min=0.0, help="of a GPU-hour, in any currency")] = None,
) -> None:
    """What would run: sizes, parameters, trials, stages shared and not. Starts nothing."""
    from study.planning.tables import render_plan

    use_data_root(data_root)
    wide = Console(highlight=False, width=max(console.width, PLAN_COLUMNS))  # a narrower table would cut its numbers
    wide.print(render_plan(_study(recipe, trials=trials, sizes=sizes, seed=seed, repeats=repeats), price=price))


@app.command()
def report(
    source: Annotated[str, typer.Argument(metavar="DIR_OR_URI", help="a run's output folder, or an MLflow URI")],
    experiment: Annotated[str | None, typer.Option(help="the study's name, where the store holds several")] = None,
    to: Annotated[Path | None, typer.Option(help="file to write; report.html in the folder")] = None,
    budget: Annotated[str | None, typer.Option(help='what to stay within, such as "p50_ms<=15"')] = None,
    compare: Annotated[str | None, typer.Option(metavar="OTHER", help="another study: folder, URI or URI#name")] = None,
    attach: Annotated[bool, typer.Option(help="attach it to the study's MLflow experiment")] = True,
) -> None:
    """Write the report from what MLflow holds, its charts as SVG and PNG and its tables as CSV and LaTeX beside it."""
    from study.run.report import NoStudy, report_on

    try:
        written = report_on(source, experiment, to=to, budget=budget, compare=compare, attach=attach)
    except NoStudy as error:
        refuse(redacted(str(error)))
    console.print(str(written))


@app.command()
def sync(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a run's output folder")],
    tracking_uri: Annotated[
        str | None, typer.Option(envvar=TRACKING_URI, help="MLflow store; the one that the run was meant for")
    ] = None,
    again: Annotated[bool, typer.Option(help="everything, to a store that lost some of it; doubles nothing")] = False,
) -> None:
    """Send what MLflow lacks of a run: written while it was away, or with --offline. Also to another store."""
    from study.tracking.tracker import TrackingUnavailable, send

    _hide_password(tracking_uri)
    try:
        complete = send(folder, tracking_uri, again=again, say=console.print)
    except TrackingUnavailable as error:
        refuse(str(error))
    if not complete:
        raise typer.Exit(FAILED)


@app.command()
def ui(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a run's output folder")],
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
) -> None:
    """MLflow's UI over a run's store, on 127.0.0.1."""
    from study.tracking.tracker import default_uri

    if not (folder / "mlflow.db").is_file():
        refuse(f"{folder}: no mlflow.db; give the output folder of a run")
    arguments = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", default_uri(folder)]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    console.print(f"http://127.0.0.1:{port}")
    os.execv(sys.executable, arguments)


@app.command()
def tasks(data_root: DataRoot = None) -> None:
    """Every task: head, role, languages, metric, source; with a data root, what of it is there and what is missing."""
    from study.cli.task_table import render_tasks

    use_data_root(data_root)
    console.print(render_tasks())


@app.command()
def doctor() -> None:
    """Check what a study needs; each line is ok or says how to mend it."""
    from study.cli.doctor import examine

    findings = list(examine(say=console.print))
    raise typer.Exit(FAILED if any(not finding.ok for finding in findings) else 0)


app.command()(bench)


def refuse(message: str) -> NoReturn:
    """One clear message on standard error and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(INVALID)


def _study(
    recipe: str,
    *,
    trials: int | None,
    sizes: str | None,
    seed: int | None,
    repeats: int | None,
    bound_ms: float | None = None,
) -> Study:
    from study.recipes import UnknownRecipe, load_recipe
    from study.spec import InvalidStudy
    from trainables.data.source import DataError

    try:
        return load_recipe(recipe).replace(
            trials=trials, sizes=_names(sizes), seed=seed, repeats=repeats, bound_ms=bound_ms
        )
    except (UnknownRecipe, DataError) as error:
        refuse(str(error))
    except InvalidStudy as error:
        refuse("\nerror: ".join(error.errors))


def _names(sizes: str | None) -> tuple[str, ...] | None:
    return None if sizes is None else tuple(name.strip() for name in sizes.split(",") if name.strip())


def use_data_root(folder: Path | None) -> None:
    """Where data files lie is no part of a study: it goes into the environment, and from there to every worker."""
    from trainables.data.source import DATA_ROOT_VARIABLE

    if folder is None:
        return
    if not folder.is_dir():
        refuse(f"--data-root {folder}: no such folder")
    os.environ[DATA_ROOT_VARIABLE] = str(folder.resolve())


def _hide_password(uri: str | None) -> None:
    """Start again with a URI that holds a password in the environment: every user of the machine sees a command line, and Ray
    keeps it as the job's."""
    if uri is None or not holds_password(uri):
        return
    given = [*sys.argv[1:]]
    for place, argument in enumerate(given):
        if argument == "--tracking-uri":
            del given[place : place + 2]
        elif argument.startswith("--tracking-uri="):
            del given[place]
        else:
            continue
        os.environ[TRACKING_URI] = uri
        os.execv(sys.executable, [sys.executable, "-m", "study", *given])


def _check_output(folder: Path) -> None:
    """The nearest existing ancestor must be a writable folder."""
    ancestor = folder.absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        refuse(f"--output {folder}: {ancestor} is a file")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        refuse(f"--output {folder}: no right to write in {ancestor}")


def main() -> None:
    """Entry point of the console script."""
    app()
