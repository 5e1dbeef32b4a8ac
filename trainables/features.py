"""A task's features for a tokenizer, made once in a process."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from trainables.encoder import load_tokenizer
from trainables.kinds import KINDS, Feature
from trainables.tasks.base import Example, Split, Task


@lru_cache(maxsize=1024)
def features_of(
    task: Task, split: Split, language: str, tokenizer_folder: Path, max_length: int
) -> tuple[tuple[Example, ...], tuple[Feature, ...]]:
    """The split's examples and their features. `tokenizer_folder` is a finished stage's, whose content never changes."""
    tokenizer = _tokenizer(tokenizer_folder)
    kind = KINDS[task.kind]
    examples = tuple(task.examples(split, language))
    features = tuple(
        feature
        for index, example in enumerate(examples)
        for feature in kind.features(example, index, task=task, tokenizer=tokenizer, max_length=max_length)
    )
    return examples, features


_tokenizer = lru_cache(maxsize=8)(load_tokenizer)
