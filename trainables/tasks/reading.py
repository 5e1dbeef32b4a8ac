"""Reads a split of a published task: from files under the data root if all are there, otherwise from the hub."""

from __future__ import annotations

import random
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from trainables.data.examples import Example, ReadResult, RetrievalText
from trainables.data.hub import load_rows
from trainables.data.source import DataError, Source
from trainables.tasks.base import Split
from trainables.tasks.pinning import check_pinned, pinned_commit

if TYPE_CHECKING:
    from trainables.tasks.published_task import PublishedTask


def read_split(task: PublishedTask, split: Split, language: str, *, root: Path | None) -> ReadResult:
    """The sampled examples of a split, cached, with the rows that were rejected.

    Raises:
        ValueError: the task has no such split in that language.
        DataError: the data are missing, break a rule of their format, or are not those that the task is pinned to.
    """
    # A pool of a million candidates is too large to cache.
    read = _read.__wrapped__ if language in task.pools else _read
    return read(task, split, language, root)


def forget_examples() -> None:
    """Empty the cache: a driver needs no examples after it has checked them."""
    _read.cache_clear()


@lru_cache(maxsize=64)
def _read(task: PublishedTask, split: Split, language: str, root: Path | None) -> ReadResult:
    source = task.source_of(split, language)
    if task.data:
        check_pinned(task, root)
    if root is not None and source.files is not None and source.files.exist(root):
        read = source.files.read(*(root / path for path in source.files.paths))
    else:
        read = _from_hub(task, source, root)
    if not read.examples:
        raise DataError(task.name, None, f"the {split} split in {language} has no examples")
    return _sampled(task, split, read)


def _from_hub(task: PublishedTask, source: Source, root: Path | None) -> ReadResult:
    if source.hub is None:
        if source.files is None or root is None:
            raise DataError(task.name, None, "not on the hub; give its files with --data-root")
        raise DataError(source.files.absent(root)[0], None, f"no such file; {task.name} is read from it")
    read = ReadResult(())
    for hub in (source.hub, *source.more):
        name = f"{hub.dataset}{'' if hub.config is None else f':{hub.config}'} {hub.split}"
        revision = hub.revision or pinned_commit(task, hub.dataset)
        rows = load_rows(hub.dataset, hub.config, split=hub.split, revision=revision, row_limit=hub.row_limit)
        read += hub.read(enumerate(rows), name)
    return read


def _sampled(task: PublishedTask, split: Split, read: ReadResult) -> ReadResult:
    size = {"train": task.train_size, "dev": task.dev_size, "test": task.test_size}[split]
    if size is None or size >= len(read.examples):
        return read
    candidates = [row for row, example in enumerate(read.examples) if _is_candidate(example)]
    others = [row for row, example in enumerate(read.examples) if not _is_candidate(example)]
    # The seed leaves the language out, so that samples of parallel test sets are parallel.
    sample = random.Random(f"{task.sample_seed}|{split}").sample(others, min(size, len(others)))
    return ReadResult(tuple(read.examples[row] for row in sorted([*sample, *candidates])), read.rejected)


def _is_candidate(example: Example) -> bool:
    """Whether it is part of a search pool, which stays whole however few queries are sampled."""
    return isinstance(example, RetrievalText) and example.gold is None
