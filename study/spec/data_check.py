"""Reads all of a study's data before anything is trained, so that mistakes in data files show at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from study.spec.sizes import Size
from study.spec.study import Study
from study.spec.validation import trained_tasks
from trainables.data.examples import doubt
from trainables.data.source import DataError
from trainables.models.published_encoder import PublishedEncoder
from trainables.tasks.base import Task
from trainables.tasks.contamination import ContaminationFlag, contamination_flag, seen_data
from trainables.tasks.reading import forget_examples


def all_tasks(study: Study) -> Iterator[Task]:
    """Every task of the study once, each after its prerequisites."""
    seen: set[Task] = set()
    members = (task for arm in study.space.arms for task in arm.members)
    for last in (*members, *study.targets):
        for task in (*last.prerequisites, last):
            if task not in seen:
                seen.add(task)
                yield task


def check_data(study: Study, say: Callable[[str], None]) -> None:
    """Read every split that the study needs, and report how many rows cannot be used, or are used and hardly can be right.

    Raises:
        DataError: a data set breaks a rule of its format, or a training set does not fill a batch.
    """
    batches = {task.name: study.training_of(task, usual, rate=1.0).batch_size for task, usual in trained_tasks(study)}
    for task in all_tasks(study):
        for split, language in task.splits():
            read = task.read(split, language)
            # Heads that cut long texts may have more rows than examples: their batches are checked when they are trained.
            alone = split == "train" and len(task.training_languages) == 1 and task.head == "pair_classification"
            needed = batches.get(task.name, 0) if alone else 0
            if len(read.examples) < needed:
                raise DataError(
                    f"{task.name}, {split} {language}",
                    None,
                    f"{len(read.examples)} examples do not fill a batch of {needed}: give own_tuning a smaller batch_size",
                )
            doubts = [(example.id, reason) for example in read.examples if (reason := doubt(example))]
            if doubts:
                id, reason = doubts[0]
                say(
                    f"{task.name}, {split} {language}: {len(doubts)} of {len(read.examples)} examples are doubtful and kept; "
                    f"the first is {id!r}: {reason}"
                )
            if rejected := read.rejected:
                first = rejected[0]
                say(
                    f"{task.name}, {split} {language}: {len(rejected)} of {len(read.examples) + len(rejected)} rows cannot be "
                    f"used; the first is {first.where}{'' if first.line is None else f':{first.line}'}: {first.rule}"
                )
    forget_examples()


def contamination_flags(study: Study) -> dict[str, dict[str, ContaminationFlag]]:
    """By intermediate choice and target, why its gain does not count as transfer: the same data, or a leak."""
    flags: dict[str, dict[str, ContaminationFlag]] = {}
    for arm in study.space.arms:
        for target in study.targets:
            if flag := contamination_flag(arm.reads, target.reads, target.scores_on):
                flags.setdefault(arm.name, {})[target.name] = flag
    return flags


def arm_records(study: Study) -> dict[str, dict[str, list[str] | None]]:
    """By intermediate choice, its members, and its languages: those besides English of its labelled data; None if unknown."""
    trained = {arm.name: arm.trained_languages for arm in study.space.arms}
    return {
        arm.name: {
            "members": [task.name for task in arm.members],
            "languages": None if (languages := trained[arm.name]) is None else list(languages),
        }
        for arm in study.space.arms
    }


def seen_flags(study: Study) -> dict[str, dict[str, str]]:
    """By size and target, what of the target's data its published encoder was trained on before."""
    encoders = {size.name: size.encoder for size in study.sizes if isinstance(size.encoder, PublishedEncoder)}
    return _seen_by(encoders, study)


def seen_flags_of_arms(study: Study, size: Size) -> dict[str, dict[str, str]]:
    """By arm and target, what of the target's data the checkpoint that the arm starts from was trained on before."""
    encoders = {arm.name: arm.published_at(size) for arm in study.space_of(size).arms}
    return _seen_by({name: encoder for name, encoder in encoders.items() if encoder is not None}, study)


def _seen_by(encoders: Mapping[str, PublishedEncoder], study: Study) -> dict[str, dict[str, str]]:
    flags: dict[str, dict[str, str]] = {}
    for name, encoder in encoders.items():
        for target in study.targets:
            if seen := seen_data(frozenset(encoder.card.seen or ()), target):
                flags.setdefault(name, {})[target.name] = ", ".join(seen)
    return flags
