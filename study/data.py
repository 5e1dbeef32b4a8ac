"""What a study reads, read once before Ray starts: mistakes in data files are found in seconds, not in the second hour."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from study.spec import Study
from trainables.tasks.base import Task


def tasks_of(study: Study) -> Iterator[Task]:
    """Every task of the study, each after what it is trained on first."""
    for task in (*study.space.intermediates, *study.targets):
        yield from task.prerequisites
        yield task


def check_data(study: Study, say: Callable[[str], None]) -> None:
    """Read every split that the study will read; say how many rows could not be used.

    Raises:
        DataError: some data set breaks a rule of its form.
    """
    for task in tasks_of(study):
        for split, language in task.splits():
            examples = task.examples(split, language)
            if rejected := task.rejected(split, language):
                say(f"{task.name}, {split} {language}: {rejected} of {len(examples) + rejected} rows cannot be used")
