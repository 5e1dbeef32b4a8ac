"""`python -m study bench`: times serving variants of a study's models, of a checkpoint, or of an architecture."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from study.cli.bench_target import (
    Request,
    fetched,
    is_published,
    refuse_missing_folder,
    settings_of,
    study_of,
    subject_of,
    variants_of,
)
from study.cli.options import (
    FAILED,
    DataRoot,
    read_bucket,
    refuse,
    split_names,
    to_output,
    to_path_or_uri,
    to_target,
    to_text,
    use_data_root,
)
from study.redact import redacted

if TYPE_CHECKING:
    from study.cli.bench_target import Variants
    from trainables.benchmark.measurement import MeasurementOutcome

    Outcomes = Mapping[str, MeasurementOutcome]  # by variant

WIDTH = 170
REPEATS = 5
NOT_TRACKED = "not tracked: only `run` writes to MLflow and the report"

console = Console(highlight=False, width=WIDTH, stderr=True)

Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE_OR_CHECKPOINT",
        help="a folder with an encoder (a stage's, or any that save_pretrained wrote), a stage in a bucket "
        "(s3://BUCKET/PREFIX/stages/NAME), the name of a published encoder "
        "(random weights: speed only), or a recipe that has run",
        parser=to_target,
    ),
]
VariantNames = Annotated[
    str | None,
    typer.Option(
        "--variants",
        metavar="A,B",
        help="serving variants; default: those of the recipe, or all built-in ones",
        parser=to_text,
    ),
]
Scenarios = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="LoadGen scenarios, of SingleStream, Server and Offline; default: all", parser=to_text
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="cpu, cuda, or auto: a GPU if this machine, or a recipe's cluster, has one",
        parser=to_text,
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="a few seconds per variant, once")]
Strict = Annotated[bool, typer.Option("--strict", help="600 s per scenario, MLPerf's rule")]
Repeats = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="fresh processes per variant; default: 5, with --quick 1")
]
Threads = Annotated[int, typer.Option(min=1, metavar="N", help="serving threads")]
BoundMs = Annotated[
    float | None,
    typer.Option(min=0.001, metavar="MS", help="bound on p99 latency in the Server scenario; default: 100"),
]
TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="NAME",
        help="task whose test sets a folder's encoder reads; `python -m study tasks` lists them",
        parser=to_text,
    ),
]
RecipeOfFolder = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="RECIPE",
        help="for a stage's folder: the recipe whose own tasks and variants it needs, as path/to/file.py:function",
        parser=to_path_or_uri,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="output folder or bucket of the recipe's run; default: runs/STUDY", parser=to_output
    ),
]
Sizes = Annotated[str | None, typer.Option(metavar="A,B", help="only these sizes of the recipe", parser=to_text)]


def bench(
    target: Target,
    variants: VariantNames = None,
    scenarios: Scenarios = None,
    device: Device = "auto",
    quick: Quick = False,
    strict: Strict = False,
    repeats: Repeats = None,
    threads: Threads = 1,
    bound_ms: BoundMs = None,
    task: TaskName = "micro_entailment",
    recipe: RecipeOfFolder = None,
    output: Output = None,
    data_root: DataRoot = None,
    sizes: Sizes = None,
) -> None:
    """Time serving variants: latency, throughput, memory and energy.

    The last line on standard output is a JSON document.
    """
    from study.errors import CannotRun
    from study.search.journal import TrialStoreBroken
    from trainables.store.bucket.client import StorageUnavailable
    from trainables.store.bucket.location import is_url
    from trainables.store.stage_store import Damaged

    use_data_root(data_root)
    started = time.perf_counter()
    try:
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"--device {device}: choose cpu, cuda or auto")
        settings = settings_of(quick=quick, strict=strict, scenarios=split_names(scenarios), bound_ms=bound_ms)
        request = Request(settings, split_names(variants), repeats or (1 if quick else REPEATS), threads, device)
        store, folder = fetched(target) if is_url(target) else (None, Path(target))
        from_recipe = not (folder.is_dir() or is_published(target))
        if from_recipe:
            refuse_missing_folder(target)
            if recipe is not None:
                raise ValueError(f"--recipe {recipe}: only for a stage's folder, and {target} is not one")
            results = _measure_recipe(target, request, sizes=split_names(sizes), output=output)
        else:
            measured = target if store is None else str(folder)
            results = {target: _measure_target(measured, request, task=task, recipe=recipe)}
    except (FileNotFoundError, ValueError, CannotRun, TrialStoreBroken, Damaged, StorageUnavailable) as error:
        refuse(redacted(str(error)))
    for name, outcomes in results.items():
        _show(name, outcomes)
    if from_recipe:
        Console(highlight=False, width=WIDTH).print(NOT_TRACKED, markup=False)
    by_availability = _by_availability(results)
    document = {
        "measured": target,
        "settings": "quick" if quick else "strict" if strict else "default",
        "device": _device_measured(results) or device,
        "threads": threads,
        **by_availability,
        "command": " ".join(["python -m study", *sys.argv[1:]]),
        "wall_s": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(document), flush=True)
    if not any(by_availability["results"].values()):
        raise typer.Exit(FAILED)


# --- measuring


def _measure_target(target: str, request: Request, *, task: str, recipe: str | None) -> Outcomes:
    """Measure a folder or a published encoder.

    Raises:
        FileNotFoundError, ValueError: as for `subject_of`, or the recipe or a variant is unknown.
    """
    from study.benchmarking.fresh import measure_fresh
    from study.recipes import load_recipe
    from trainables.benchmark.variants import VARIANTS

    study = None if recipe is None else load_recipe(recipe)
    planned: Variants = () if study is None else study.benchmark.variants
    variants = variants_of(request.variants, planned or tuple(VARIANTS))
    say = partial(console.print, markup=False)
    return measure_fresh(
        subject_of(target, request, task=task, study=study, say=say),
        variants,
        settings=request.settings,
        repeats=request.repeats,
        report=say,
    )


def _measure_recipe(
    recipe: str, request: Request, *, sizes: tuple[str, ...] | None, output: Path | None
) -> dict[str, Outcomes]:
    """Measure the best model of each size that has been searched, under Ray, stored beside the study's own measurements.

    The folder, or its bucket, is locked as by a run. A run in it would write to the journal that is read here, and both would
    time models on the same cores.

    Raises:
        ValueError: as for `study_of`.
        FileNotFoundError: no size has a finished search in the folder.
        CannotRun: another run is using the folder, or there is no cluster where RAY_ADDRESS says.
        TrialStoreBroken: the journal of its searches cannot be read.
    """
    from study.benchmarking.run import measure_size
    from study.benchmarking.stored import BestModel
    from study.cluster.connection import connected
    from study.console import Console as StudyConsole
    from study.console import Timeline
    from study.run.bucket.driving import kept_in_bucket
    from study.run.output_folder import locked
    from study.search.journal import JOURNAL, open_journal
    from study.search.sweep import load_result
    from trainables.data.hub import HUB_VARIABLES
    from trainables.store.bucket.client import storage_variables
    from trainables.store.bucket.location import shown, url_of

    if output is not None:
        read_bucket(output, "--output")
    study = study_of(recipe, request, sizes)
    folder = output or Path("runs") / study.name
    not_searched = FileNotFoundError(
        f"{shown(folder)}: no finished search of {study.name} in it; call `python -m study run` first, or give --output"
    )
    if not (folder / JOURNAL).exists():
        raise not_searched
    access = (*HUB_VARIABLES, *(storage_variables() if url_of(folder) is not None else ()))
    with locked(folder), kept_in_bucket(folder):
        storage = open_journal(folder)
        results = [(size, load_result(study, size, storage=storage)[0]) for size in study.sizes]
        best = [BestModel.of(study, size, result=result, output=folder) for size, result in results]
        models = [model for model in best if model is not None]
        if not models:
            raise not_searched
        study_console = StudyConsole(Timeline())
        with connected(None, access=access):
            return {model.size.name: measure_size(model, study_console) for model in models}


# --- output


def _show(name: str, outcomes: Outcomes) -> None:
    from study.benchmarking.tables import measurement_table, remarks
    from trainables.benchmark.measurement import Measured, outcome_to_json

    out = Console(highlight=False, width=WIDTH)
    out.print(measurement_table(name, outcomes))
    for variant, outcome in outcomes.items():
        if not isinstance(outcome, Measured):
            out.print(f"{variant}: {outcome_to_json(outcome)}", markup=False)
    for remark in remarks(outcomes):
        out.print(remark, markup=False)


def _by_availability(results: Mapping[str, Outcomes]) -> dict[str, dict[str, Any]]:
    """For the JSON document: figures under "results", and reasons under "unavailable"."""
    from trainables.benchmark.measurement import Measured, outcome_to_json

    documents: dict[str, dict[str, Any]] = {"results": {}, "unavailable": {}}
    for name, outcomes in results.items():
        for key in documents:
            documents[key][name] = {
                variant: outcome_to_json(outcome)
                for variant, outcome in outcomes.items()
                if isinstance(outcome, Measured) == (key == "results")
            }
    return documents


def _device_measured(results: Mapping[str, Outcomes]) -> str | None:
    from trainables.benchmark.measurement import Measured

    outcomes = [outcome for by_variant in results.values() for outcome in by_variant.values()]
    return next((outcome["context"]["device"] for outcome in outcomes if isinstance(outcome, Measured)), None)
