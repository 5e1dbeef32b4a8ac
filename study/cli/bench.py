"""`python -m study bench`: serving variants of a study's models, of a checkpoint, or of an architecture, side by side."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from study.redact import redacted

if TYPE_CHECKING:
    from study.spec import Study
    from trainables.benchmark.settings import BenchmarkSettings
    from trainables.benchmark.subjects.fresh import Subject

Results = dict[str, dict[str, Any] | str]  # by variant: what its repeats came to, or why it cannot run here
COLUMNS = 170
REPEATS = 5
NOT_TRACKED = "not tracked: `run` is what fills MLflow and the report"
REST_S, SCORING_S = 3600.0, 6 * 3600.0  # a process that takes longer to load and compile, or to score, hangs

console = Console(highlight=False, width=COLUMNS, stderr=True)

Measured = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE_OR_CHECKPOINT",
        help="a folder with an encoder in it (a stage's, or any that save_pretrained wrote), the name of a published encoder "
        "(random weights: speed only), or a recipe that has run",
    ),
]
Variants = Annotated[str | None, typer.Option(help="serving variants: fp32,bf16; all of them, or those of the recipe")]
Scenarios = Annotated[str | None, typer.Option(help="LoadGen scenarios out of SingleStream,Server,Offline")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: a GPU if this machine, or a recipe's cluster, has one")]
Quick = Annotated[bool, typer.Option("--quick", help="a few seconds a variant, once")]
Strict = Annotated[bool, typer.Option("--strict", help="600 s a scenario, as MLPerf rules")]
Repeats = Annotated[int | None, typer.Option(min=1, help="fresh processes a variant; 5, with --quick 1")]
Threads = Annotated[int, typer.Option(min=1, help="threads that serve")]
BoundMs = Annotated[float | None, typer.Option(min=0.001, help="Server's bound on p99; 100")]
TaskName = Annotated[
    str, typer.Option("--task", help="whose test sets a folder's encoder reads; `study tasks` lists them")
]
Output = Annotated[Path | None, typer.Option(help="a recipe's output folder; runs/<study>")]
DataRoot = Annotated[Path | None, typer.Option(help="folder of published data files")]
Sizes = Annotated[str | None, typer.Option(help="only these sizes of the recipe: a,b")]


def bench(
    measured: Measured,
    variants: Variants = None,
    scenarios: Scenarios = None,
    device: Device = "auto",
    quick: Quick = False,
    strict: Strict = False,
    repeats: Repeats = None,
    threads: Threads = 1,
    bound_ms: BoundMs = None,
    task: TaskName = "micro_entailment",
    output: Output = None,
    data_root: DataRoot = None,
    sizes: Sizes = None,
) -> None:
    """Measure latency, throughput, memory and energy by serving variant. The last line on standard output is JSON."""
    from study.cli.app import FAILED, refuse, use_data_root
    from study.cluster.connection import CannotRun
    from study.search.trial_store import LedgerBroken

    use_data_root(data_root)
    started = time.perf_counter()
    try:
        settings = _settings(quick=quick, strict=strict, scenarios=_names(scenarios), bound_ms=bound_ms)
        chosen = _variants(_names(variants))
        count = repeats or (1 if quick else REPEATS)
        if device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"--device {device}: cpu, cuda or auto")
        subject = _subject(measured, task, threads=threads, settings=settings, device=device)
        if subject is None:
            study = _study(
                measured, chosen, _names(sizes), settings=settings, repeats=count, threads=threads, device=device
            )
            found = _of_recipe(study, output or Path("runs") / study.name)
        else:
            found = {measured: _fresh(subject, chosen, count, settings)}
    except (FileNotFoundError, ValueError, CannotRun, LedgerBroken) as error:
        refuse(redacted(str(error)))
    for name, results in found.items():
        _show(name, results)
    if subject is None:
        Console(highlight=False, width=COLUMNS).print(NOT_TRACKED, markup=False)
    document = {
        "measured": measured,
        "settings": "quick" if quick else "strict" if strict else "default",
        "device": _measured_on(found) or device,
        "threads": threads,
        "results": {
            name: {variant: one for variant, one in results.items() if not isinstance(one, str)}
            for name, results in found.items()
        },
        "unavailable": {
            name: {variant: one for variant, one in results.items() if isinstance(one, str)}
            for name, results in found.items()
        },
        "command": " ".join(["python -m study", *sys.argv[1:]]),
        "wall_s": round(time.perf_counter() - started, 1),
    }
    print(json.dumps(document), flush=True)
    if all(isinstance(one, str) for results in found.values() for one in results.values()):
        raise typer.Exit(FAILED)


# --- what was asked for


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _settings(
    *, quick: bool, strict: bool, scenarios: tuple[str, ...] | None, bound_ms: float | None
) -> BenchmarkSettings:
    """Raises ValueError: both, or a scenario that there is not."""
    from trainables.benchmark.settings import DEFAULT, QUICK, STRICT

    if quick and strict:
        raise ValueError("--quick and --strict: one of them")
    settings = QUICK if quick else STRICT if strict else DEFAULT
    if scenarios is not None:
        asked: Any = scenarios
        settings = dataclasses.replace(settings, scenarios=asked)
    return settings if bound_ms is None else dataclasses.replace(settings, bound_ms=bound_ms)


def _variants(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Raises ValueError: a variant that there is not."""
    from trainables.benchmark.variants import variant_named

    for name in names or ():
        variant_named(name)
    return names


