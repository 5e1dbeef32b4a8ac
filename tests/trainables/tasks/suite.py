"""Helpers of the suites over every task: small tasks, their texts, and outputs of perfect and random models."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tests.trainables.heads.test_heads import perfect_logits
from trainables.data.examples import (
    BitextExample,
    ChoiceExample,
    Example,
    PairExample,
    RetrievalPair,
    RetrievalText,
    SpanExample,
    TaggingExample,
    TextExample,
)
from trainables.evaluation import ExampleSet
from trainables.heads import HEADS, Feature, Outputs
from trainables.metrics import METRICS, Counts
from trainables.stages.tokenise import scored_sets
from trainables.tasks.base import Split, Task
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.registry import TASKS

MAX_LENGTH = 256  # that of a LAReQA answer, the longest row of any task
VECTOR = 1024  # dimensions: two random unit vectors have a cosine of 0 with a standard deviation of 0.03
# Without Arabic and Hebrew, which attach "and" to the next name: only some vocabularies separate the two.
MICRO_LANGUAGES = tuple("en de fa hi ja ko th zh".split())
LABELLED = {name: cls for name, cls in TASKS.items() if not cls.mixed_only}
PUBLISHED = {name: cls for name, cls in TASKS.items() if issubclass(cls, PublishedTask)}

Featurise = Callable[[Task], list[ExampleSet]]


def make(name: str) -> Task:
    """The task with all its languages; a generated task is small and has only some of them."""
    if name in PUBLISHED:
        return PUBLISHED[name]()
    languages = tuple(language for language in MICRO_LANGUAGES if language in TASKS[name]().languages)
    return TASKS[name](languages_=languages, train_size=40, dev_size=20, test_size=20)  # type: ignore[call-arg]


def all_sets(task: Task) -> list[tuple[Split, str]]:
    """The training set and the scored sets of a task; for intermediate tasks only English dev is scored."""
    train: list[tuple[Split, str]] = [("train", "en")] if task.trained else []
    return [*train, *(named for named in scored_sets(task) if task.role == "target" or named == ("dev", "en"))]


def texts_of(example: Example) -> list[tuple[str, ...]]:
    """The texts of each row of an example's features."""
    match example:
        case PairExample():
            return [(example.first,) if example.second is None else (example.first, example.second)]
        case ChoiceExample():
            return [(example.context, choice) for choice in example.choices]
        case TaggingExample():
            return [example.words]
        case SpanExample():
            return [(example.question, example.context)]
        case BitextExample():
            return [(example.source,), (example.target,)]
        case RetrievalPair():
            return [(example.query,), (example.answer, *([example.context] if example.context else []))]
        case RetrievalText():
            return [(example.text, *([example.context] if example.context else []))]
        case TextExample():
            return [(example.text,)]


def is_candidate(example: Example) -> bool:
    return isinstance(example, RetrievalText) and example.gold is None


def features_of(task: Task, examples: Sequence[Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    return HEADS[task.head].features(examples, task=task, tokenizer=tokenizer, max_length=MAX_LENGTH)


def scored(sets: Sequence[ExampleSet]) -> list[ExampleSet]:
    return [examples for examples in sets if examples.split != "train"]


def outputs_of(sets: Sequence[ExampleSet], logits: Sequence[Sequence[np.ndarray]]) -> list[Outputs[Any]]:
    return [
        Outputs(a_set.split, a_set.language, a_set.examples, a_set.features, values)
        for a_set, values in zip(sets, logits, strict=True)
    ]


def perfect_outputs(task: Task, sets: Sequence[ExampleSet]) -> list[Outputs[Any]]:
    """The outputs of a model that is always right, for all sets of a task."""
    if task.head in ("bitext_mining", "dual_encoder"):
        vector = functools.cache(_unit_vector)
        return outputs_of(sets, [[_right_vectors(example, vector) for example in a_set.examples] for a_set in sets])
    return outputs_of(sets, [perfect_logits(task, a_set.features, len(a_set.examples)) for a_set in sets])


def _right_vectors(example: Example, vector: Callable[[str], np.ndarray]) -> np.ndarray:
    """A candidate's vector depends only on its id; a query's is the sum of those of its right candidates."""
    if isinstance(example, RetrievalPair):
        return np.stack([vector(example.answer)] * 2)
    assert isinstance(example, RetrievalText)
    names = [f"nothing for {example.id}"] if example.gold == () else example.gold or (example.id,)
    return np.stack([vector(name) for name in names]).sum(0, keepdims=True)


def _unit_vector(name: str) -> np.ndarray:
    vector = np.random.default_rng(list(name.encode())).normal(size=VECTOR).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def random_outputs(task: Task, sets: Sequence[ExampleSet], rng: np.random.Generator) -> list[Outputs[Any]]:
    """Identically distributed values: the outputs of a model that has learned nothing."""
    labels = len(task.labels)

    def shape(feature: Feature) -> tuple[int, int] | tuple[int, int, int]:
        match task.head:
            case "pair_classification":
                return 1, labels
            case "multiple_choice":
                return len(feature.rows), 1
            case "tagging":
                return 1, feature.length, labels
            case "span_extraction":
                return 1, feature.length, 2
            case _:
                return len(feature.rows), 64

    drawn = [[rng.normal(size=shape(feature)).astype(np.float32) for feature in a_set.features] for a_set in sets]
    return outputs_of(sets, drawn)


def counts_of(task: Task, outputs: Sequence[Outputs[Any]]) -> list[list[Counts]]:
    """For each set the sums of each scored example."""
    head, metric = HEADS[task.head], METRICS[task.metric]
    counts = []
    for of_set, predictions in zip(outputs, head.decode_all(outputs, task), strict=True):
        references = [head.reference(example, task) for example in of_set.examples]
        pairs = [pair for pair in zip(predictions, references, strict=True) if pair[1] is not None]
        counts.append([metric.count(*pair, of_set.language) for pair in pairs])
    return counts


def mean_score(task: Task, outputs: Sequence[Outputs[Any]]) -> float:
    """The mean over sets, the score that a study reports for a task."""
    totals = [sum(counts, Counts()) for counts in counts_of(task, outputs) if counts]
    return float(np.mean([METRICS[task.metric].value(total) for total in totals]))


def normal(*texts: str) -> str:
    """Texts after the tokenizer's normalisation, without white space."""
    return "".join("".join(unicodedata.normalize("NFKC", text).split()) for text in texts)


def tokens_of(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The tokens of a row, joined, without special tokens."""
    special = set(tokenizer.all_special_ids)
    return "".join(tokenizer.convert_ids_to_tokens([id for id in ids if id not in special]))


def paths_of(task: PublishedTask, split: Split | None = None) -> list[str]:
    """The files and folders of a split, or of all splits, including those of its prerequisites."""
    sources = [task.source_of(name, language) for name, language in task.splits() if split in (None, name)]
    own = [path for source in sources if source.files is not None for path in source.files.paths]
    return [*own, *(path for first in task.before for path in paths_of(first, split))]
