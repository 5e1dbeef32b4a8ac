"""What makes a study invalid. Every check runs, so that a recipe's author sees all mistakes at once."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from study.spec.sizes import LadderEncoder, Size
from study.spec.space import NONE
from trainables.heads import HEADS
from trainables.hyperparameters import Training
from trainables.models.catalogue import config_of, layers_error
from trainables.models.families import why_padded
from trainables.models.published_encoder import PublishedEncoder
from trainables.tasks.base import Task
from trainables.tasks.contamination import TAUGHT
from trainables.tasks.mixture import Mixture
from trainables.tasks.registry import TASKS
from trainables.training.batching import Share

if TYPE_CHECKING:
    from study.spec.study import Study

# Names of studies, sizes, tasks and mixtures become folders, experiments, MLflow tags and filters, and parts of metric names.
STUDY_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
SIZE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
CHOICE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
LARGEST_SEED = 2**31 - 1  # seeds of repeats follow it, and numpy takes 32 bits
REPEATS = ".repeats"  # appended to a size's name for the repeats of its winners
LADDER_FIELDS = ("corpus", "vocabulary_size", "group_pairs")


class InvalidStudy(ValueError):
    """Everything wrong with a study, at once; each entry names the field and the rule."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def study_errors(study: Study) -> list[str]:
    """Every violated rule of the study, by field; empty for a valid one."""
    errors = [
        *_name_errors(study),
        *_role_errors(study),
        *study.space.errors(),
        *_search_errors(study),
        *_task_errors(study),
        *study.benchmark.errors(),
        *_cascade_errors(study),
        *_ladder_errors(study),
    ]
    for size in study.sizes:
        errors += _size_errors(study, size)
    return list(dict.fromkeys(errors))  # several arms can have the same task


def _cascade_errors(study: Study) -> Iterator[str]:
    """Latency is that of the first target's queries, so a cascade of it must be one of two models."""
    if study.benchmark.cascade is not None and study.targets and not HEADS[study.targets[0].head].cascades:
        yield (
            f"benchmark.cascade: {study.targets[0].name}, the first target, is timed, and {study.targets[0].head} does not "
            "cascade: put a target with labels, tags or spans first"
        )


def _name_errors(study: Study) -> Iterator[str]:
    if not STUDY_NAME.fullmatch(study.name):
        yield f"name {study.name!r}: at most 100 lower-case letters, digits, - and _ (it names folders and experiments)"
    if not study.sizes:
        yield "sizes: at least one"
    for size in study.sizes:
        if not SIZE_NAME.fullmatch(size.name):
            yield f"sizes: name {size.name!r}: at most 100 letters, digits, ., - and _ (it names folders and runs)"
        elif size.name.endswith(REPEATS):
            yield f"sizes: name {size.name!r}: may not end with {REPEATS}, which names a size's repeats"
    yield from (f"sizes: {name!r} appears twice" for name in _repeated(size.name for size in study.sizes))
    for choice in (*study.targets, *study.space.intermediates):
        if not CHOICE_NAME.fullmatch(choice.name):
            yield f"task name {choice.name!r}: at most 100 letters, digits, ., - and _ (it names folders and metrics)"
        elif choice.name == NONE:
            yield f"task name {NONE!r}: it stands for no intermediate task"


def _role_errors(study: Study) -> Iterator[str]:
    """Tasks that stand where their role does not belong."""
    if not study.targets or not study.targets[0].trained:
        yield "targets: the first must be a trained task, whose English dev score ranks the trials"
    yield from (f"targets: {task.name} is an intermediate task" for task in study.targets if task.role != "target")
    for arm in study.space.arms:
        yield from arm.errors(study)


