"""What `python -m study bench` measures, from its target and its options: a subject, or a study whose models it times."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from study.spec import Study
    from trainables.benchmark.settings import BenchmarkSettings
    from trainables.benchmark.subjects.fresh import Subject
    from trainables.benchmark.variants import Variant
    from trainables.stages.evaluate import Evaluate
    from trainables.store.stage_store import StageStore

    Variants = tuple[str | Variant, ...]


@dataclass(frozen=True)
class Request:
    """What the options say for every kind of target."""

    settings: BenchmarkSettings
    variants: tuple[str, ...] | None
    repeats: int
    threads: int
    device: str


def settings_of(
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


def variants_of(names: tuple[str, ...] | None, planned: Variants) -> Variants:
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


def is_published(target: str) -> bool:
    from trainables.models.catalogue import CATALOGUE

    return target in CATALOGUE


def fetched(url: str) -> tuple[StageStore, Path]:
    """A stage in a bucket, by its URL: its folder on this machine, which stays while the store lives.

    Raises:
        ValueError: the URL is none of a stage.
        Damaged: there is no such stage, or it has no weights.
        StorageUnavailable: the object store does not answer.
    """
    from trainables.store.bucket.location import work_folder
    from trainables.store.opening import open_store

    output, found, name = url.rstrip("/").partition("/stages/")
    if not found or "/" in name or not name:
        raise ValueError(
            f"{url}: give a stage, as s3://BUCKET/PREFIX/stages/NAME, or a recipe and --output s3://BUCKET/PREFIX"
        )
    store = open_store(work_folder(output))
    return store, store.local_named(name)


def refuse_missing_folder(target: str) -> None:
    """Raises FileNotFoundError: the target can only be a folder, and does not exist."""
    if ":" not in target and os.sep in target:
        raise FileNotFoundError(f"{target}: no such checkpoint folder")


def subject_of(target: str, request: Request, *, task: str, study: Study | None, say: Callable[[str], None]) -> Subject:
    """The subject in a folder or of a published encoder. `study` knows the classes of a recipe of the user's own.

    Raises:
        FileNotFoundError: the folder has no encoder in it.
        ValueError: the task is unknown, or this machine lacks the device.
    """
    from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
    from trainables.benchmark.subjects.plain import ArchitectureBenchmark, FolderBenchmark, encoder_folder
    from trainables.tasks.registry import task_class

    threads, settings, device = request.threads, request.settings, _device_here(request.device)
    if is_published(target) and not Path(target).is_dir():
        return ArchitectureBenchmark(target, threads, settings, device)
    folder = Path(target)
    evaluation = _evaluation(folder, study, say)
    if evaluation is not None:
        return CheckpointBenchmark(str(folder.resolve().parent.parent), (evaluation,), threads, settings, device)
    encoder_folder(folder)
    if (cls := task_class(task)).mixed_only:
        raise ValueError(f"--task {task}: it has no test set; `python -m study tasks` lists the tasks")
    return FolderBenchmark(str(folder.resolve()), cls(), threads, settings, device)


def _evaluation(folder: Path, study: Study | None, say: Callable[[str], None]) -> Evaluate | None:
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
    say(f"{folder.name} is measured as an encoder alone, without scores: {reason}")
    return None


def study_of(recipe: str, request: Request, sizes: tuple[str, ...] | None) -> Study:
    """Raises ValueError: there is no such recipe, or it lacks a size or variant."""
    from study.recipes import load_recipe
    from trainables.models.catalogue import CATALOGUE

    try:
        study = load_recipe(recipe).replace(sizes=sizes)
    except ValueError as error:
        raise ValueError(f"{error}; published encoders are {', '.join(CATALOGUE)}") from error
    device: Any = request.device  # one of the three that a plan knows
    plan = dataclasses.replace(
        study.benchmark,
        variants=variants_of(request.variants, study.benchmark.variants),
        settings=request.settings,
        repeats=request.repeats,
        threads=request.threads,
        device=device,
    )
    return dataclasses.replace(study, benchmark=plan)
