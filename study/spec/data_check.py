"""What a study reads, read once before anything is trained: mistakes in data files are found now, not in the second hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from study.spec.study import Study
from trainables.tasks.base import Task
from trainables.tasks.contamination import Mark, mark
from trainables.tasks.mixture import Mixture
from trainables.tasks.published_task import forget_examples


def tasks_of(study: Study) -> Iterator[Task]:
    """Every task of the study once, each after what it is trained on first."""
    seen: set[Task] = set()
    for choice in (*study.space.intermediates, *study.targets):
        for task in choice.tasks if isinstance(choice, Mixture) else (*choice.prerequisites, choice):
            if task not in seen:
                seen.add(task)
                yield task


def check_data(study: Study, say: Callable[[str], None]) -> None:
    """Read every split that the study will read; say how many rows could not be used.

    Raises:
        DataError: some data set breaks a rule of its form.
    """
    for task in tasks_of(study):
        for split, language in task.splits():
            read = task.read(split, language)
            if rejected := read.rejected:
                first = rejected[0]
                say(
                    f"{task.name}, {split} {language}: {len(rejected)} of {len(read.examples) + len(rejected)} rows cannot be "
                    f"used, the first at {first.where}{'' if first.line is None else f':{first.line}'}: {first.rule}"
                )
    forget_examples()


def marks_of(study: Study) -> dict[str, dict[str, Mark]]:
    """By intermediate task and target: where a gain is that of the same data, or of a leak, and no transfer."""
    found: dict[str, dict[str, Mark]] = {}
    for intermediate in study.space.intermediates:
        for target in study.targets:
            if seen := mark(intermediate.reads, target.reads, target.scores_on):
                found.setdefault(intermediate.name, {})[target.name] = seen
    return found