def _search_errors(study: Study) -> Iterator[str]:
    """The seed, the budget, the repeats and ASHA's settings."""
    repeats = study.repeats
    if not 0 <= study.seed <= LARGEST_SEED:
        yield f"seed {study.seed}: must be from 0 to {LARGEST_SEED}"
    if repeats is not None and (repeats.top < 1 or repeats.seeds < 1):
        yield f"repeats {repeats}: at least one configuration and one further seed; None for no repeats"
    if study.seed in study.space.seeds:
        yield f"space.seeds {study.space.seeds}: {study.seed} is the study's own seed, which trials draw from as well"
    for size in study.sizes:
        trials, choices = study.trials if size.trials is None else size.trials, len(study.space_of(size).names)
        if trials < choices:
            yield f"trials {trials} of {size.name}: at least {choices}, since every intermediate choice runs once"
    if study.reduction_factor < 2:
        yield f"reduction_factor {study.reduction_factor}: at least 2; ASHA keeps one trial in so many at each rung"
    if study.first_by is not None:
        from trainables.estimators.registry import ESTIMATORS  # imports torch, which few studies need here

        untrained = [name for name, estimator in ESTIMATORS.items() if not estimator.reads_tuned]
        if study.first_by not in untrained:
            yield (
                f"first_by {study.first_by!r}: use {', '.join(untrained)}, or None; other estimators would train every "
                "intermediate task before the first trial (`rank` does that)"
            )
    if study.allocation not in ("equal", "front"):
        yield f"allocation {study.allocation!r}: must be 'equal' or 'front'"
    if study.allocation == "front" and study.first_by is not None:
        yield (
            f"first_by {study.first_by!r}: without effect where allocation is 'front', which starts the cheapest default cell "
            "first; leave one of the two out"
        )
    if study.first_rung < 1:
        yield f"first_rung {study.first_rung}: at least 1; ASHA compares trials that have finished a target"


def _task_errors(study: Study) -> Iterator[str]:
    """What the tasks read, how they are named, and how single ones are tuned."""
    members = {task.name: (task,) for task in study.targets} | {arm.name: arm.members for arm in study.space.arms}
    yield from (
        f"{name}: the data it reads are not pinned; pass it through trainables.tasks.pinning.pinned"
        for name, tasks in members.items()
        if not all(task.revision for task in tasks)
    )
    yield from (
        f"{name}: two tasks of one name; the scores of one would overwrite the other's"
        for name in _repeated(iter([*(task.name for task in study.targets), *study.space.names[1:]]))
    )
    tunable = {task.name for task, _ in trained_tasks(study)} | {task.name for task in study.targets}
    yield from (
        f"own_tuning: no task {own.task!r} in this study" for own in study.own_tuning if own.task not in tunable
    )


def _ladder_errors(study: Study) -> Iterator[str]:
    if any(isinstance(size.encoder, LadderEncoder) for size in study.sizes):
        missing = (field for field in LADDER_FIELDS if not getattr(study, field))
        yield from (f"{field}: required to pre-train the encoders of a ladder" for field in missing)


def _size_errors(study: Study, size: Size) -> Iterator[str]:
    if not (math.isfinite(size.rate_factor) and size.rate_factor > 0):
        yield f"sizes[{size.name}]: rate_factor {size.rate_factor} must be positive and finite"
    unknown = sorted({*(size.intermediates or ())} - {*study.space.names[1:]})
    yield from (f"sizes[{size.name}]: no intermediate task {name!r} in this study" for name in unknown)
    yield from _batch_errors(study, size)
    yield from _masking_errors(study, size)
    if size.resources.unpad and (reason := _obstacle_to_unpadding(study, size)) is not None:
        yield f"sizes[{size.name}]: unpad: {reason}"
    if isinstance(size.encoder, PublishedEncoder) and (error := layers_error(size.encoder)) is not None:
        yield f"sizes[{size.name}]: {error}"
    else:
        yield from _hidden_layer_errors(study, size)
    if isinstance(size.encoder, PublishedEncoder):
        yield from _card_errors(study, size.name, size.encoder)
    for arm in study.space_of(size).arms:
        if (encoder := arm.published_at(size)) is not None:
            yield from _card_errors(study, size.name, encoder)


