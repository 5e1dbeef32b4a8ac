"""Round trips of every task through its head: features lead back to texts, tags and answers."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.trainables.tasks.suite import LABELLED, MAX_LENGTH, Featurise, make, normal, texts_of, tokens_of
from trainables.data.examples import (
    RetrievalText,
    SpanExample,
    TaggingExample,
)
from trainables.heads import HEADS

pytestmark = pytest.mark.usefixtures("on_mini_root")


@pytest.mark.parametrize("name", LABELLED)
class TestFeaturesOfEveryTask:
    def test_rows_hold_their_texts(
        self, name: str, featurise: Featurise, suite_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        task = make(name)
        for a_set in featurise(task):
            assert {feature.example for feature in a_set.features} == set(range(len(a_set.examples)))
            for feature in a_set.features:
                assert feature.length <= MAX_LENGTH
                assert a_set.split != "train" or len(feature.rows) == HEADS[task.head].rows_per_feature(task)
                assert not any(suite_tokenizer.unk_token_id in row for row in feature.rows)
                example = a_set.examples[feature.example]
                if not isinstance(example, (SpanExample, TaggingExample)):
                    texts = texts_of(example)
                    if isinstance(example, RetrievalText) and example.gold is not None:
                        texts = [(example.text,)]
                    rows = [tokens_of(suite_tokenizer, row) for row in feature.rows]
                    assert rows == [normal(*row) for row in texts]

    def test_tags_lead_back_to_their_words(
        self, name: str, featurise: Featurise, suite_tokenizer: PreTrainedTokenizerFast
    ) -> None:
        task = make(name)
        for a_set in featurise(task) if task.head == "tagging" else []:
            tagged: list[list[tuple[str, str]]] = [[] for _ in a_set.examples]
            for feature in a_set.features:
                _, *starts = feature.layout
                for start, end in zip(starts, [*starts[1:], None], strict=True):
                    word = tokens_of(suite_tokenizer, feature.rows[0][start:end])
                    tagged[feature.example].append((word, task.labels[feature.target[start]]))
                supervised = [position for position, target in enumerate(feature.target) if target >= 0]
                assert supervised == starts  # only each word's first token
            for example, words in zip(a_set.examples, tagged, strict=True):
                assert isinstance(example, TaggingExample)
                assert words == [(normal(word), tag) for word, tag in zip(example.words, example.tags, strict=True)]

    def test_spans_lead_back_to_the_exact_answer(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        for a_set in featurise(task) if task.head == "span_extraction" else []:
            answered = set()
            for feature in a_set.features:
                example, offsets_L2 = a_set.examples[feature.example], np.array(feature.layout).reshape(-1, 2)
                assert isinstance(example, SpanExample)
                if feature.target != (0, 0):
                    start, end = offsets_L2[feature.target[0], 0], offsets_L2[feature.target[1], 1]
                    assert (example.context[start:end], start) == example.answers[0]
                    answered.add(feature.example)
            answerable = {
                row for row, text in enumerate(a_set.examples) if isinstance(text, SpanExample) and text.answers
            }
            assert answered == answerable

    def test_heads_have_the_shapes_of_their_prerequisites(self, name: str) -> None:
        task = make(name)
        for first in task.prerequisites:
            assert first.head == task.head
            assert first.trained
            states = [HEADS[named.head].module(8, named).state_dict() for named in (first, task)]
            shapes = [{key: value.shape for key, value in state.items()} for state in states]
            assert shapes[0] == shapes[1]