def _device_here(name: str) -> str:
    """Raises ValueError: there is none here."""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no GPU here; --device cpu, or auto")
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _subject(measured: str, task: str, *, threads: int, settings: BenchmarkSettings, device: str) -> Subject | None:
    """What is measured without a study, or None if it names a recipe.

    Raises:
        FileNotFoundError: a folder that is not there, or without an encoder in it.
        ValueError: no such task, or no such device on this machine.
    """
    from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
    from trainables.benchmark.subjects.plain import ArchitectureBenchmark, FolderBenchmark, encoder_folder
    from trainables.benchmark.subjects.rebuild import CannotRebuild, evaluation_of
    from trainables.models.catalogue import CATALOGUE
    from trainables.tasks.registry import TASKS

    folder = Path(measured)
    if folder.is_dir():
        try:
            evaluation = evaluation_of(folder)
        except CannotRebuild as error:
            console.print(f"{folder.name} is measured as an encoder alone: {error}")
            evaluation = None
        if evaluation is not None:
            root = str(folder.resolve().parent.parent)
            return CheckpointBenchmark(root, (evaluation,), threads, settings, _device_here(device))
        encoder_folder(folder)
        if task not in TASKS or TASKS[task].mixed_only:
            raise ValueError(f"--task {task}: no task of that name with a test set; `python -m study tasks` lists them")
        return FolderBenchmark(str(folder.resolve()), task, threads, settings, _device_here(device))
    if measured in CATALOGUE:
        return ArchitectureBenchmark(measured, threads, settings, _device_here(device))
    if ":" not in measured and os.sep in measured:
        raise FileNotFoundError(f"{measured}: no such checkpoint folder")
    return None


def _study(
    recipe: str,
    variants: tuple[str, ...] | None,
    sizes: tuple[str, ...] | None,
    *,
    settings: BenchmarkSettings,
    repeats: int,
    threads: int,
    device: str,
) -> Study:
    """Raises ValueError: no such recipe, or not with these sizes."""
    from study.recipes import load_recipe
    from trainables.models.catalogue import CATALOGUE

    try:
        study = load_recipe(recipe).replace(sizes=sizes)
    except ValueError as error:
        raise ValueError(f"{error}; published encoders are {', '.join(CATALOGUE)}") from error
    placed: Any = device
    plan = dataclasses.replace(
        study.benchmark,
        variants=variants or study.benchmark.variants,
        settings=settings,
        repeats=repeats,
        threads=threads,
        device=placed,
    )
    return dataclasses.replace(study, benchmark=plan)


# --- measuring


def _fresh(subject: Subject, variants: tuple[str, ...] | None, repeats: int, settings: BenchmarkSettings) -> Results:
    """Each variant in processes of its own, in turns; one that breaks or hangs is left out and said, and the others go on."""
    from trainables.benchmark.repeats import combined, interleaved
    from trainables.benchmark.subjects.fresh import MeasurementBroke, run_fresh
    from trainables.benchmark.variants import VARIANTS

    done: dict[str, list[dict[str, Any]]] = {}
    reasons: dict[str, str] = {}
    for turn, variant in interleaved(variants or tuple(VARIANTS), repeats):
        if variant in reasons:
            continue
        try:
            limit_s = settings.scenarios_s + REST_S + (SCORING_S if turn == 0 else 0.0)
            found = run_fresh(subject, variant, scored=turn == 0, limit_s=limit_s)
        except MeasurementBroke as error:
            found = f"failed: {error}"
        if isinstance(found, str):
            reasons[variant] = found
            console.print(f"{variant}: cannot be measured: {found}", markup=False)
            continue
        done.setdefault(variant, []).append(found)
        which = f", {turn + 1} of {repeats}" if repeats > 1 else ""
        console.print(
            f"{variant}{which}: p50 {_number(found['p50_ms'])} ms, {_number(found['throughput_sps'])} a second"
        )
    order = variants or tuple(VARIANTS)
    return {name: reasons[name] if name in reasons else combined(done[name]) for name in order}


