"""`python -m study bench`: times serving variants of a study's models, of a checkpoint, or of an architecture."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from study.cli.options import (
    FAILED,
    DataRoot,
    refuse,
    split_names,
    to_path,
    to_path_or_uri,
    to_text,
    use_data_root,
)
from study.redact import redacted

if TYPE_CHECKING:
    from study.spec import Study
    from trainables.benchmark.measurement import MeasurementOutcome
    from trainables.benchmark.settings import BenchmarkSettings
    from trainables.benchmark.subjects.fresh import Subject
    from trainables.benchmark.variants import Variant
    from trainables.stages.evaluate import Evaluate

    Outcomes = Mapping[str, MeasurementOutcome]  # by variant
    Variants = tuple[str | Variant, ...]

WIDTH = 170
REPEATS = 5
NOT_TRACKED = "not tracked: `run` is what fills MLflow and the report"

console = Console(highlight=False, width=WIDTH, stderr=True)

Target = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE_OR_CHECKPOINT",
        help="a folder with an encoder (a stage's, or any that save_pretrained wrote), the name of a published encoder "
        "(random weights: speed only), or a recipe that has run",
        parser=to_path_or_uri,
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
        help="task whose test sets a folder's encoder reads; `study tasks` lists them",
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
    typer.Option(metavar="DIR", help="output folder of the recipe's run; default: runs/STUDY", parser=to_path),
]
Sizes = Annotated[str | None, typer.Option(metavar="A,B", help="only these sizes of the recipe", parser=to_text)]


@dataclass(frozen=True)
class _Request:
    """What the options say for every kind of target."""

    settings: BenchmarkSettings
    variants: tuple[str, ...] | None
    repeats: int
    threads: int
    device: str


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
    from study.search.trial_store import TrialStoreBroken

    use_data_root(data_root)
    started = time.perf_counter()
    try:
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"--device {device}: choose cpu, cuda or auto")
        settings = _settings(quick=quick, strict=strict, scenarios=split_names(scenarios), bound_ms=bound_ms)
        request = _Request(settings, split_names(variants), repeats or (1 if quick else REPEATS), threads, device)
        from_recipe = not (Path(target).is_dir() or _is_published(target))
        if from_recipe:
            _refuse_missing_folder(target)
            if recipe is not None:
                raise ValueError(f"--recipe {recipe}: only for a stage's folder, and {target} is none")
            results = _measure_recipe(target, request, sizes=split_names(sizes), output=output)
        else:
            results = {target: _measure_target(target, request, task=task, recipe=recipe)}
    except (FileNotFoundError, ValueError, CannotRun, TrialStoreBroken) as error:
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


# --- what to measure


def _settings(
    *, quick: bool, strict: bool, scenarios: tuple[str, ...] | None, bound_ms: float | None
) -> BenchmarkSettings:
    """Raises ValueError: both `quick` and `strict`, or an unknown scenario."""
    from trainables.benchmark.settings import DEFAULT, QUICK, STRICT

    if quick and strict:
        raise ValueError("--quick and --strict exclude each other; choose one of them")
    settings = QUICK if quick else STRICT if strict else DEFAULT
    if scenarios is not None:
        names: Any = scenarios  # `replace` checks them
        settings = dataclasses.replace(settings, scenarios=names)
    return settings if bound_ms is None else dataclasses.replace(settings, bound_ms=bound_ms)


def _variants(names: tuple[str, ...] | None, planned: Variants) -> Variants:
    """The variants of these names, built in or a recipe's own; without names the planned ones.

    Raises:
        ValueError: a name is unknown.
    """
    from trainables.benchmark.variants import variant_named

    own = {variant.name: variant for variant in planned if not isinstance(variant, str)}
    chosen = planned if names is None else tuple(own.get(name, name) for name in dict.fromkeys(names))
    for variant in chosen:
        variant_named(variant)
    return chosen


def _device_here(name: str) -> str:
    """Raises ValueError: this machine has no such device."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here; choose cpu or auto")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _is_published(target: str) -> bool:
    from trainables.models.catalogue import CATALOGUE

    return target in CATALOGUE


def _refuse_missing_folder(target: str) -> None:
    """Raises FileNotFoundError: the target can only be a folder, and does not exist."""
    if ":" not in target and os.sep in target:
        raise FileNotFoundError(f"{target}: no such checkpoint folder")


