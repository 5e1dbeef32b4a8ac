"""`python -m study plan`: what a study would run and cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.options import (
    DataRoot,
    Intermediates,
    NoBenchmark,
    Recipe,
    Repeats,
    Seed,
    Sizes,
    Trials,
    console,
    load_study,
    read_bucket,
    refuse,
    to_output,
    to_source,
    use_data_root,
)
from study.redact import redacted

if TYPE_CHECKING:
    from study.spec import Study

Price = Annotated[
    float | None, typer.Option(min=0.0, metavar="PRICE", help="price per GPU-hour, in any currency; adds the cost")
]
Detect = Annotated[
    float | None,
    typer.Option(
        min=0.01,
        max=100.0,
        metavar="POINTS",
        help="adds the seeds and test examples that it takes to tell such a gain from zero",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="RUN",
        help="with --detect: an earlier run whose spread to take: a folder, bucket, URI, URI#name or saved file; default: "
        "MicroXTREME's",
        parser=to_source,
    ),
]


Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="output folder of the recipe's run: adds the speeds measured before its search, and the best dev scores so far",
        parser=to_output,
    ),
]


def plan(
    recipe: Recipe,
    data_root: DataRoot = None,
    trials: Trials = None,
    sizes: Sizes = None,
    intermediates: Intermediates = None,
    seed: Seed = None,
    repeats: Repeats = None,
    no_benchmark: NoBenchmark = False,
    price: Price = None,
    detect: Detect = None,
    earlier: From = None,
    output: Output = None,
) -> None:
    """Show what would run and what it would cost; starts nothing.

    Prints sizes and parameters, memory, trials, shared stages and GPU-hours:
    as tables where the terminal is wide enough for them.
    """
    from study.planning.plan import render_plan

    if earlier is not None and detect is None:
        refuse("--from needs --detect POINTS")
    use_data_root(data_root)
    study = load_study(
        recipe,
        trials=trials,
        sizes=sizes,
        intermediates=intermediates,
        seed=seed,
        repeats=repeats,
        no_benchmark=no_benchmark,
    )
    console.print(render_plan(study, price=price), soft_wrap=False)
    if output is not None:
        _print_front(study, output)
    if detect is not None:
        _print_detection(study, detect, earlier)


def _print_front(study: Study, output: Path) -> None:
    from study.benchmarking.front_so_far import stored_front_line
    from study.search.journal import TrialStoreBroken
    from trainables.store.bucket.location import shown

    read_bucket(output, "--output")
    try:
        line = stored_front_line(study, output)
    except (OSError, TrialStoreBroken) as error:
        refuse(redacted(f"--output {shown(output)}: {error}"))
    nothing = (
        f"{shown(output)}: no speed was measured before a search there; a recipe asks for it with "
        "BenchmarkPlan(early=True)"
    )
    console.print(redacted(line or nothing), markup=False)


def _print_detection(study: Study, points: float, earlier: str | None) -> None:
    from study.planning.detection import DEFAULT_SPREADS, render_detection, spreads_of
    from study.run.bucket.reading import readable
    from study.run.report import load_study_frames
    from study.tracking.sync import TrackingUnavailable
    from trainables.store.bucket.client import StorageUnavailable

    try:
        of = DEFAULT_SPREADS if earlier is None else spreads_of(load_study_frames(readable(earlier)), redacted(earlier))
    except (ValueError, TrackingUnavailable, StorageUnavailable) as error:
        refuse(redacted(str(error)))
    console.print(render_detection(study, points, of), soft_wrap=False)