def _card_errors(study: Study, size: str, encoder: PublishedEncoder) -> Iterator[str]:
    """What an encoder is said to have seen and no target could be marked for: most likely a misspelling."""
    tasks: tuple[Task | type[Task], ...] = (*TASKS.values(), *study.targets)
    known = set(TAUGHT).union(*(task.reads | task.scores_on for task in tasks))
    listed = ", ".join(sorted(known))
    yield from (
        f"sizes[{size}]: the card of {encoder.name} has seen {name!r}, which marks no task; there are {listed}"
        for name in encoder.card.seen or ()
        if name not in known
    )


def _hidden_layer_errors(study: Study, size: Size) -> Iterator[str]:
    """Targets that read a hidden layer which the size's encoder, where it is known, does not have."""
    reading = [task for task in study.targets if task.hidden_layer is not None]
    if not reading:
        return
    if isinstance(size.encoder, LadderEncoder):
        layers = size.encoder.shape.layers
    elif (config := config_of(size.encoder)) is not None:
        layers = config.num_hidden_layers
    else:
        return
    yield from (
        f"{task.name}: reads hidden layer {task.hidden_layer}, but {size.name} has {layers} layers"
        for task in reading
        if not 0 <= (task.hidden_layer or 0) <= layers
    )


def _batch_errors(study: Study, size: Size) -> Iterator[str]:
    """Batches that cannot be divided among the size's workers."""
    for name, batch_size, group in sorted(_batches(study, size)):
        for workers in size.resources.worker_counts:
            try:
                Share(0, workers, size.resources.micro_batch).accumulation(batch_size, group=group)
            except ValueError as error:
                yield f"sizes[{size.name}], {name}: {error}"


def _batches(study: Study, size: Size) -> set[tuple[str, int, int]]:
    """What the size trains, with the batch size and how many entries of a batch stay together."""
    batches = set()
    if isinstance(size.encoder, LadderEncoder):
        batches.add(("pretraining", size.encoder.pretraining.batch_size, 1))
    for task, usual in trained_tasks(study):
        group = 1 if isinstance(task, Mixture) else task.group
        batches.add((task.name, study.training_of(task, usual, rate=1.0).batch_size, group))
    return batches


def trained_tasks(study: Study) -> Iterator[tuple[Task | Mixture, Training]]:
    """Everything that the study fine-tunes on, prerequisites included, with how it is usually trained."""
    yield from ((task, study.intermediate_tuning) for arm in study.space.arms for task in arm.tuned)
    targets = (target for target in study.targets if target.trained)
    yield from ((task, study.tuning) for target in targets for task in (*target.prerequisites, target))


def _masking_errors(study: Study, size: Size) -> Iterator[str]:
    """Why the size cannot train a choice that has masked language modelling in it."""
    for arm in (arm for arm in study.space_of(size).arms if arm.masks):
        if isinstance(size.encoder, PublishedEncoder) and not size.family.mask_token:
            yield f"sizes[{size.name}], {arm.name}: {size.encoder.family} has no mask token"
        if size.resources.trim_vocabulary:
            yield (
                f"sizes[{size.name}], {arm.name}: trim_vocabulary is on, but masked language modelling trains every row "
                "of the table; None trims for the other tasks alone"
            )


def _obstacle_to_unpadding(study: Study, size: Size) -> str | None:
    """The first reason why some training of the size cannot run without padding."""
    device = "cuda" if size.resources.gpus else "cpu"
    trainings = [study.intermediate_tuning, study.tuning]
    trainings += [size.encoder.pretraining] if isinstance(size.encoder, LadderEncoder) else []
    reasons = (why_padded(size.family, device, training.precision) for training in trainings)
    return next((reason for reason in reasons if reason is not None), None)


def _repeated(names: Iterator[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)
