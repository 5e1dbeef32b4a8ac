"""The splits of a published task."""

from __future__ import annotations

from trainables.tasks.base import Split
from trainables.tasks.published_task import PublishedTask

HUB_SPLITS: dict[Split, str] = {"train": "train", "dev": "validation", "test": "test"}


def check_split(task: PublishedTask, split: Split, language: str) -> None:
    """Check that a task has a split: training and dev sets are English; targets have a test set in each language.

    Raises:
        ValueError: the task has no such split in that language.
    """
    tested = task.official_languages if task.role == "target" else ()
    if language not in (tested if split == "test" else ("en",)):
        raise ValueError(f"{task.name}: no {split} set in {language}")