def _of_recipe(study: Study, output: Path) -> dict[str, Results]:
    """The best model of each size that has been searched, under Ray, kept beside the study's own measurements.

    The folder is locked as by a run: one that searches in it would write to the journal that is read here, and time its
    benchmark beside this one.

    Raises:
        FileNotFoundError: no size has a finished search in the folder.
        CannotRun: another run is using the folder, or there is no cluster where RAY_ADDRESS says.
        LedgerBroken: the journal of its searches cannot be read.
    """
    from study.benchmarking.run import measure_size
    from study.cluster.connection import connected
    from study.console import Screen, Timeline
    from study.run.output_folder import locked
    from study.search.sweep import load_result
    from study.search.trial_store import JOURNAL, open_journal

    nothing = FileNotFoundError(
        f"{output}: no finished search of {study.name} in it; `python -m study run` first, or give --output"
    )
    if not (output / JOURNAL).exists():
        raise nothing
    with locked(output):
        storage = open_journal(output)
        best = {size.name: load_result(study, size, storage)[0].best for size in study.sizes}
        if not any(best.values()):
            raise nothing
        screen = Screen(Timeline())
        with connected(None):
            return {
                size.name: measure_size(study, size, trial, output, screen)
                for size in study.sizes
                if (trial := best.get(size.name)) is not None
            }


def _measured_on(found: dict[str, Results]) -> str | None:
    devices = [one["context"]["device"] for some in found.values() for one in some.values() if not isinstance(one, str)]
    return devices[0] if devices else None


# --- what a person reads


def _show(name: str, results: Results) -> None:
    measured = {variant: one for variant, one in results.items() if not isinstance(one, str)}
    table = Table(title=name, title_justify="left", caption_justify="left")
    for column in ("variant", "p50 ms", "p90 ms", "p99 ms", "Server, a second", "Offline, a second", "peak MB"):
        table.add_column(column)
    for column in ("cold start s", "J a sample", "score", "LoadGen"):
        table.add_column(column)
    for variant, one in measured.items():
        table.add_row(variant, *_cells(one))
    out = Console(highlight=False, width=COLUMNS)
    out.print(table)
    for variant, reason in results.items():
        if isinstance(reason, str):
            out.print(f"{variant}: {reason}", markup=False)
    for line in _remarks(measured):
        out.print(line, markup=False)


def _cells(one: dict[str, Any]) -> Sequence[str]:
    bound = one["server_bound_ms"]
    verdicts = [("" if valid else "IN") + "VALID" for valid in one["valid"].values()]
    score = one.get("test_score")
    agreement = one.get("agreement")
    return (
        _with_interval(one, "p50_ms"),
        _number(one["p90_ms"]),
        _number(one["p99_ms"]),
        "n/a" if bound is None else f"{_with_interval(one, 'server_qps')} (p99 ≤ {bound:g} ms)",
        "n/a"
        if one["batch_size"] is None
        else f"{_with_interval(one, 'throughput_sps')} ({one['batch_size']} a batch)",
        _number(one["peak_memory_mb"]),
        f"{one['cold_start_ms'] / 1000:.2f}",
        _number(one["energy_j_per_sample"]),
        f"{score:.2f}"
        if score is not None
        else "n/a"
        if agreement is None
        else f"cosine {agreement['cosine_mean']:.4f}",
        verdicts[0] if len(set(verdicts)) == 1 else "/".join(verdicts),
    )


def _with_interval(one: dict[str, Any], name: str) -> str:
    if one[name] is None or name not in one["intervals"]:
        return _number(one[name])
    low, high = one["intervals"][name]
    return f"{_number(one[name])} [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _remarks(measured: dict[str, dict[str, Any]]) -> Sequence[str]:
    """What the numbers rest on, and what puts them in doubt."""
    if not measured:
        return []
    first = next(iter(measured.values()))
    context = first["context"]
    processes = "one fresh process"
    if first["repeats"] > 1:
        processes = f"medians [{first['intervals_are']}] of {first['repeats']} fresh processes"
    lines = [
        f"{context['hardware']['summary']}; {context['torch_threads']} threads on {context['device']}; "
        f"{first['params_m']:.1f}M parameters, {first['params_body_m']:.1f}M without embeddings; "
        f"{processes} a variant",
        f"queries: {first['timed_task']}, {first['mean_pieces']:.1f} pieces on average; LoadGen scenarios, no MLPerf result",
    ]
    if first.get("weights") == "random":
        lines.append("random weights: speed and memory only, there is nothing to score")
    if first["tokenise_p50_ms"] is not None:
        lines.append(
            f"tokenising a query takes {_number(first['tokenise_p50_ms'])} ms, "
            f"text to answer {_number(first['end_to_end_p50_ms'])} ms ({first['variant']})"
        )
    for name, metric in (("p50 ms", "p50_ms"), ("samples a second", "throughput_sps"), ("pieces", "mean_pieces")):
        values = [f"{language} {_number(found.get(metric))}" for language, found in first["languages"].items()]
        lines.append(f"{name} by language ({first['variant']}): {', '.join(values)}")
    lines += [why for name, why in first["unavailable"].items() if name.startswith("languages/")]
    for variant, one in measured.items():
        if one["interference"]["suspected"]:
            lines.append(f"{variant}: disturbed: {one['interference']['text']}")
        if one["context"]["sweep_stopped"]:
            lines.append(f"{variant}: {one['context']['sweep_stopped']}")
        lines += [f"{variant}, {scenario}: {'; '.join(why)}" for scenario, why in one["problems"].items()]
    return lines
