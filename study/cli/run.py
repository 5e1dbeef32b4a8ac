"""`python -m study run`: runs a study on this machine or on a cluster."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.interrupts import interruptible
from study.cli.options import (
    CLUSTER_PANEL,
    FAILED,
    TRACKING_PANEL,
    TRACKING_URI,
    BoundMs,
    BudgetHours,
    BudgetPrice,
    DataRoot,
    HourPrice,
    Intermediates,
    Keep,
    KeepModels,
    NoBenchmark,
    Recipe,
    Repeats,
    RetryCollapsed,
    RetryFailed,
    Seed,
    Sizes,
    Trials,
    check_budget,
    hide_password,
    load_study,
    read_bucket,
    refuse,
    to_output,
    to_uri,
    use_data_root,
)
from study.redact import redacted

if TYPE_CHECKING:
    from study.run.driver import RunOptions, RunResult
    from study.spec import Study

LONGEST_FOLDER = 480  # bytes: SQLite refuses paths of more than 512, and adds a suffix for its journal

Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="folder for stages, results and report, or s3://, gs:// or az://BUCKET/PREFIX; default: runs/STUDY",
        rich_help_panel=TRACKING_PANEL,
        parser=to_output,
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        envvar=TRACKING_URI,
        help="MLflow store; default: SQLite in the output folder",
        rich_help_panel=TRACKING_PANEL,
        parser=to_uri,
    ),
]
Offline = Annotated[
    bool,
    typer.Option(
        show_default=False,
        help="do not call MLflow; keep results for a later run or sync",
        rich_help_panel=TRACKING_PANEL,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="RAY",
        help="an existing Ray cluster; default: Ray on this machine",
        rich_help_panel=CLUSTER_PANEL,
        parser=to_uri,
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch", help="serve the report on 127.0.0.1 while the study runs", show_default=False)
]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, metavar="PORT", help="port of --watch; default: 8765, or a free one")
]


def run(
    recipe: Recipe,
    output: Output = None,
    tracking_uri: TrackingUri = None,
    offline: Offline = False,
    data_root: DataRoot = None,
    trials: Trials = None,
    sizes: Sizes = None,
    intermediates: Intermediates = None,
    seed: Seed = None,
    repeats: Repeats = None,
    bound_ms: BoundMs = None,
    no_benchmark: NoBenchmark = False,
    address: Address = None,
    retry_failed: RetryFailed = False,
    retry_collapsed: RetryCollapsed = False,
    keep: KeepModels = Keep.ALL,
    watch: Watch = False,
    port: Port = None,
    budget_hours: BudgetHours = None,
    budget_price: BudgetPrice = None,
    price: HourPrice = None,
) -> None:
    """Run a study; the same command resumes an interrupted one.

    Progress goes to standard error. The last line on standard output is a
    JSON document of the results.

    Exit code: 0; 1 if an encoder, trial or benchmark failed and the rest
    finished, or storage failed; 2 if the study was refused before any work;
    130 or 143 if it was interrupted.
    """
    with interruptible():
        hide_password(tracking_uri)
        check_budget(budget_price, price)
        use_data_root(data_root)
        load = partial(
            load_study,
            recipe,
            trials=trials,
            sizes=sizes,
            intermediates=intermediates,
            seed=seed,
            repeats=repeats,
            bound_ms=bound_ms,
            no_benchmark=no_benchmark,
        )
        if output is not None:
            read_bucket(output, "--output")  # its `study.json` says how the study is built
        study, folder = study_and_folder(load, output)
        check_output(folder)
        from study.run.driver import RunOptions

        options = RunOptions(
            folder,
            tracking_uri=tracking_uri,
            address=address,
            offline=offline,
            retry_failed=retry_failed,
            retry_collapsed=retry_collapsed,
            recipe=recipe,
            keep_best=keep is Keep.BEST,
            budget_hours=budget_hours,
            budget_price=budget_price,
            price=price,
        )
        with _watched(folder, port) if watch else nullcontext():
            result = _run(study, options)
    print(json.dumps(result.document), flush=True)
    if result.failures:
        for line in result.failures:
            print(f"failed: {redacted(line)}", file=sys.stderr)
        raise typer.Exit(FAILED)


@contextmanager
def _watched(folder: Path, port: int | None) -> Iterator[None]:
    """Serve the folder's page during the block, and say where."""
    from study.watch.child import WatchFailed, watched

    try:
        with watched(folder, port) as url:
            print(f"watch: {url}", file=sys.stderr, flush=True)
            yield
    except WatchFailed as error:
        refuse(str(error))


def study_and_folder(load: Callable[[], Study], output: Path | None) -> tuple[Study, Path]:
    """The recipe's study, with the precision of the one that its folder holds, and the folder: by default the study's name."""
    from study.spec.precision import resumed_precision

    if output is None:
        study = load()
        output = Path("runs") / study.name
        if not output.exists():
            return study, output
    with resumed_precision(output):
        return load(), output


def _run(study: Study, options: RunOptions) -> RunResult:
    from study.errors import CannotRun, StorageFailed
    from study.run.driver import run_study
    from study.search.journal import TrialStoreBroken
    from study.tracking.sync import TrackingUnavailable
    from trainables.data.source import DataError

    try:
        return run_study(study, options)
    except (CannotRun, DataError, TrialStoreBroken, TrackingUnavailable) as error:
        refuse(redacted(str(error)))
    except (StorageFailed, OSError) as error:
        failure = error if isinstance(error, StorageFailed) else as_storage_failure(error, options.output)
        print(f"error: {redacted(str(failure))}", file=sys.stderr)
        raise typer.Exit(FAILED) from error


def as_storage_failure(error: OSError, output: Path) -> Exception:
    """The error as a failure of the output folder; raised unchanged if the folder is in order."""
    from study.errors import StorageFailed, storage_problem

    problem = storage_problem(error, output)
    if problem is None:
        raise error
    return StorageFailed(problem, output)


def _unfit_for_sqlite(folder: Path) -> str | None:
    """Why the address of the folder's SQLite database could not be written as a URI, or its file not be opened."""
    if found := sorted({"?", "#", "%"} & set(str(folder))):
        return f"the path contains {' and '.join(found)}, which the address of a database cannot"
    if len(os.fsencode(folder)) > LONGEST_FOLDER:
        size = len(os.fsencode(folder))
        return f"the path has {size} bytes, and SQLite opens no database in one of more than {LONGEST_FOLDER}"
    return None


def check_output(folder: Path) -> None:
    """Refuse a folder that cannot be created: its nearest existing ancestor must be a writable folder."""
    if problem := _unfit_for_sqlite(folder.absolute()):
        refuse(f"--output {folder}: {problem}; choose another folder")
    ancestor = folder.absolute()
    while not ancestor.exists():
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        refuse(f"--output {folder}: {ancestor} is a file; choose another folder")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        refuse(f"--output {folder}: no permission to write in {ancestor}; choose another folder")
