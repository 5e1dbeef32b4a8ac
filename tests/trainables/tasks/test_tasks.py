"""One suite over the examples of every task, published (on a miniature data root) or generated."""

from __future__ import annotations

from typing import Any

import pytest

from tests.trainables.tasks.suite import LABELLED, all_sets, make, paths_of, texts_of
from trainables.data.examples import (
    BitextExample,
    ChoiceExample,
    Example,
    PairExample,
    RetrievalPair,
    RetrievalText,
    SpanExample,
    TaggingExample,
)
from trainables.tasks.base import Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.registry import TASKS
from trainables.tasks.suites import SUITES

pytestmark = pytest.mark.usefixtures("on_mini_root")

# The name in its benchmark of the task that a stand-in replaces.
STANDS_FOR = {
    "xnli_from_cad_nli": "xnli",
    "xcopa_from_copa": "xcopa",
    "xquad_from_tydiqa": "xquad",
    "lareqa_from_tydiqa": "lareqa",
}


def content(example: Example) -> object:
    """What must not be in two splits: the paragraph if there are questions on it, otherwise all texts."""
    if isinstance(example, (SpanExample, RetrievalPair, RetrievalText)) and (paragraph := example.context):
        return paragraph
    return tuple(texts_of(example))


def family(example: Example) -> object:
    """What similar examples of a file share: a premise, a paragraph, a document."""
    match example:
        case PairExample():
            return example.first
        case TaggingExample():
            return example.id.rpartition("-")[0]
        case _:
            return content(example)


def test_every_task_of_the_benchmarks_is_here() -> None:
    targets = {name for name, cls in TASKS.items() if cls.role == "target"}
    assert targets >= {task.name for suite in SUITES.values() for task in suite.tasks}


@pytest.mark.parametrize("name", LABELLED)
class TestExamplesOfEveryTask:
    def test_languages_are_the_official_ones(self, name: str) -> None:
        task = TASKS[name]()
        assert task.name == name
        assert len(set(task.languages)) == len(task.languages) > 0
        if task.role == "intermediate":
            assert task.languages == ("en",)
        official_name = STANDS_FOR.get(name, name)
        listed = [entry for suite in SUITES.values() for entry in suite.tasks if entry.name == official_name]
        for official in listed[-1:]:  # XTREME-R's entry if both benchmarks have the task
            assert set(task.languages) == set(official.languages)

    def test_every_split_can_be_read_and_no_other(self, name: str) -> None:
        task = make(name)
        for split, language in all_sets(task):
            examples = task.examples(split, language)
            assert examples
            assert examples == task.examples(split, language)
            assert len({example.id for example in examples}) == len(examples)
        with pytest.raises(ValueError, match="xx"):
            task.examples("test", "xx")
        with pytest.raises(ValueError, match="train"):
            task.examples("train", "tr")
        if not task.trained:
            with pytest.raises(ValueError, match="train"):
                task.examples("train", "en")

    def test_examples_are_complete(self, name: str) -> None:
        task = make(name)
        types: dict[str, Any] = {
            "pair_classification": PairExample,
            "multiple_choice": ChoiceExample,
            "tagging": TaggingExample,
            "span_extraction": SpanExample,
            "bitext_retrieval": BitextExample,
            "bitext_mining": RetrievalText,
            "dual_encoder": (RetrievalPair, RetrievalText),
        }
        for split, language in all_sets(task):
            for example in task.examples(split, language):
                assert isinstance(example, types[task.head])
                assert example.id
                assert all(text.strip() for row in texts_of(example) for text in row), example
                match example:
                    case PairExample():
                        assert 0 <= example.label < len(task.labels)
                    case ChoiceExample():
                        assert 0 <= example.label < len(example.choices) == task.choices
                    case TaggingExample():
                        assert len(example.words) == len(example.tags)
                        assert set(example.tags) <= set(task.labels)
                    case SpanExample():
                        assert all(text.strip() for text, _ in example.answers)
                        assert example.answers or task.unanswerable

    def test_right_answers_are_among_the_candidates(self, name: str) -> None:
        task = make(name)
        for split in ("dev", "test"):
            texts = [
                example
                for name_of_split, language in all_sets(task)
                for example in task.examples(name_of_split, language)
                if name_of_split == split and isinstance(example, RetrievalText)
            ]
            queries = [text for text in texts if text.gold is not None]
            candidates = {text.id for text in texts if text.gold is None}
            assert {gold for query in queries for gold in query.gold or ()} <= candidates
            assert not queries or any(query.gold for query in queries)

    def test_splits_are_disjoint(self, name: str) -> None:
        task = make(name)
        splits: dict[Split, list[Example]] = {}
        for split, language in all_sets(task):
            splits.setdefault(split, []).extend(task.examples(split, language))
        for split, examples in splits.items():
            for other in set(splits) - {split}:
                shared = {content(example) for example in examples} & {content(example) for example in splits[other]}
                assert not shared, (split, other)
        paths = [set(paths_of(task, split)) if isinstance(task, PublishedTask) else set() for split in splits]
        if task.trained and paths[0] & paths[1]:
            # Train and dev come from one file: families stay on one side. (In separate files ids are line numbers.)
            for key in (family, lambda example: example.id):
                train, dev = ({key(example) for example in splits[side]} for side in ("train", "dev"))
                assert not train & dev
