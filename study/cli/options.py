"""Options that several commands share, their checks, and the exit codes."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import urlsplit

import typer
from rich.console import Console

from study.redact import holds_password, redacted

if TYPE_CHECKING:
    from study.spec import Study

INVALID, FAILED = 2, 1  # exit codes: refused before any work; something failed and the rest finished
TRACKING_URI = "MLFLOW_TRACKING_URI"  # MLflow's own variable

RECIPE_PANEL, TRACKING_PANEL, CLUSTER_PANEL = "Overrides of the recipe", "Output and tracking", "Cluster"

console = Console(highlight=False, soft_wrap=True)

LONGEST_NAME = 255  # bytes of a file or folder name on Linux
LONGEST_TEXT = 4096  # bytes of a path on Linux
IN_MEMORY = ("sqlite://", "sqlite:///", "sqlite:///:memory:")


def not_empty(text: str) -> str:
    """The text itself.

    Raises:
        typer.BadParameter: it is empty, as an unset variable of a shell is.
    """
    if not text.strip():
        raise typer.BadParameter("is empty; is a variable of the shell unset?")
    return text


def to_text(text: str) -> str:
    """The text itself.

    Raises:
        typer.BadParameter: it is empty or very long, or has characters that no file or server takes.
    """
    not_empty(text)
    if len(text.encode(errors="replace")) > LONGEST_TEXT:
        raise typer.BadParameter(f"has more than {LONGEST_TEXT} bytes")
    if not text.isprintable():
        raise typer.BadParameter(f"{text!r} has unprintable characters")
    return text


def to_uri(text: str) -> str:
    """The URI of a store or cluster itself.

    Raises:
        typer.BadParameter: as for `to_text`, or it is not a valid URI, or of a database that ends with this process.
    """
    try:
        urlsplit(to_text(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a valid URI ({error})") from error
    _refuse_bucket(
        text, "a cluster or an MLflow store; a study's own MLflow database is filled from its bucket where it is read"
    )
    if text.partition("?")[0] in IN_MEMORY:
        raise typer.BadParameter(
            f"{text!r} is a database in memory, which would be lost; give a file: sqlite:////path/x.db"
        )
    return text


def to_path_or_uri(text: str) -> str:
    """The path, with or without a function or study after it, or the URI.

    Raises:
        typer.BadParameter: as for `to_path` or `to_uri`.
    """
    if "://" in text:
        return to_uri(text)
    to_path(text)
    return text


def to_source(text: str) -> str:
    """The path or URI, as for `to_path_or_uri`, or the URL of a bucket.

    Raises:
        typer.BadParameter: as for `to_path_or_uri` or `to_output`.
    """
    from trainables.store.bucket.location import is_url

    if not is_url(text):
        return to_path_or_uri(text)
    to_output(text)
    return text


def to_target(text: str) -> str:
    """The path or URI, as for `to_path_or_uri`, or the URL of something in a bucket, such as a stage.

    Raises:
        typer.BadParameter: as for `to_path_or_uri`, or the package for buckets is not installed.
    """
    from trainables.store.bucket.client import NEEDED
    from trainables.store.bucket.location import is_url

    if not is_url(text):
        return to_path_or_uri(text)
    if importlib.util.find_spec("obstore") is None:
        raise typer.BadParameter(NEEDED)
    return to_text(text)


def to_output(text: str) -> Path:
    """The output folder that an option names: a path, or the work folder of a bucket's URL.

    Raises:
        typer.BadParameter: as for `to_path`, or it is no prefix in a bucket, or the package for buckets is not installed.
    """
    from trainables.store.bucket.client import NEEDED
    from trainables.store.bucket.location import is_url, work_folder

    if not is_url(text):
        return to_path(text)
    if importlib.util.find_spec("obstore") is None:
        raise typer.BadParameter(NEEDED)
    try:
        return work_folder(to_text(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def to_path(text: str) -> Path:
    """The path that an option or argument names.

    Raises:
        typer.BadParameter: it is empty, as an unset variable of a shell is, or no file system could hold it; or it is a bucket
            or another address.
    """
    to_text(text)
    _refuse_bucket(text, "a path on this machine, and copy what is needed from the bucket")
    if "://" in text:  # as a path it would name folders like "file:" below the current one
        raise typer.BadParameter(f"{redacted(text)!r} is an address; give a path on this machine")
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in Path(text).parts):
        raise typer.BadParameter(f"has a name of more than {LONGEST_NAME} bytes")
    return Path(text)


def to_amount(text: str) -> float:
    """The hours or the money that an option names.

    Raises:
        typer.BadParameter: as for `to_text`, or it is no number above 0. With nothing to spend a run would still start trials,
            as no estimate can refuse them before a stage is finished; with free hours a budget of money would allow everything.
    """
    try:
        amount = float(to_text(text))
    except ValueError:
        amount = math.nan
    if not 0 < amount < math.inf:
        raise typer.BadParameter(f"{text!r}: give a number above 0, or leave the option out for no limit")
    return amount


def _refuse_bucket(text: str, needed: str) -> None:
    from trainables.store.bucket.location import is_url

    if is_url(text):
        raise typer.BadParameter(f"{text!r} is a bucket; give {needed}")


def read_bucket(output: Path, option: str, *, database: bool = False) -> None:
    """Bring the work folder of a study in a bucket up to date, and its MLflow `database` too; refused where that fails.

    Any other folder is left as it is. `option` named it.
    """
    from trainables.store.bucket.location import url_of

    if url_of(output) is None:
        return
    from study.run.bucket.reading import refresh, send_to_own
    from study.tracking.sync import TrackingUnavailable
    from trainables.store.bucket.client import StorageUnavailable

    try:
        if refresh(output) and database:
            send_to_own(output)
    except TrackingUnavailable as error:
        refuse(redacted(str(error)))
    except StorageUnavailable as error:
        refuse(redacted(f"{option} {error}"))


Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="a built-in recipe, or path/to/file.py:function", parser=to_path_or_uri)
]
BucketOrFolder = Annotated[
    Path, typer.Argument(metavar="DIR", help="output folder or bucket of a run", parser=to_output)
]
Trials = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="trials of each size", rich_help_panel=RECIPE_PANEL)
]
Sizes = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="only these sizes of the recipe", rich_help_panel=RECIPE_PANEL, parser=to_text),
]
Intermediates = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="only these intermediate choices of the recipe, and training without one",
        rich_help_panel=RECIPE_PANEL,
        parser=to_text,
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, metavar="N", help="random seed", rich_help_panel=RECIPE_PANEL)]
Repeats = Annotated[
    int | None,
    typer.Option(
        min=0, metavar="N", help="further seeds for the winners of each size; 0: none", rich_help_panel=RECIPE_PANEL
    ),
]
BudgetHours = Annotated[
    float | None,
    typer.Option(
        metavar="H",
        help="limit on the hours of all runs of the command, with repeats and benchmarks; a larger one continues",
        rich_help_panel=CLUSTER_PANEL,
        parser=to_amount,
    ),
]
BudgetPrice = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="the same limit in money, in the currency of --price",
        rich_help_panel=CLUSTER_PANEL,
        parser=to_amount,
    ),
]
HourPrice = Annotated[
    float | None,
    typer.Option(
        "--price",
        metavar="PRICE",
        help="price of a GPU-hour, or for sizes without GPUs of a core-hour; for --budget-price",
        rich_help_panel=CLUSTER_PANEL,
        parser=to_amount,
    ),
]
BoundMs = Annotated[
    float | None,
    typer.Option(
        min=0.001,
        metavar="MS",
        help="bound on p99 latency in the benchmark's Server scenario",
        rich_help_panel=RECIPE_PANEL,
    ),
]
NoBenchmark = Annotated[
    bool,
    typer.Option(
        "--no-benchmark",
        help="train and score, and time nothing; the command without it adds the benchmark later",
        rich_help_panel=RECIPE_PANEL,
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="read published data from this folder instead of the hub", parser=to_path),
]


class Keep(StrEnum):
    """Which models a run keeps."""

    ALL = "all"
    BEST = "best"


KeepModels = Annotated[
    Keep,
    typer.Option(
        "--keep",
        help="best: remove the models of all other trials once they are scored",
        rich_help_panel=TRACKING_PANEL,
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option("--retry-failed", help="run failed trials of earlier runs again, except those that diverged"),
]
RetryCollapsed = Annotated[
    bool,
    typer.Option(
        "--retry-collapsed",
        help="repeat trials that learned nothing on a target that others learned, with another seed",
    ),
]


def refuse(message: str) -> NoReturn:
    """Print one message to standard error and exit with INVALID."""
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(INVALID)


def load_study(
    recipe: str,
    *,
    trials: int | None,
    sizes: str | None,
    seed: int | None,
    repeats: int | None,
    intermediates: str | None = None,
    bound_ms: float | None = None,
    no_benchmark: bool = False,
) -> Study:
    """The recipe's study with the given changes; an invalid one is refused."""
    from study.errors import joined
    from study.recipes import UnknownRecipe, load_recipe
    from study.spec import InvalidStudy
    from trainables.data.source import DataError

    try:
        return load_recipe(recipe).replace(
            trials=trials,
            sizes=split_names(sizes),
            intermediates=split_names(intermediates),
            seed=seed,
            repeats=repeats,
            bound_ms=bound_ms,
            no_benchmark=no_benchmark,
        )
    except (UnknownRecipe, DataError) as error:
        refuse(str(error))
    except InvalidStudy as error:
        refuse(joined(error.errors))


def split_names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def use_data_root(folder: Path | None) -> None:
    """Put the data root into the environment, from where every worker gets it: it is not part of a study."""
    from trainables.data.source import DATA_ROOT_VARIABLE

    if folder is None:
        return
    if not folder.is_dir():
        refuse(f"--data-root {folder}: no such folder")
    os.environ[DATA_ROOT_VARIABLE] = str(folder.resolve())


def hide_password(uri: str | None) -> None:
    """Restart this process with a URI that holds a password moved from the command line into the environment.

    Every user of the machine can see a command line, and Ray stores it as the job's.
    """
    if uri is None or not holds_password(uri):
        return
    arguments = sys.argv[1:]
    for position, argument in enumerate(arguments):
        if argument == "--tracking-uri":
            del arguments[position : position + 2]
        elif argument.startswith("--tracking-uri="):
            del arguments[position]
        else:
            continue
        os.environ[TRACKING_URI] = uri
        os.execv(sys.executable, [sys.executable, "-m", "study", *arguments])


def check_budget(budget_price: float | None, price: float | None) -> None:
    """Refuse a budget of money without the price of an hour, and the other way round."""
    if (budget_price is None) != (price is None):
        refuse("--budget-price and --price: give both, what the study may cost and what an hour does, or neither")