def _subject(target: str, request: _Request, *, task: str, study: Study | None) -> Subject:
    """The subject in a folder or of a published encoder. `study` knows the classes of a recipe of the user's own.

    Raises:
        FileNotFoundError: the folder has no encoder in it.
        ValueError: the task is unknown, or this machine lacks the device.
    """
    from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
    from trainables.benchmark.subjects.plain import ArchitectureBenchmark, FolderBenchmark, encoder_folder
    from trainables.tasks.registry import task_class

    threads, settings, device = request.threads, request.settings, _device_here(request.device)
    if _is_published(target) and not Path(target).is_dir():
        return ArchitectureBenchmark(target, threads, settings, device)
    folder = Path(target)
    evaluation = _evaluation(folder, study)
    if evaluation is not None:
        return CheckpointBenchmark(str(folder.resolve().parent.parent), (evaluation,), threads, settings, device)
    encoder_folder(folder)
    if (cls := task_class(task)).mixed_only:
        raise ValueError(f"--task {task}: it has no test set; `python -m study tasks` lists the tasks")
    return FolderBenchmark(str(folder.resolve()), cls(), threads, settings, device)


def _evaluation(folder: Path, study: Study | None) -> Evaluate | None:
    """The evaluation that scored the folder's model; if it cannot be rebuilt, None and a message that says why."""
    from trainables.benchmark.subjects.rebuild import CannotRebuild, UnknownClass, classes_in, evaluation_of

    classes = {}
    if study is not None:
        chains = [study.chain(size, choice) for size in study.sizes for choice in study.space_of(size).defaults()]
        classes = classes_in((study, *chains))
    try:
        return evaluation_of(folder, classes)
    except UnknownClass as error:
        where = "the recipe that defines it" if study is None else "another recipe, which defines it"
        reason = f"{error}; name {where} with --recipe path/to/file.py:function"
    except CannotRebuild as error:
        reason = str(error)
    console.print(f"{folder.name} is measured as an encoder alone, without scores: {reason}", markup=False)
    return None


def _load(recipe: str) -> Study:
    from study.recipes import load_recipe

    return load_recipe(recipe)


def _study(recipe: str, request: _Request, sizes: tuple[str, ...] | None) -> Study:
    """Raises ValueError: there is no such recipe, or it lacks a size or variant."""
    from trainables.models.catalogue import CATALOGUE

    try:
        study = _load(recipe).replace(sizes=sizes)
    except ValueError as error:
        raise ValueError(f"{error}; published encoders are {', '.join(CATALOGUE)}") from error
    device: Any = request.device  # one of the three that a plan knows
    plan = dataclasses.replace(
        study.benchmark,
        variants=_variants(request.variants, study.benchmark.variants),
        settings=request.settings,
        repeats=request.repeats,
        threads=request.threads,
        device=device,
    )
    return dataclasses.replace(study, benchmark=plan)


# --- measuring


def _measure_target(target: str, request: _Request, *, task: str, recipe: str | None) -> Outcomes:
    """Measure a folder or a published encoder.

    Raises:
        FileNotFoundError, ValueError: as for `_subject`, or the recipe or a variant is unknown.
    """
    from study.benchmarking.fresh import measure_fresh
    from trainables.benchmark.variants import VARIANTS

    study = None if recipe is None else _load(recipe)
    planned: Variants = () if study is None else study.benchmark.variants
    variants = _variants(request.variants, planned or tuple(VARIANTS))
    return measure_fresh(
        _subject(target, request, task=task, study=study),
        variants,
        settings=request.settings,
        repeats=request.repeats,
        report=partial(console.print, markup=False),
    )


def _measure_recipe(
    recipe: str, request: _Request, *, sizes: tuple[str, ...] | None, output: Path | None
) -> dict[str, Outcomes]:
    """Measure the best model of each size that has been searched, under Ray, stored beside the study's own measurements.

    The folder is locked as by a run. A run in it would write to the journal that is read here, and both would time models on
    the same cores.

    Raises:
        ValueError: as for `_study`.
        FileNotFoundError: no size has a finished search in the folder.
        CannotRun: another run is using the folder, or there is no cluster where RAY_ADDRESS says.
        TrialStoreBroken: the journal of its searches cannot be read.
    """
    from study.benchmarking.run import measure_size
    from study.benchmarking.stored import BestModel
    from study.cluster.connection import connected
    from study.console import Console as StudyConsole
    from study.console import Timeline
    from study.run.output_folder import locked
    from study.search.sweep import load_result
    from study.search.trial_store import JOURNAL, open_journal

    study = _study(recipe, request, sizes)
    folder = output or Path("runs") / study.name
    not_searched = FileNotFoundError(
        f"{folder}: no finished search of {study.name} in it; `python -m study run` first, or give --output"
    )
    if not (folder / JOURNAL).exists():
        raise not_searched
    with locked(folder):
        storage = open_journal(folder)
        results = [(size, load_result(study, size, storage=storage)[0]) for size in study.sizes]
        best = [BestModel.of(study, size, result=result, output=folder) for size, result in results]
        models = [model for model in best if model is not None]
        if not models:
            raise not_searched
        study_console = StudyConsole(Timeline())
        with connected(None):
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
